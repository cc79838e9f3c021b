"""What a release cost: DP-SGD events and the ledger that lists them. Data only, no arithmetic.

An event describes a mechanism, `protocol/accounting.py` says what it costs. Both parties hold the
same list, so that the server can recompute the client's claim. The vocabulary is append-only:
a field never changes its meaning, a new mechanism gets a new event type.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.checks import (
    check_count,
    check_fraction,
    check_not_negative,
    check_open_fraction,
    check_text,
)
from protocol.errors import ConfigurationError

MAX_STEPS: Final = 1_000_000
"""Steps that one event may state; above it a hostile ledger could keep an accountant busy."""

MAX_NOISE_MULTIPLIER: Final = 1e6
"""Noise that one event may state; far above it the accountant's numbers overflow."""

MAX_EVENTS: Final = 1024
"""Events that one ledger may list, for the same reason."""


class PrivacyUnit(StrEnum):
    """Whose presence is hidden by the guarantee."""

    RECORD = "record"
    """One record: a prompt and its response."""
    GROUP = "group"
    """All records of one person, or of whatever the group column names."""


class ProxyKind(StrEnum):
    """The two models that a client releases."""

    GENERATOR = "generator"
    """Writes prompts and responses."""
    REWARD = "reward"
    """Judges responses."""


class NeighboringRelation(StrEnum):
    """Which two data sets must look alike."""

    ADD_OR_REMOVE_ONE = "add_or_remove_one"
    """One privacy unit more or less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DpSgdEvent:
    """One DP-SGD training: Poisson-sampled Gaussian mechanism, repeated.

    Raises:
        ConfigurationError: A value is out of range.
    """

    proxy: ProxyKind
    """The model that this training produced."""
    noise_multiplier: float
    """Noise standard deviation ÷ `max_grad_norm`, at most 10^6; 0 means no privacy and an infinite
    epsilon."""
    sample_rate: float
    """Probability with which a unit joins a step, in (0, 1]."""
    steps: int
    """Noisy steps taken, empty batches included."""

    def __post_init__(self) -> None:
        """Check ranges and settle number types, so that equal events have equal bytes."""
        _check_enum(self.proxy, ProxyKind, name="proxy")
        check_not_negative(noise_multiplier=self.noise_multiplier)
        if self.noise_multiplier > MAX_NOISE_MULTIPLIER:
            raise ConfigurationError(
                f"Expected noise_multiplier <= {MAX_NOISE_MULTIPLIER:g}, got noise_multiplier="
                f"{self.noise_multiplier!r}. Take less noise, or a larger target_epsilon."
            )
        check_fraction(sample_rate=self.sample_rate)
        check_count(at_least=1, at_most=MAX_STEPS, steps=self.steps)
        object.__setattr__(self, "noise_multiplier", float(self.noise_multiplier))
        object.__setattr__(self, "sample_rate", float(self.sample_rate))


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyLedger:
    """Everything ever released from the records behind a release, and its one composed price.

    Raises:
        ConfigurationError: A value is out of range or the list is empty or too long.
    """

    unit: PrivacyUnit
    """Whose presence is hidden."""
    relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE
    """Which data sets count as neighbours."""
    events: tuple[DpSgdEvent, ...]
    """All events of these records' lifetime, reserved ones included, oldest first."""
    epsilon: float
    """Composed epsilon of all events at `delta`; infinite where one of them has no noise."""
    delta: float
    """Probability with which the guarantee may fail, in (0, 1)."""
    accountant: str
    """How `epsilon` was computed."""
    accountant_version: str
    """Version of the library that computed it."""
    reproducible_noise: bool
    """Whether some event drew its noise from a fixed seed; such noise protects nobody."""

    def __post_init__(self) -> None:
        """Check ranges and settle number types."""
        _check_enum(self.unit, PrivacyUnit, name="unit")
        _check_enum(self.relation, NeighboringRelation, name="relation")
        check_count(at_least=1, at_most=MAX_EVENTS, num_events=len(self.events))
        check_not_negative(can_be_infinite=True, epsilon=self.epsilon)
        check_open_fraction(delta=self.delta)
        check_text(
            max_chars=64, accountant=self.accountant, accountant_version=self.accountant_version
        )
        object.__setattr__(self, "epsilon", float(self.epsilon))
        object.__setattr__(self, "delta", float(self.delta))


def _check_enum(value: object, kind: type[StrEnum], *, name: str) -> None:
    if not isinstance(value, kind):
        choices = ", ".join(member.value for member in kind)
        raise ConfigurationError(
            f"Expected {name} to be one of {choices}, got {name}={value!r}. "
            f"Use a member of {kind.__name__}."
        )
