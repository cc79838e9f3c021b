"""One request for a proxy on its way to a release: check, pay, train, hand to egress.

Stages 1 to 5 in their order. Which checks come before which is what the privacy claim rests on:
the request against the client's own settings before any record is read, the cost on disk before
any gradient, and egress last. A training that was paid for and cut off goes on from its saved state
(docs/decisions/0008).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from client_side.budget import BudgetLedger, Reservation
from client_side.config import ClientConfig
from client_side.egress import load_signing_key, release
from client_side.folder import ClientFolder
from client_side.paying import check_noise, check_price, event_of, pay_for, released_generator
from client_side.public_prompts import check_public_prompts
from client_side.released_generator import ReleasedGenerator
from client_side.request_checks import (
    asked_delta,
    check_base_unchanged,
    check_fit,
    check_request,
    training_settings,
)
from client_side.running_code import check_code, code_digest
from client_side.training_state import (
    Binding,
    TrainingState,
    TrainingStateError,
    TrainingStateFile,
    bind_training,
)
from client_side.warm_start import AdmittedStart, admit_start
from client_side.working_files import discard_merged_generators
from protocol.artifacts import AdapterWeights
from protocol.ledger import ProxyKind
from protocol.messages import ReleaseReply, TrainingRequest

if TYPE_CHECKING:
    # Imported where they are used: torch takes seconds, and a refusal should not wait for it.
    from client_side.generator import TrainedProxy
    from client_side.randomness import Randomness
    from client_side.records import PrivateRecord

_LOGGER = logging.getLogger(__name__)

_STATUS_SECONDS = 0.5
"""Least time between two notes to the operator."""


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
    requested_by: str = ""
    """Who asks, as this node's operator named the server; for the ledger."""
    start: AdapterWeights | None = None
    """Starting weights that came with the request, unchecked; None where none came."""

    def run(self, ledger: BudgetLedger, codec: ReleaseCodec) -> ReleaseReply:
        """Check, pay, train, release and store.

        Args:
            ledger: What was spent on these records, ever.
            codec: How a release becomes bytes for the store.

        Returns:
            The release.

        Raises:
            RequestRefusedError: The client's own settings do not allow it.
            RewardDSError: Records, budget or egress do not allow it, or what is running is not what
                lies on the disk.

        Privacy:
            Output leaves the client. What pays is on disk before the first gradient; the records
            themselves reach nothing but the trainer.
        """
        from client_side.records import load_records
        from lm.adapter_shapes import expected_adapter_shapes

        check_code()
        base_folder, digest = check_request(
            self.request, proxy=self.proxy, config=self.config, has_start=self.start is not None
        )
        # Privacy: before any record is read, or paid for; a text that did not fit would fail by
        # itself.
        check_fit(base_folder, self.config)
        start = None
        if self.start is not None:
            # Privacy: fixed here, before any record is read.
            start = admit_start(
                self.start, proxy=self.proxy, config=self.config, base_folder=base_folder
            )
        self.tell("records")
        records_config = replace(self.config.records, path=self.folder.records_path(self.config))
        records = load_records(records_config)
        # Before anything is paid for: the file is needed only by the second of the two trainings.
        check_public_prompts(
            self.folder.public_prompts_path(self.config), records_path=records_config.path
        )
        unit_keys = frozenset(record.unit_id for record in records)
        # Privacy: either the very training that was paid for and cut off goes on, or a new one is
        # paid for; the state file tells them apart.
        cut_off = self._find_cut_off(ledger, unit_keys, digest)
        reservation, state = cut_off or (
            pay_for(
                self.request,
                config=self.config,
                ledger=ledger,
                unit_keys=unit_keys,
                requested_by=self.requested_by,
            ),
            TrainingState(),
        )
        check_noise(reservation, self.config)
        statement = ledger.statement(
            unit=reservation.unit,
            unit_keys=unit_keys,
            delta=asked_delta(self.request, config=self.config),
        )
        check_price(statement, self.request)
        binding = self._bind(ledger, reservation, digest)
        if cut_off is None:
            # Before it counts as begun, so that whatever was begun has a state to go on from.
            self._state_file().save(state, binding)
            # Privacy: noted before the first gradient; one event pays for one training.
            ledger.start(
                reservation.reservation_id,
                proxy=self.proxy,
                request_digest=self.request.digest(),
            )
        trained = self._train(
            records,
            base_folder,
            reservation,
            ledger,
            codec,
            statement.epsilon,
            state,
            binding,
            start,
        )
        # The certificate names both, and hours may have gone by.
        check_code()
        check_base_unchanged(base_folder, digest)
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
            start_digest=None if start is None else start.digest,
        )
        # Kept before it is sent: a lost answer is then given again for free.
        ledger.record_release(
            reservation.reservation_id,
            proxy=self.proxy,
            request_digest=self.request.digest(),
            release_bytes=codec.encode(reply),
        )
        return reply

    def discard_state(self) -> None:
        """Remove the saved state and what else only this training needed; its release is stored."""
        self._state_file().discard()
        if self.proxy is ProxyKind.REWARD:
            discard_merged_generators(self.folder.work_folder)

    def tell(
        self, phase: str, *, done: int = 0, total: int = 0, epsilon: float | None = None
    ) -> None:
        """Note for the operator how far this is.

        Args:
            phase: `records`, `sampling`, `training` or `released`.
            done: Responses that are sampled, or steps that are done.
            total: Of how many; 0 in a phase that is not counted.
            epsilon: Lifetime cost of these records, as certified; None before it is paid for.

        Privacy:
            The count of sampled responses follows from private draws; see
            `ClientFolder.write_status`.
        """
        status = {
            "proxy": self.proxy.value,
            "phase": phase,
            "done": done,
            "total": total,
            "epsilon": epsilon,
        }
        self.folder.write_status(status)

    def _find_cut_off(
        self, ledger: BudgetLedger, unit_keys: frozenset[str], base_model_digest: str
    ) -> tuple[Reservation, TrainingState] | None:
        """Find a training that was paid for, begun and not released, if it can go on."""
        reservation = ledger.find_reservation(
            self.request.run_id, unit_keys=unit_keys, unfinished=self.proxy
        )
        if reservation is None:
            return None
        run = f"The {self.proxy.value} training of run {self.request.run_id}"
        binding = self._bind(ledger, reservation, base_model_digest)
        try:
            state = self._state_file().load(binding)
        except TrainingStateError as error:
            _LOGGER.warning("%s was cut off and must be paid for anew. %s", run, error)
            return None
        if not state.num_steps:
            # Under the preferences of today, so that they alone fit from now on.
            self._state_file().save(state, binding)
        steps = event_of(reservation, self.proxy).steps
        _LOGGER.info("%s, paid for, goes on after step %d of %d.", run, state.num_steps, steps)
        return reservation, state

    def _bind(
        self, ledger: BudgetLedger, reservation: Reservation, base_model_digest: str
    ) -> Binding:
        is_reward = self.proxy is ProxyKind.REWARD
        return bind_training(
            reservation_id=reservation.reservation_id,
            proxy=self.proxy,
            event=event_of(reservation, self.proxy),
            config=self.config,
            base_model_digest=base_model_digest,
            code_digest=code_digest(),
            generator_release=released_generator(ledger, reservation) if is_reward else None,
            start_digest=self.request.start_digest,
        )

    def _state_file(self) -> TrainingStateFile:
        return TrainingStateFile(self.folder.work_folder, self.request.digest())

    def _train(
        self,
        records: tuple[PrivateRecord, ...],
        base_folder: Path,
        reservation: Reservation,
        ledger: BudgetLedger,
        codec: ReleaseCodec,
        epsilon: float,
        state: TrainingState,
        binding: Binding,
        start: AdmittedStart | None,
    ) -> TrainedProxy:
        from client_side.dp_sgd import DpSgdPlan
        from client_side.generator import train_generator
        from client_side.reward_proxy import train_reward_proxy

        # Privacy: noise, rate and steps as they were paid for, whatever the settings say by now.
        event = event_of(reservation, self.proxy)
        settings = training_settings(self.config, self.proxy)
        plan = DpSgdPlan(
            noise_multiplier=event.noise_multiplier,
            sample_rate=event.sample_rate,
            expected_batch_size=settings.expected_batch_size,
            steps=event.steps,
            max_grad_norm=settings.max_grad_norm,
        )
        self.tell("training", done=state.num_steps, total=plan.steps, epsilon=epsilon)
        file = self._state_file()
        on_training = self._progress("training", epsilon)
        if self.proxy is ProxyKind.GENERATOR:
            return train_generator(
                records,
                base_folder=base_folder,
                config=replace(self.config.generator, steps=event.steps),
                records_config=self.config.records,
                plan=plan,
                randomness=self._randomness(),
                start=start,
                state=state,
                save=lambda after: file.save(after, binding),
                on_progress=on_training,
            )
        generator = released_generator(ledger, reservation)
        assert generator is not None, "checked when the cost was reserved"
        return train_reward_proxy(
            records,
            base_folder=base_folder,
            # Privacy: as released, bytes and all; whatever else is known of it may not be used.
            generator=ReleasedGenerator(
                release=codec.decode(generator).release,
                public_key=load_signing_key(self.folder.path).public_key().public_bytes_raw(),
            ),
            work_folder=self.folder.work_folder,
            num_threads=self.config.num_threads,
            config=replace(self.config.reward_proxy, steps=event.steps),
            preferences_config=replace(
                self.config.preferences,
                public_prompts_path=self.folder.public_prompts_path(self.config),
            ),
            records_config=self.config.records,
            plan=plan,
            randomness=self._randomness(),
            start=start,
            state=state,
            save=lambda after: file.save(after, binding),
            on_sampling=self._progress("sampling", epsilon),
            on_progress=on_training,
        )

    def _randomness(self) -> Randomness:
        from client_side.randomness import Purpose, Randomness

        # Privacy: the two trainings never share noise, not even where it is reproducible.
        is_reward = self.proxy is ProxyKind.REWARD
        purpose = Purpose.REWARD if is_reward else Purpose.GENERATOR
        return Randomness(seed=self.config.budget.noise_seed).child(purpose)

    def _progress(self, phase: str, epsilon: float) -> Callable[[int, int], None]:
        last = time.monotonic()

        def note(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last >= _STATUS_SECONDS:
                last = time.monotonic()
                self.tell(phase, done=done, total=total, epsilon=epsilon)

        return note
