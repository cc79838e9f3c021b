"""What is really guaranteed to a record where each of its preference pairs is counted as a unit.

The published procedure makes several pairs of every record, clips and samples each pair on its own,
and states the epsilon of one pair. Adding or removing a record adds or removes all its pairs. In a
step the number of them that are drawn is Binomial(pairs per record, sample rate), so the
sensitivity is random: a mixture of Gaussians, whose privacy loss composes like any other.

No part of what runs: the figures stand beside ours in `docs/threat_model.md`.

Covers: an upper bound that is tight up to rounding, if every step's iterate is released and each
pair's gradient has the full clip in one direction.
Does not cover: the rest of that procedure. It shuffles where its accounting assumes Poisson
sampling, which is assumed here too, and half of its pairs are written by a model that was trained
on the same records without noise, for which no finite epsilon exists.

Reference:
    Ganesh (2024), arXiv 2401.10294, theorem for Poisson sampling; mixtures of Gaussians after
    Choquette-Choo et al. (2024), arXiv 2310.15526, as implemented in dp_accounting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import dp_accounting
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from protocol.accounting import MIN_DELTA, composed_epsilon
from protocol.checks import check_count, check_not_negative, check_open_fraction, check_positive
from protocol.errors import ConfigurationError
from protocol.ledger import MAX_STEPS, DpSgdEvent, ProxyKind

PUBLISHED_TASKS: Final = {"medical": 3364, "financial": 1693, "code": 1497}
"""Training records of each published task."""

_RELATION: Final = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE

# The orders that Opacus uses. Others would move the noise by about a hundredth.
_RDP_ORDERS: Final = (*(1 + tenths / 10 for tenths in range(1, 100)), *range(12, 64))

_MIN_TARGET: Final = 0.5
_MAX_TARGET: Final = 50.0
_LEAST_NOISE: Final = 0.1
_NOISE_TOLERANCE: Final = 1e-5
_MAX_STEP_CELLS: Final = 2e4
"""Cells for one step's losses; the grid is pessimistic for every number, and memory is bounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairProcedure:
    """A training in which every preference pair is a unit of its own.

    Raises:
        ConfigurationError: A value is out of range or they do not fit together.
    """

    num_records: int
    """Records, each of which gives `pairs_per_record` pairs."""
    pairs_per_record: int = 5
    """Preference pairs made from one record."""
    batch_size: int = 128
    """Mean number of pairs in a step."""
    num_epochs: int = 3
    """Passes over all pairs."""
    target_epsilon: float = 8.0
    """Epsilon that is stated, for one pair."""
    delta: float = 1e-5
    """Delta of every figure."""

    def __post_init__(self) -> None:
        """Check ranges, and that a batch is no larger than all pairs."""
        check_count(at_least=1, at_most=10**9, records=self.num_records)
        check_count(at_least=1, at_most=100, pairs_per_record=self.pairs_per_record)
        check_count(at_least=1, at_most=10**12, batch_size=self.batch_size)
        check_count(at_least=1, at_most=10**6, epochs=self.num_epochs)
        check_positive(target_epsilon=self.target_epsilon)
        if not _MIN_TARGET <= self.target_epsilon <= _MAX_TARGET:
            raise ConfigurationError(
                f"Expected {_MIN_TARGET} <= target_epsilon <= {_MAX_TARGET}, got target_epsilon="
                f"{self.target_epsilon:g}. Rényi accounting of these orders says nothing beyond."
            )
        check_open_fraction(delta=self.delta)
        if self.delta < MIN_DELTA:
            raise ConfigurationError(
                f"Expected delta >= {MIN_DELTA}, got delta={self.delta}. Raise it."
            )
        if self.batch_size > self.num_pairs:
            raise ConfigurationError(
                f"Expected batch_size <= {self.num_pairs} pairs, got batch_size={self.batch_size}. "
                f"Lower it or state more records."
            )
        check_count(at_least=1, at_most=MAX_STEPS, steps=self.steps)

    @property
    def num_pairs(self) -> int:
        """Pairs of all records."""
        return self.num_records * self.pairs_per_record

    @property
    def sample_rate(self) -> float:
        """Probability with which a pair joins a step."""
        return self.batch_size / self.num_pairs

    @property
    def steps(self) -> int:
        """Steps in all epochs together."""
        return max(1, round(self.num_epochs / self.sample_rate))


@dataclass(frozen=True, kw_only=True, slots=True)
class PairExplanation:
    """What one noise means in each way of counting."""

    procedure: PairProcedure
    """What is explained."""
    noise_multiplier: float
    """Noise with which one pair's epsilon is the target by Rényi accounting."""
    record_epsilon: float
    """Epsilon of one record under that procedure."""
    own_epsilon: float
    """Epsilon of one record as one unit with one clip: same noise, as many pairs in a step. It is
    also what privacy loss distributions say of one pair under that procedure."""
    own_epsilon_full_batch: float
    """The same with `batch_size` whole records in a step."""


