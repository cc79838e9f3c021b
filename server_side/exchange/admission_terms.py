"""What a run's admission accepts, derived from the server's settings and what the server knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lm.adapter_shapes import expected_adapter_shapes
from lm.model_folders import base_model_digest, resolve_base_model
from server_side.admission_checks import AdmissionPolicy, ExpectedShapes
from server_side.config import ServerConfig
from server_side.exchange.starts import sent_digests

ClientKeys = Mapping[str, frozenset[str]]
"""By client name, the keys that may sign for it."""


def admission_terms(
    config: ServerConfig,
    *,
    run_id: str,
    client_keys: ClientKeys | None = None,
    run_folder: Path | None = None,
) -> tuple[AdmissionPolicy, ExpectedShapes]:
    """Derive from the server's settings what admission accepts.

    Args:
        config: The server's settings.
        run_id: Name of the run.
        client_keys: Which keys sign for which client; None where nobody is registered.
        run_folder: Where the starting weights that were sent lie; None where none were.

    Returns:
        The policy, and the shapes of adapters on the server's own base model.

    Raises:
        ModelFolderError: The base model cannot be found.
    """
    folder = resolve_base_model(config.base_model)
    keys = config.admission.allowed_public_keys
    codes = config.admission.allowed_code_digests
    policy = AdmissionPolicy(
        run_id=run_id,
        base_model_digest=base_model_digest(folder),
        max_epsilon=config.admission.max_epsilon,
        max_delta=config.admission.max_delta,
        allowed_public_keys=None if keys is None else tuple(keys),
        client_keys=client_keys,
        allowed_code_digests=None if codes is None else tuple(codes),
        accept_reproducible_noise=config.admission.accept_reproducible_noise,
        accept_unsafe_non_private=config.admission.accept_unsafe_non_private,
        max_release_bytes=config.admission.max_release_bytes,
        start_digests={} if run_folder is None else sent_digests(run_folder),
    )
    return policy, lambda lora, has_head: expected_adapter_shapes(
        folder, lora, has_reward_head=has_head
    )
