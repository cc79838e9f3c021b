"""From the server's settings to what admission is told."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from server_side.collecting import admission_terms
from server_side.config import AdmissionConfig, ServerConfig


def test_every_admission_setting_reaches_the_policy(tiny_llama: Path) -> None:
    """A setting that is read and then forgotten would let in what the operator forbade."""
    chosen = AdmissionConfig(
        max_epsilon=3.0,
        max_delta=1e-6,
        allowed_public_keys=["ab" * 32],
        allowed_code_digests=["cd" * 32],
        accept_reproducible_noise=True,
        accept_unsafe_non_private=True,
        max_release_bytes=12345,
    )
    config = replace(ServerConfig(), base_model=str(tiny_llama), admission=chosen)

    policy, _ = admission_terms(config, run_id="run")

    for field in fields(AdmissionConfig):
        value = getattr(chosen, field.name)
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(policy, field.name) == expected, field.name
