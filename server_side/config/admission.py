"""Settings of stage 6: which releases may be used."""

from __future__ import annotations

from dataclasses import dataclass

from server_side.config.checks import (
    require,
    require_counts,
    require_positive,
)


@dataclass(frozen=True, kw_only=True)
class AdmissionConfig:
    """Which releases may be used."""

    max_epsilon: float = 8.0
    """Largest composed ε of a client that is accepted."""
    max_delta: float = 1e-5
    """Largest δ that is accepted."""
    allowed_public_keys: list[str] | None = None
    """Hexadecimal Ed25519 keys of the clients that may take part. None leaves it to those whom
    `rewardds-server allow-client` let in; in a simulation it admits any key."""
    allowed_code_digests: list[str] | None = None
    """Digests of the client code that releases may come from; None admits any."""
    accept_reproducible_noise: bool = False
    """Admit noise drawn from a fixed seed: tests and simulations only, it protects nobody."""
    accept_unsafe_non_private: bool = False
    """Admit releases of infinite ε: baselines on public or fictional records only."""
    max_release_bytes: int = 256 * 1024 * 1024
    """Largest release that is read at all."""

    def __post_init__(self) -> None:
        require_positive("admission", self, "max_epsilon")
        require(0 < self.max_delta < 1, "admission.max_delta", "0 < δ < 1", self.max_delta)
        require_counts("admission", self, "max_release_bytes")
