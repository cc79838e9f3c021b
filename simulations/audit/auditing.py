"""One audited training run: records with canaries in, releases out, attacks, bounds.

What is trained is the client as it is: its folder, its ledger, its DP-SGD, its egress, and the
server's admission behind it. Only the records are made for the purpose.

Shapes: `m` canaries.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from client_side.config import ClientConfig
from lm.adapter_shapes import Tensors
from lm.encoding import EncodedChat, encode_chat
from lm.loading import load_tokenizer
from protocol.accounting import composed_epsilon
from protocol.ledger import DpSgdEvent, ProxyKind
from simulations.audit.attacks import (
    generator_gradient_scores,
    likelihood_scores,
    reward_gradient_scores,
    reward_scores,
)
from simulations.audit.canaries import Canary
from simulations.audit.config import AuditConfig
from simulations.audit.judging import AttackScores, AuditRow, judge_scores
from simulations.audit.laying_out import audited_simulation, base_folder_of, lay_out_canaries
from simulations.audit.text_attacks import auxiliary_scores, bigram_scores, synthesize_text
from simulations.config import SimulateConfig

if TYPE_CHECKING:
    from server_side.admission import AdmittedRelease
    from server_side.progress import Progress

SCORES_FILE: Final = "scores.jsonl"
"""Kind, coin and scores of every canary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditResult:
    """What one audit found."""

    rows: tuple[AuditRow, ...]
    """Every attack, over every kind of canary."""
    events: tuple[DpSgdEvent, ...]
    """What the client paid for."""
    epsilon: float
    """Composed ε that the client claims for both releases."""
    delta: float
    """δ of all claims and bounds."""
    num_included: int
    """Canaries that were trained on."""
    confidence_level: float
    """Probability with which the bounds hold."""

    @property
    def exceeds_claim(self) -> bool:
        """Whether any bound is above its claim, all of them taken together."""
        return any(row.exceeds_claim for row in self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchanged:
    """What went over the wire, as far as an attacker who was the server knows it."""

    releases: Sequence[AdmittedRelease]
    """The client's releases."""
    starts: Mapping[ProxyKind, Tensors]
    """Public weights that it was sent to start from; empty without a warm start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """The attacked party's output and the canaries, as the attacks need them."""

    released: Mapping[ProxyKind, AdmittedRelease]
    """Both releases."""
    starts: Mapping[ProxyKind, Tensors]
    """Public weights that they were trained from; without those that started fresh."""
    chats: tuple[EncodedChat, ...]
    """The canaries, as training saw those that were in, (m,)."""
    base_folder: Path
    """Folder of the base model."""

    def claim(self, proxy: ProxyKind) -> float:
        """Return the ε that is claimed for a proxy; the reward proxy's includes the generator's."""
        privacy = self.released[proxy].certificate.privacy
        if proxy is ProxyKind.REWARD:
            return privacy.epsilon
        events = [event for event in privacy.events if event.proxy is proxy]
        return composed_epsilon(events, delta=privacy.delta)


def run_audit(
    config: AuditConfig,
    folder: Path,
    *,
    progress: Progress,
    run_exchange: Callable[[SimulateConfig, Path], Exchanged],
) -> AuditResult:
    """Train one client on records and canaries, attack what it releases, and bound ε.

    Args:
        config: The audit.
        folder: Where it is kept; of an earlier start, canaries and releases are used again.
        progress: Told about each step.
        run_exchange: Makes the exchange of a simulation in a folder, or finds it made.

    Returns:
        The bounds beside the claims.

    Raises:
        RewardDSError: The client could not release, or a setting does not fit.
        LmError: Records or a model cannot be used.
    """
    base_folder = base_folder_of(config.client_side.base_model, folder)
    canaries, coins = lay_out_canaries(config, folder=folder, base_folder=base_folder)
    exchanged = run_exchange(
        audited_simulation(config, folder=folder, base_folder=base_folder), folder / "exchange"
    )
    tokenizer = load_tokenizer(base_folder)
    records = config.client_side.records
    audited = Audited(
        released={item.proxy: item for item in exchanged.releases},
        starts=exchanged.starts,
        chats=tuple(
            encode_chat(
                tokenizer,
                instruction=records.instruction,
                prompt=canary.prompt,
                response=canary.response,
                max_prompt_tokens=records.max_prompt_tokens,
                max_response_tokens=records.max_response_tokens,
            )
            for canary in canaries
        ),
        base_folder=base_folder,
    )
    scores = [*attack_weights(audited, config=config.client_side, progress=progress)]
    if config.attack_text:
        scores += attack_text(
            audited, config=config, work_folder=folder / "text", progress=progress
        )
    _write_scores(folder / SCORES_FILE, canaries, coins, scores)
    privacy = audited.released[ProxyKind.REWARD].certificate.privacy
    return AuditResult(
        rows=judge_scores(
            scores,
            kinds=[canary.kind for canary in canaries],
            coins=coins,
            delta=privacy.delta,
            confidence_level=config.confidence_level,
        ),
        events=privacy.events,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        num_included=int(coins.sum()),
        confidence_level=config.confidence_level,
    )


def attack_weights(
    audited: Audited, *, config: ClientConfig, progress: Progress
) -> Iterator[AttackScores]:
    """Attack the released weights of both proxies.

    Args:
        audited: Releases and canaries.
        config: The client's settings, which the attacker knows.
        progress: Told about each attack.

    Yields:
        The scores of one attack after the other.
    """
    chats = audited.chats
    generator, reward = (audited.released[proxy] for proxy in ProxyKind)
    generator_start, reward_start = (audited.starts.get(proxy) for proxy in ProxyKind)
    attacks: tuple[tuple[ProxyKind, str, Callable[[], list[float]]], ...] = (
        (
            ProxyKind.GENERATOR,
            "likelihood",
            lambda: likelihood_scores(
                chats,
                base_folder=audited.base_folder,
                tensors=generator.weights,
                lora=generator.lora,
                start=generator_start,
            ),
        ),
        (
            ProxyKind.GENERATOR,
            "gradient",
            lambda: generator_gradient_scores(
                chats,
                base_folder=audited.base_folder,
                tensors=generator.weights,
                lora=generator.lora,
                start=generator_start,
                config=config.generator,
                on_progress=progress.advance,
            ),
        ),
        (
            ProxyKind.REWARD,
            "reward",
            lambda: reward_scores(
                chats,
                base_folder=audited.base_folder,
                tensors=reward.weights,
                lora=reward.lora,
                start=reward_start,
            ),
        ),
        (
            ProxyKind.REWARD,
            "gradient",
            lambda: reward_gradient_scores(
                chats,
                base_folder=audited.base_folder,
                tensors=reward.weights,
                lora=reward.lora,
                start=reward_start,
                config=config.reward_proxy,
                on_progress=progress.advance,
            ),
        ),
    )
    for proxy, name, attack in attacks:
        with _told(progress, f"{proxy.value} proxy attacked by {name}"):
            values = attack()
        yield AttackScores(
            release=proxy.value, attack=name, values=values, claimed_epsilon=audited.claim(proxy)
        )


def attack_text(
    audited: Audited, *, config: AuditConfig, work_folder: Path, progress: Progress
) -> Iterator[AttackScores]:
    """Attack synthetic text, written as the server writes it.

    Args:
        audited: Releases and canaries.
        config: How much text, and how the attacker tunes on it.
        work_folder: Where text models go.
        progress: Told about each step.

    Yields:
        The scores of one attack after the other.
    """
    from server_side.proxies import ClientProxies

    scoring = config.server_side.scoring
    generator = ClientProxies(
        audited.released[ProxyKind.GENERATOR],
        audited.released[ProxyKind.REWARD],
        base_folder=audited.base_folder,
        work_folder=work_folder,
        max_prompt_tokens=scoring.max_prompt_tokens,
        max_response_tokens=scoring.max_response_tokens,
        num_threads=config.server_side.num_threads,
    )
    with _told(progress, "synthetic text from the generator"):
        text = synthesize_text(
            generator,
            config=config.server_side.synthesis,
            seed=config.seed,
            on_progress=progress.advance,
        )
    claim = audited.claim(ProxyKind.GENERATOR)
    tokenizer = load_tokenizer(audited.base_folder)
    with _told(progress, "text attacked by bigrams"):
        synthetic = [
            encode_chat(
                tokenizer,
                instruction=sample.instruction,
                prompt=sample.prompt,
                response=sample.chosen,
            )
            for sample in text
        ]
        values = bigram_scores(chats=audited.chats, synthetic=synthetic)
    yield AttackScores(release="text", attack="bigrams", values=values, claimed_epsilon=claim)
    with _told(progress, "text attacked by a model tuned on it"):
        values = auxiliary_scores(
            audited.chats,
            text,
            base_folder=audited.base_folder,
            work_folder=work_folder / "auxiliary",
            config=config.server_side.finetuning,
            seed=config.seed,
            on_progress=progress.advance,
        )
    yield AttackScores(release="text", attack="tuned model", values=values, claimed_epsilon=claim)


def _write_scores(
    file: Path,
    canaries: Sequence[Canary],
    coins: npt.NDArray[np.bool_],
    scores: Sequence[AttackScores],
) -> None:
    lines = []
    for index, (canary, coin) in enumerate(zip(canaries, coins, strict=True)):
        found = {f"{item.release}: {item.attack}": float(item.values[index]) for item in scores}
        lines.append(
            json.dumps({"kind": canary.kind.value, "is_included": bool(coin), "scores": found})
        )
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@contextmanager
def _told(progress: Progress, name: str) -> Iterator[None]:
    started = time.monotonic()
    progress.start(name)
    yield
    progress.end(name, seconds=time.monotonic() - started, was_whole=False)
