"""What a sweep would have cost on real records, and what choosing a point privately costs.

In a simulation every run keeps a ledger of its own. On real records one ledger would hold them all:
whoever looks at every point of a sweep has seen the releases of every run, and pays for their
composition. Two ways are cheaper: tune on public stand-in data and run once, or let a random number
of runs happen and look at the best one alone.

Reference:
    Papernot and Steinke (2022), "Hyperparameter Tuning with Renyi Differential Privacy",
    arXiv 2110.03620, theorems 2 and 6, as `dp_accounting` computes them. The number of runs is
    drawn from a truncated negative binomial distribution; shape 1 is the geometric one, shape 0
    the logarithmic one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import dp_accounting
from dp_accounting.rdp import RdpAccountant

from protocol.accounting import MIN_NOISE_MULTIPLIER, composed_epsilon
from protocol.checks import check_open_fraction
from protocol.errors import ConfigurationError
from protocol.ledger import DpSgdEvent
from simulations.sweeps.results import PointResult


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepCost:
    """What one record would pay for a whole sweep."""

    num_runs: int
    """Points that paid, done or not."""
    num_unknown: int
    """Points that began and left no ledger: what they spent before they failed is not known."""
    num_exchanges: int
    """Distinct releases among them: points that share theirs pay once."""
    num_non_private: int
    """Exchanges without noise, and runs without a ledger, which no finite ε covers."""
    epsilon: float
    """Composed ε of the exchanges with noise."""
    epsilon_alone: float
    """ε of the dearest of them by itself."""
    delta: float
    """δ of all figures."""


def sweep_cost(points: Sequence[PointResult]) -> SweepCost:
    """Compose the exchanges of a sweep as if all had read the same records.

    Args:
        points: All points that were begun: one that failed after its exchange has paid for it.

    Returns:
        The composition, of each run the dearest client's events.
    """
    paid = [item for item in points if item.ledgers or item.metrics]
    # Privacy: every release counts that left a ledger, whatever became of its run.
    exchanges = {item.releases: item for item in paid if item.ledgers}
    # An arm that reads records without a ledger has no price that anybody could state.
    num_unpriced = sum(not item.ledgers for item in paid)
    envelopes = [item.envelope for item in exchanges.values()]
    noisy = [
        events
        for events in envelopes
        if all(event.noise_multiplier >= MIN_NOISE_MULTIPLIER for event in events)
    ]
    delta = max(
        (ledger["delta"] for item in exchanges.values() for ledger in item.ledgers.values()),
        default=1e-5,
    )
    return SweepCost(
        num_runs=len(paid),
        num_unknown=sum(item.may_have_paid for item in points if item not in paid),
        num_exchanges=len(exchanges) + num_unpriced,
        num_non_private=len(envelopes) - len(noisy) + num_unpriced,
        epsilon=composed_epsilon([event for events in noisy for event in events], delta=delta),
        epsilon_alone=max((composed_epsilon(events, delta=delta) for events in noisy), default=0.0),
        delta=delta,
    )


def dominating(candidates: Iterable[Sequence[DpSgdEvent]]) -> tuple[DpSgdEvent, ...]:
    """Return events that cost at least what those of any candidate do.

    Raises:
        ConfigurationError: Candidates have different kinds of events.
    """
    listed = [tuple(events) for events in candidates]
    if len({tuple(event.proxy for event in events) for events in listed}) != 1:
        raise ConfigurationError(
            "Expected candidates that release the same proxies, got different ones. Select among "
            "settings of one procedure."
        )
    return tuple(
        DpSgdEvent(
            proxy=same[0].proxy,
            noise_multiplier=min(event.noise_multiplier for event in same),
            sample_rate=max(event.sample_rate for event in same),
            steps=max(event.steps for event in same),
        )
        for same in zip(*listed, strict=True)
    )


def selection_epsilon(
    candidates: Iterable[Sequence[DpSgdEvent]], *, mean_runs: float, shape: float, delta: float
) -> float:
    """Compute ε of the best of a random number of runs, the others never shown.

    Args:
        candidates: What one run of each candidate costs. Every run draws one of them evenly, so it
            costs at most what the event costs that dominates them all.
        mean_runs: Mean number of runs, above 1.
        shape: η of the truncated negative binomial distribution of their number, at least 0.
        delta: δ of the claim.

    Returns:
        An upper bound on ε, by Rényi differential privacy; infinite where a run has no noise.

    Raises:
        ConfigurationError: A value is out of range, or candidates have different kinds of events.

    Reference:
        Papernot and Steinke (2022), theorem 2 for a shape above -1. The bound grows with the Rényi
        divergences of one run, so a dominating event may stand for each candidate's.

    >>> from protocol.ledger import ProxyKind
    >>> event = DpSgdEvent(proxy=ProxyKind.REWARD, noise_multiplier=1.0, sample_rate=0.05, steps=10)
    >>> one = selection_epsilon([[event]], mean_runs=1.0001, shape=1.0, delta=1e-5)
    >>> ten = selection_epsilon([[event]], mean_runs=10.0, shape=1.0, delta=1e-5)
    >>> 1 < ten / one < 4
    True
    """
    check_open_fraction(delta=delta)
    if not mean_runs > 1 or not shape >= 0 or not math.isfinite(mean_runs + shape):
        raise ConfigurationError(
            f"Expected selection.mean_runs > 1 and selection.shape >= 0, got {mean_runs} and "
            f"{shape}. Change them."
        )
    run = dominating(candidates)
    if any(event.noise_multiplier < MIN_NOISE_MULTIPLIER for event in run):
        return math.inf
    accountant = RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    inner = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(
                    event.sample_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
                ),
                event.steps,
            )
            for event in run
        ]
    )
    with _no_word_of_orders():
        accountant.compose(dp_accounting.dp_event.RepeatAndSelectDpEvent(inner, mean_runs, shape))
        return float(accountant.get_epsilon(delta))


@contextmanager
def _no_word_of_orders() -> Iterator[None]:
    """Keep the library from warning of each order it leaves out, which costs tightness only."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