def explain_pairs(procedure: PairProcedure) -> PairExplanation:
    """Compute what per-pair accounting guarantees to a pair and to a record, and ours beside it.

    Args:
        procedure: The training.

    Returns:
        The noise and each epsilon. Ours is stated twice, because a batch of records holds more
        pairs than a batch of pairs.

    Raises:
        ConfigurationError: No noise above 0.1 meets the target and no more than it.
    """
    noise = _noise_by_renyi(procedure)
    rate = procedure.sample_rate

    def own(sample_rate: float) -> float:
        event = DpSgdEvent(
            proxy=ProxyKind.REWARD,
            noise_multiplier=noise,
            sample_rate=sample_rate,
            steps=procedure.steps,
        )
        return composed_epsilon([event], delta=procedure.delta)

    return PairExplanation(
        procedure=procedure,
        noise_multiplier=noise,
        record_epsilon=epsilon_of_several(
            noise_multiplier=noise,
            sample_rate=rate,
            steps=procedure.steps,
            num_members=procedure.pairs_per_record,
            delta=procedure.delta,
        ),
        # As many pairs in a step: a record at the rate of a pair, and all its pairs with it.
        own_epsilon=own(rate),
        own_epsilon_full_batch=own(min(1.0, rate * procedure.pairs_per_record)),
    )


def epsilon_of_several(
    *, noise_multiplier: float, sample_rate: float, steps: int, num_members: int, delta: float
) -> float:
    """Compute the epsilon of a person whose several members are sampled and clipped one by one.

    Args:
        noise_multiplier: Noise standard deviation ÷ clip of one member, above 0.
        sample_rate: Probability with which each member joins a step, by itself, in (0, 1].
        steps: Steps.
        num_members: Members that come and go together.
        delta: Probability with which the guarantee may fail.

    Returns:
        An upper bound on epsilon; infinite for no noise.

    Example:
        >>> one, five = (
        ...     epsilon_of_several(
        ...         noise_multiplier=2.0, sample_rate=0.01, steps=50, num_members=n, delta=1e-5
        ...     )
        ...     for n in (1, 5)
        ... )
        >>> round(one, 1), round(five, 1)
        (0.1, 0.8)
    """
    check_not_negative(noise_multiplier=noise_multiplier)
    if noise_multiplier == 0:
        return math.inf
    weights = {
        drawn: math.comb(num_members, drawn)
        * sample_rate**drawn
        * (1 - sample_rate) ** (num_members - drawn)
        for drawn in range(num_members + 1)
    }
    # A weight that underflows to 0 is far below delta; the library wants positive ones.
    weights = {drawn: weight for drawn, weight in weights.items() if weight > 0}
    accountant = PLDAccountant(
        _RELATION,
        value_discretization_interval=_interval(noise_multiplier, sample_rate, num_members),
    )
    step = MixtureOfGaussiansDpEvent(noise_multiplier, list(weights), list(weights.values()))
    accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    return max(0.0, float(accountant.get_epsilon(delta)))


def _interval(noise_multiplier: float, sample_rate: float, num_members: int) -> float:
    """Space privacy losses by a quarter of a typical one, within what memory allows."""
    reach = num_members / noise_multiplier
    typical = min(1.0, sample_rate * reach)
    return max(0.25 * min(0.04, typical), (reach**2 / 2 + 8 * reach) / _MAX_STEP_CELLS)


def _noise_by_renyi(procedure: PairProcedure) -> float:
    """Find the noise that Rényi accounting asks for, as the published procedure does."""

    def event(noise_multiplier: float) -> dp_accounting.DpEvent:
        step = dp_accounting.GaussianDpEvent(noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(procedure.sample_rate, step)
        return dp_accounting.SelfComposedDpEvent(sampled, procedure.steps)

    try:
        noise = dp_accounting.calibrate_dp_mechanism(
            lambda: RdpAccountant(_RDP_ORDERS, _RELATION),
            event,
            procedure.target_epsilon,
            procedure.delta,
            dp_accounting.LowerEndpointAndGuess(_LEAST_NOISE, 1.0),
            tol=_NOISE_TOLERANCE,
        )
    except dp_accounting.mechanism_calibration.NoBracketIntervalFoundError:
        raise ConfigurationError(
            f"Expected a target_epsilon that a noise multiplier above {_LEAST_NOISE} meets, got "
            f"target_epsilon={procedure.target_epsilon:g}. Lower it, or state more epochs."
        ) from None
    return float(noise)
