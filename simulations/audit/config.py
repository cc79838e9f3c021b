"""Schema of `conf/audit.yaml`: what `rewardds-audit` trains, attacks and reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from client_side.config import ClientConfig
from client_side.records import DECLARED_SIZE_TOLERANCE_FRACTION
from protocol.errors import ConfigurationError
from server_side.config import ServerConfig


class CanaryKind(StrEnum):
    """What makes a canary unlikely."""

    NEW_TOKEN = "new_token"  # noqa: S105 - a token of a vocabulary
    """A single token that no record and no other canary has."""
    RANDOM_SUFFIX = "random_suffix"
    """Tokens drawn at random."""
    HIGH_TEMPERATURE = "high_temperature"
    """Written by the base model at a high temperature."""
    DOMAIN_BEGINNING = "domain_beginning"
    """A real response's beginning, then tokens drawn at random."""


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """One audited client: its pipeline, its canaries, and the attacks on what it releases."""

    num_records: int = 600
    """Records beside the canaries, composed where the shipped records are used."""
    num_canaries: int = 400
    """Canaries; each is trained on or not by a coin of its own."""
    kinds: list[str] = field(default_factory=lambda: [CanaryKind.NEW_TOKEN.value])
    """Kinds of canary, dealt out evenly; each kind is also judged by itself."""
    confidence_level: float = 0.95
    """Probability with which the bounds hold."""
    attack_text: bool = True
    """Also attack synthetic text, which takes sampling and a tuning."""
    seed: int = 1
    """Seed of records, canaries and coins; never of the noise."""
    run_folder: str | None = None
    """Where the audit is kept; None makes `runs/audit_<time>`. One that is there is continued."""
    client_side: ClientConfig = field(default_factory=ClientConfig)
    """The client that is audited."""
    server_side: ServerConfig = field(default_factory=ServerConfig)
    """Admission, synthesis and the attacker's tuning."""

    def __post_init__(self) -> None:
        for name, least in (("num_records", 1), ("num_canaries", 8)):
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"Expected {name} to be a whole number >= {least}, got {getattr(self, name)}. "
                    f"Change {name}."
                )
        known = set(self.kinds) <= {kind.value for kind in CanaryKind}
        if not self.kinds or not known or len(set(self.kinds)) != len(self.kinds):
            raise ConfigurationError(
                f"Expected kinds to name different kinds of canary, got {list(self.kinds)}. Choose "
                f"from {', '.join(CanaryKind)}."
            )
        # Coins fall as they like; the client refuses to train where its declared size is far off.
        spread = 2 * math.sqrt(self.num_canaries)
        if spread > DECLARED_SIZE_TOLERANCE_FRACTION * self.declared_size:
            raise ConfigurationError(
                f"Expected num_records of at least "
                f"{math.ceil(spread / DECLARED_SIZE_TOLERANCE_FRACTION - self.num_canaries / 2)} "
                f"beside {self.num_canaries} canaries, got {self.num_records}. With fewer, the "
                "number that is trained on could be far from the declared one."
            )
        if not 0.5 < self.confidence_level < 1:
            raise ConfigurationError(
                f"Expected 0.5 < confidence_level < 1, got {self.confidence_level}. Change it."
            )
        if not 0 <= self.seed < 2**31:
            raise ConfigurationError(f"Expected 0 <= seed < 2**31, got {self.seed}. Change seed.")

    @property
    def declared_size(self) -> int:
        """Public number of units: the records, and every second canary."""
        return self.num_records + self.num_canaries // 2

    @property
    def canary_kinds(self) -> tuple[CanaryKind, ...]:
        """The kinds of canary, by their type."""
        return tuple(CanaryKind(kind) for kind in self.kinds)
