"""One request for a proxy on its way to a release: check, pay, train, hand to egress.

Stages 1 to 5 in their order. Which checks come before which is what the privacy claim rests on:
the request against the client's own settings before any record is read, the cost on disk before
any gradient, and egress last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from client_side.budget import BudgetLedger, BudgetPolicy, Reservation
from client_side.config import ClientConfig, DpTrainingConfig
from client_side.egress import load_signing_key, release
from client_side.folder import ClientFolder
from protocol.accounting import PlannedRun, calibrate
from protocol.artifacts import digest_code
from protocol.errors import RefusalCode, RewardDSError
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from protocol.messages import ReleaseReply, TrainingRequest

if TYPE_CHECKING:
    # Imported where they are used: torch takes seconds, and a refusal should not wait for it.
    from client_side.dp_sgd import DpSgdPlan
    from client_side.generator import TrainedProxy
    from client_side.randomness import Randomness
    from client_side.records import PrivateRecord

_LOGGER = logging.getLogger(__name__)

_STATUS_SECONDS = 0.5
"""Least time between two notes to the operator."""


class RequestRefusedError(RewardDSError):
    """The client declines; the code is all that the server is told."""

    def __init__(self, code: RefusalCode, reason: str) -> None:
        """Keep the code for the server and the reason for the client's own log.

        Args:
            code: What the server is told.
            reason: What the operator is told; settings and names only.
        """
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseCodec:
    """How a release becomes bytes for the store; handed in by the app, which knows the wire."""

    encode: Callable[[ReleaseReply], bytes]
    """Turn a reply into bytes."""
    decode: Callable[[bytes], ReleaseReply]
    """Turn them back."""


@dataclass(frozen=True, kw_only=True)
class ProxyTraining:
    """One request on its way to a release."""

    request: TrainingRequest
    """What the server asks for."""
    proxy: ProxyKind
    """Which proxy the action is for."""
    folder: ClientFolder
    """The client's folder."""
    config: ClientConfig
    """The client's settings."""

    def run(self, ledger: BudgetLedger, codec: ReleaseCodec) -> ReleaseReply:
        """Check, pay, train, release and store.

        Args:
            ledger: What was spent on these records, ever.
            codec: How a release becomes bytes for the store.

        Returns:
            The release.

        Raises:
            RequestRefusedError: The client's own settings do not allow it.
            RewardDSError: Records, budget or egress do not allow it.

        Privacy:
            Output leaves the client. What pays is on disk before the first gradient; the records
            themselves reach nothing but the trainer.
        """
        from client_side.records import load_records
        from lm.adapters import expected_adapter_shapes

        base_folder, digest = self._check_request()
        self.tell("records")
        records_config = replace(self.config.records, path=self.folder.records_path(self.config))
        records = load_records(records_config)
        unit_keys = frozenset(record.unit_id for record in records)
        reservation = self._reserve(ledger, unit_keys)
        statement = ledger.statement(
            unit=reservation.unit, unit_keys=unit_keys, delta=self._delta()
        )
        self._check_price(statement)
        self.tell("training", epsilon=statement.epsilon)
        # Privacy: noted before the first gradient; one event pays for one training.
        ledger.start(reservation.reservation_id, proxy=self.proxy)
        trained = self._train(records, base_folder, reservation, ledger, codec, statement.epsilon)
        reply = release(
            tensors=trained.tensors,
            expected_shapes=expected_adapter_shapes(
                base_folder, trained.lora, has_reward_head=self.proxy is ProxyKind.REWARD
            ),
            proxy=self.proxy,
            ledger=statement,
            client_name=self.config.name,
            run_id=self.request.run_id,
            declared_size=self.config.records.declared_size,
            lora=trained.lora,
            base_model_digest=digest,
            code_digest=code_digest(),
            instruction=self.config.records.instruction,
            max_prompt_tokens=self.config.records.max_prompt_tokens,
            max_response_tokens=self.config.records.max_response_tokens,
            signing_key=load_signing_key(self.folder.path),
        )
        # Kept before it is sent: a lost answer is then given again for free.
        ledger.record_release(
            reservation.reservation_id,
            proxy=self.proxy,
            request_digest=self.request.digest(),
            release_bytes=codec.encode(reply),
        )
        return reply

    def tell(
        self, phase: str, *, done: int = 0, total: int = 0, epsilon: float | None = None
    ) -> None:
        """Note for the operator how far this is."""
        status = {
            "proxy": self.proxy.value,
            "phase": phase,
            "done": done,
            "total": total,
            "epsilon": epsilon,
        }
        self.folder.write_status(status)

    def _check_request(self) -> tuple[Path, str]:
        """Compare the request with the client's own settings, before any record is read."""
        request, budget = self.request, self.config.budget
        if request.proxy is not self.proxy:
            raise RequestRefusedError(
                RefusalCode.MALFORMED,
                f"Expected a request for the {self.proxy.value} proxy, found one for the other.",
            )
        limits = {
            "target_epsilon": (request.target_epsilon, budget.target_epsilon),
            "target_delta": (request.target_delta, budget.target_delta),
            "steps": (request.steps, self._training_config(self.proxy).steps),
        }
        for name, (asked, own) in limits.items():
            if asked is not None and asked > own:
                raise RequestRefusedError(
                    RefusalCode.POLICY,
                    f"Expected {name} <= {own:g}, this client's own setting, found a request for "
                    f"{asked:g}. Nothing was trained.",
                )
        base_folder, digest = resolve_base(self.config)
        if digest != request.base_model_digest:
            raise RequestRefusedError(
                RefusalCode.BASE_MODEL,
                f"Expected a request for the base model {digest[:16]}…, found one for "
                f"{request.base_model_digest[:16]}…. Agree on one base model.",
            )
        return base_folder, digest

    def _reserve(self, ledger: BudgetLedger, unit_keys: frozenset[str]) -> Reservation:
        """Pay for what is about to be trained, or find what was paid for already."""
        budget, asked = self.config.budget, self.request.target_epsilon
        cap = budget.lifetime_epsilon_cap
        earlier = ledger.find_reservation(self.request.run_id, unit_keys=unit_keys)
        if self.proxy is ProxyKind.GENERATOR:
            events = self._plan_both()
        else:
            if earlier is None or not _released_generator(ledger, earlier):
                # Privacy: after a generator of this run, that one of these very records is missing
                # tells that a record came or went, so it must look like any other failure.
                is_private = self._was_released_of_any_records(ledger)
                raise RequestRefusedError(
                    RefusalCode.INTERNAL if is_private else RefusalCode.ORDER,
                    "Expected the generator proxy of this run to be released first, from these "
                    "very records, found that it was not. Ask for it first, and keep the records "
                    "as they are during a run.",
                )
            if self.proxy not in earlier.started:
                return earlier
            # An earlier training was cut off. Its cost stays charged; this one is paid anew.
            events = tuple(event for event in earlier.events if event.proxy is self.proxy)
        return ledger.reserve(
            run_id=self.request.run_id,
            request_digest=self.request.digest(),
            events=events,
            unit=PrivacyUnit(self.config.records.privacy_unit.value),
            unit_keys=unit_keys,
            policy=BudgetPolicy(
                # Privacy: a request's own limit counts before anything is charged; otherwise
                # requests that must be refused would use up what the operator allows.
                lifetime_epsilon_cap=cap if asked is None else min(cap, asked),
                delta=self._delta(),
                unsafe_non_private=budget.unsafe_non_private,
            ),
            reproducible_noise=budget.noise_seed is not None,
        )

    def _was_released_of_any_records(self, ledger: BudgetLedger) -> bool:
        return any(
            item.run_id == self.request.run_id and ProxyKind.GENERATOR in item.released
            for item in ledger.reservations()
        )

    def _plan_both(self) -> tuple[DpSgdEvent, ...]:
        """Find the noise with which both proxies together cost what was asked for."""
        budget, size = self.config.budget, self.config.records.declared_size
        steps = {kind: self._training_config(kind).steps for kind in ProxyKind}
        if self.request.steps is not None:
            steps[self.proxy] = self.request.steps
        ratios = {ProxyKind.GENERATOR: 1.0, ProxyKind.REWARD: budget.reward_noise_ratio}
        runs = [
            PlannedRun(
                proxy=kind,
                sample_rate=self._training_config(kind).expected_batch_size / size,
                steps=steps[kind],
                noise_ratio=ratios[kind],
            )
            for kind in ProxyKind
        ]
        if budget.unsafe_non_private:
            return tuple(
                DpSgdEvent(
                    proxy=run.proxy,
                    noise_multiplier=0.0,
                    sample_rate=run.sample_rate,
                    steps=run.steps,
                )
                for run in runs
            )
        asked = self.request.target_epsilon
        target = budget.target_epsilon if asked is None else asked
        return calibrate(runs, target_epsilon=target, target_delta=self._delta()).events

    def _check_price(self, statement: PrivacyLedger) -> None:
        asked = self.request.target_epsilon
        if asked is not None and statement.epsilon > asked:
            raise RequestRefusedError(
                RefusalCode.POLICY,
                f"Expected a lifetime cost within the requested target_epsilon={asked:g}, found "
                f"{statement.epsilon:.4g}. Ask for more, or use other records.",
            )

    def _train(
        self,
        records: tuple[PrivateRecord, ...],
        base_folder: Path,
        reservation: Reservation,
        ledger: BudgetLedger,
        codec: ReleaseCodec,
        epsilon: float,
    ) -> TrainedProxy:
        from client_side.generator import train_generator
        from client_side.reward_proxy import train_reward_proxy

        (event,) = (event for event in reservation.events if event.proxy is self.proxy)
        plan = self._plan(event)
        on_training = self._progress("training", epsilon)
        if self.proxy is ProxyKind.GENERATOR:
            return train_generator(
                records,
                base_folder=base_folder,
                config=replace(self.config.generator, steps=event.steps),
                records_config=self.config.records,
                plan=plan,
                randomness=self._randomness(),
                on_progress=on_training,
            )
        generator = _released_generator(ledger, reservation)
        assert generator is not None, "checked when the cost was reserved"
        released = codec.decode(generator).release
        return train_reward_proxy(
            records,
            base_folder=base_folder,
            # Privacy: as released, bytes and all; whatever else is known of it may not be used.
            generator_tensors=dict(released.weights.tensors),
            generator_lora=released.certificate.lora,
            work_folder=self.folder.work_folder,
            num_threads=self.config.num_threads,
            config=replace(self.config.reward_proxy, steps=event.steps),
            preferences_config=self.config.preferences,
            records_config=self.config.records,
            plan=plan,
            randomness=self._randomness(),
            on_sampling=self._progress("sampling", epsilon),
            on_progress=on_training,
        )

    def _plan(self, event: DpSgdEvent) -> DpSgdPlan:
        from client_side.dp_sgd import DpSgdPlan

        config = self._training_config(self.proxy)
        return DpSgdPlan(
            noise_multiplier=event.noise_multiplier,
            sample_rate=event.sample_rate,
            expected_batch_size=config.expected_batch_size,
            steps=event.steps,
            max_grad_norm=config.max_grad_norm,
        )

    def _randomness(self) -> Randomness:
        from client_side.randomness import Randomness

        seed = self.config.budget.noise_seed
        # Privacy: the two trainings never share noise, not even where it is reproducible.
        offset = list(ProxyKind).index(self.proxy)
        return Randomness(seed=None if seed is None else 2 * seed + offset)

    def _progress(self, phase: str, epsilon: float) -> Callable[[int, int], None]:
        last = time.monotonic()

        def note(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last >= _STATUS_SECONDS:
                last = time.monotonic()
                self.tell(phase, done=done, total=total, epsilon=epsilon)

        return note

    def _training_config(self, proxy: ProxyKind) -> DpTrainingConfig:
        match proxy:
            case ProxyKind.GENERATOR:
                return self.config.generator
            case ProxyKind.REWARD:
                return self.config.reward_proxy

    def _delta(self) -> float:
        asked, own = self.request.target_delta, self.config.budget.target_delta
        return own if asked is None else asked


def code_digest() -> str:
    """Return the digest of the sources that can touch records, as the certificate states it."""
    root = Path(__file__).resolve().parent.parent
    return digest_code([root / name for name in ("client_side", "lm", "protocol")])


def _released_generator(ledger: BudgetLedger, reservation: Reservation) -> bytes | None:
    """Find the stored generator release of a reservation's run and records."""
    for item in reversed(ledger.reservations()):
        is_same_data = item.data_key == reservation.data_key
        is_same_run = item.run_id == reservation.run_id
        if is_same_data and is_same_run and ProxyKind.GENERATOR in item.released:
            return ledger.find_release(item.request_digest)
    return None


def resolve_base(config: ClientConfig) -> tuple[Path, str]:
    """Return the folder of the client's base model and its digest."""
    from lm.loading import base_model_digest, resolve_base_model

    folder = resolve_base_model(config.base_model)
    return folder, base_model_digest(folder)
