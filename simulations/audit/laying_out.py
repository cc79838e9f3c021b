"""Lay out what is audited: records, canaries, coins, and the simulation that trains on them.

Shapes: `m` canaries.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client_side.config import Unit
from client_side.folder import write_private_file
from lm.loading import load_tokenizer
from lm.model_folders import resolve_base_model
from lm.sampling import SamplingEngine, open_sampler
from simulations.audit.audited_rows import RECORDS_FILE, audited_rows
from simulations.audit.canaries import Canary, compose_canaries, flip_coins
from simulations.audit.config import AuditConfig
from simulations.config import TINY_MODEL, Runtime, RuntimeConfig, SimulateConfig
from simulations.tiny_models import build_tiny_model

UNUSED_FILE: Final = "unused_records.jsonl"
"""Rows whose prompts the canaries took; nothing is trained on them."""


def base_folder_of(name: str, folder: Path) -> Path:
    """Find the base model, or build the tiny one.

    Args:
        name: What `base_model` says.
        folder: The audit's folder.

    Returns:
        Folder of the model.

    Raises:
        ModelFolderError: There is no such model.
    """
    if name != TINY_MODEL:
        return resolve_base_model(name)
    tiny = folder / "models" / TINY_MODEL
    return tiny if (tiny / "model.safetensors").is_file() else build_tiny_model(tiny)


def lay_out_canaries(
    config: AuditConfig, *, folder: Path, base_folder: Path
) -> tuple[tuple[Canary, ...], npt.NDArray[np.bool_]]:
    """Compose records and canaries and write what the client trains on.

    Args:
        config: The audit; the same one gives the same canaries and coins again.
        folder: The audit's folder.
        base_folder: Folder of the base model.

    Returns:
        All canaries, and which of them are trained on, (m,).

    Raises:
        TableError: The records cannot be used.
        ConfigurationError: There are too few of them, or the vocabulary is too small.
    """
    rows = audited_rows(config)
    seeds, records = rows[: config.num_canaries], rows[config.num_canaries :]
    rng = np.random.default_rng([config.seed, 0])
    client = config.client_side
    canaries = compose_canaries(
        seeds,
        kinds=config.canary_kinds,
        tokenizer=load_tokenizer(base_folder),
        open_base=lambda: open_sampler(
            base_folder,
            engine=SamplingEngine(client.preferences.engine),
            num_threads=client.num_threads,
        ),
        instruction=client.records.instruction,
        avoid=records,
        rng=rng,
    )
    coins = flip_coins(len(canaries), rng=np.random.default_rng([config.seed, 1]))
    included = [canary for canary, coin in zip(canaries, coins, strict=True) if coin]
    trained = [(row.prompt, row.response) for row in records]
    trained += [(canary.prompt, canary.response) for canary in included]
    for name, pairs in (
        (RECORDS_FILE, trained),
        (UNUSED_FILE, [(row.prompt, row.response) for row in seeds]),
    ):
        lines = [
            json.dumps({"prompt": prompt, "response": response, "group": f"unit-{number}"})
            for number, (prompt, response) in enumerate(pairs)
        ]
        write_private_file(folder / name, "".join(f"{line}\n" for line in lines).encode())
    return canaries, coins


def audited_simulation(config: AuditConfig, *, folder: Path, base_folder: Path) -> SimulateConfig:
    """Return the one-client simulation whose exchange is audited.

    Args:
        config: The audit.
        folder: The audit's folder, with what `lay_out_canaries` wrote.
        base_folder: Folder of the base model.

    Returns:
        The simulation.
    """
    records = replace(
        config.client_side.records,
        path=str(folder / RECORDS_FILE),
        split=None,
        prompt_column="prompt",
        response_column="response",
        group_column="group" if config.client_side.records.privacy_unit is Unit.GROUP else None,
        declared_size=config.declared_size,
    )
    server = config.server_side
    return SimulateConfig(
        num_clients=1,
        declare_sizes=False,
        seed=config.seed,
        runtime=RuntimeConfig(kind=Runtime.IN_PROCESS),
        client_side=replace(config.client_side, base_model=str(base_folder), records=records),
        server_side=replace(
            server,
            base_model=str(base_folder),
            target_model=str(base_folder),
            min_clients=1,
            evaluation=replace(
                server.evaluation,
                path=str(folder / UNUSED_FILE),
                prompt_column="prompt",
                response_column="response",
            ),
        ),
    )
