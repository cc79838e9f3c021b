"""Whether the generators have learnt: how likely test records' responses are, before and after.

All that the server makes is sampled from the generators, so what they have not learnt no later
stage can add. ROUGE-L and rewards do not show it: a target gains in ROUGE-L by being tuned on
likely words, whatever the generator has learnt. The perplexity of what people wrote does show it,
and costs one pass over the public test records for each generator, and one for the base model.

A generator is compared with the base model that it was tuned from, which need not be the target,
and under its client's own instruction. The figures of two clients, or of a client and the target,
are comparable only where these are the same.

Admission can tell that weights are numbers, not what they compute. A generator whose likelihoods
are none is found here, before anything is sampled from it: its client is left out, and the others
go on while there are enough of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from lm.errors import ScoringError
from lm.tables import TextRow
from protocol.errors import ExchangeError
from server_side.config import EvaluationConfig
from server_side.measuring.intervals import (
    Interval,
    bootstrap_interval,
    judge,
    paired_difference,
    perplexity_of_sums,
)
from server_side.progress import shifted
from server_side.proxies import GeneratorProxy
from server_side.samples import OnProgress, StageResult

_LOGGER = logging.getLogger(__name__)
_Generator = TypeVar("_Generator", bound=GeneratorProxy)
GENERATORS_STAGE = "07_generators"
"""Under what name the stage stands in the run folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorFit:
    """How likely one client's generator finds the responses of n test records."""

    client_name: str
    """Public name of the client."""
    untuned_nll_sums: tuple[float, ...]
    """Negative log-likelihood of each response under the base model, in nats."""
    tuned_nll_sums: tuple[float, ...]
    """The same under the generator."""
    num_tokens: tuple[int, ...]
    """Tokens of each response, the end of turn included where it was not cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitQuality:
    """Perplexity of the responses: exp(mean negative log-likelihood of a token)."""

    untuned: Interval
    """Under the base model."""
    tuned: Interval
    """Under the generator."""
    difference: Interval
    """Tuned minus untuned, paired by record; below 0 where the generator has learnt."""

    @property
    def verdict(self) -> str:
        """`better` where the generator has learnt, `worse`, or `unclear`."""
        return judge(self.difference, is_lower_better=True)


def judge_generators(
    rows: Sequence[TextRow],
    *,
    generators: Sequence[GeneratorProxy],
    max_batch_tokens: int,
    on_progress: OnProgress,
) -> StageResult[GeneratorFit]:
    """Ask every generator, and the base model below it, how likely test records' responses are.

    Args:
        rows: Public test records.
        generators: One generator a client.
        max_batch_tokens: Tokens, padding included, that go through a model at once.
        on_progress: Told how far it is.

    Returns:
        One value a client, but none for one whose generator gives a likelihood that is no finite
        number.

    Raises:
        ScoringError: The base model gives such a likelihood.
    """
    pairs = [(row.prompt, row.response) for row in rows]
    total = (len({generator.untuned for generator in generators}) + len(generators)) * len(pairs)
    done = 0

    def ask(generator: GeneratorProxy, *, with_adapter: bool) -> list[tuple[float, int]]:
        nonlocal done
        losses = generator.token_losses(
            pairs,
            with_adapter=with_adapter,
            max_batch_tokens=max_batch_tokens,
            on_progress=shifted(on_progress, offset=done, total=total),
        )
        done += len(pairs)
        return losses

    of_base: dict[Hashable, list[tuple[float, int]]] = {}
    fits = []
    for generator in generators:
        if generator.untuned not in of_base:  # one base model and one instruction, as a rule
            of_base[generator.untuned] = ask(generator, with_adapter=False)
        try:
            tuned = ask(generator, with_adapter=True)
        except ScoringError:
            continue
        if not all(math.isfinite(nll) for nll, _ in tuned):
            continue
        fits.append(
            GeneratorFit(
                client_name=generator.client_name,
                untuned_nll_sums=tuple(nll for nll, _ in of_base[generator.untuned]),
                tuned_nll_sums=tuple(nll for nll, _ in tuned),
                num_tokens=tuple(num_tokens for _, num_tokens in tuned),
            )
        )
    counts = {"num_generators": len(generators), "num_left_out": len(generators) - len(fits)}
    return StageResult(values=tuple(fits), counts=counts)


def with_sound_generator(
    clients: Sequence[_Generator], fits: Sequence[GeneratorFit], *, min_clients: int
) -> tuple[_Generator, ...]:
    """Leave out the clients whose generators compute no finite likelihoods, and say so.

    Args:
        clients: One generator a client.
        fits: What `judge_generators` returned for them.
        min_clients: How many must be left.

    Returns:
        The others, in the same order.

    Raises:
        ExchangeError: Fewer than `min_clients` are left.
    """
    sound = {fit.client_name for fit in fits}
    broken = [client.client_name for client in clients if client.client_name not in sound]
    for name in broken:
        _LOGGER.warning(
            "Client %s is left out with both of its proxies: its generator gives public test "
            "responses no finite likelihood, so its weights are broken.",
            name,
        )
    if len(sound) < max(1, min_clients):
        raise ExchangeError(
            f"Expected generators that work from at least {max(1, min_clients)} clients "
            f"(server_side.min_clients), found {len(sound)}: the weights of {', '.join(broken)} "
            "are broken. Lower min_clients, or have these clients train again, in another run."
        )
    return tuple(client for client in clients if client.client_name in sound)


def fit_qualities(
    fits: Sequence[GeneratorFit], *, config: EvaluationConfig, seed: int
) -> dict[str, FitQuality]:
    """Sum up what each generator has learnt.

    Args:
        fits: What `judge_generators` returned.
        config: Number of resamples and confidence level.
        seed: Seed of the bootstrap.

    Returns:
        By client, the perplexities with their intervals.
    """
    qualities = {}
    for fit in fits:
        untuned, tuned = (
            np.array(list(zip(sums, fit.num_tokens, strict=True)), dtype=np.float64)
            for sums in (fit.untuned_nll_sums, fit.tuned_nll_sums)
        )
        alone, paired = (
            partial(
                function,
                formula=perplexity_of_sums,
                num_resamples=config.num_resamples,
                confidence_level=config.confidence_level,
                seed=seed,
            )
            for function in (bootstrap_interval, paired_difference)
        )
        qualities[fit.client_name] = FitQuality(
            untuned=alone(untuned),
            tuned=alone(tuned),
            difference=paired(first=untuned, second=tuned),
        )
    return qualities


def warn_of_idle_generators(qualities: Mapping[str, FitQuality]) -> None:
    """Say which generators have not learnt anything that the test records show."""
    for client_name, quality in qualities.items():
        if quality.verdict != "better":
            _LOGGER.warning(
                "The generator of %s finds public test responses %s than its base model does "
                "(perplexity %.1f, base %.1f): expect little from what it samples. More steps, "
                "larger batches or more of the budget may help; so may test records that are like "
                "the client's.",
                client_name,
                "not clearly likelier" if quality.verdict == "unclear" else "no likelier",
                quality.tuned.mean,
                quality.untuned.mean,
            )
