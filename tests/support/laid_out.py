"""Simulations of a few records, laid out and not run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from client_side.config import ClientConfig, GeneratorConfig, RecordsConfig, RewardProxyConfig
from server_side.config import ServerConfig
from simulations.config import TINY_MODEL, SimulateConfig
from simulations.prepare import World


def simulation(**changes: object) -> SimulateConfig:
    """Return a simulation of two clients on 60 composed records, with changes."""
    client = ClientConfig(
        base_model=TINY_MODEL,
        records=RecordsConfig(),
        generator=GeneratorConfig(expected_batch_size=4),
        reward_proxy=RewardProxyConfig(expected_batch_size=4),
    )
    server = ServerConfig(base_model=TINY_MODEL, target_model=TINY_MODEL)
    start = SimulateConfig(
        num_records=60, num_evaluation_records=10, client_side=client, server_side=server
    )
    return replace(start, **changes)  # type: ignore[arg-type]  # names checked by replace


def with_records(start: SimulateConfig, **changes: object) -> SimulateConfig:
    """Return the simulation with changes in what its records are."""
    records = replace(start.client_side.records, **changes)  # type: ignore[arg-type]
    return replace(start, client_side=replace(start.client_side, records=records))


def write_rows(path: Path, rows: list[dict[str, str]]) -> str:
    """Write rows as JSON lines, and return where."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(world: World) -> list[list[dict[str, str]]]:
    """Return each client's rows."""
    return [
        [
            json.loads(line)
            for line in (client.path / "records.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for client in world.clients
    ]
