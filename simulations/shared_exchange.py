"""One exchange for all runs of a sweep whose clients would be asked for the same.

Arms that differ in the server's settings alone start from the same pair of proxies. Training it for
each of them would cost hours, and would compare noise with noise. So the runs share it by content:
the key is a digest of all that decides what the clients release, and whoever comes first makes the
exchange. DP noise is never seeded; a shared release is one draw of it, and points that share it are
not independent of one another, which the report on a sweep says.

Layout: `KEY/` holds the clients' folders (records, keys, ledgers), the admitted releases, the
starting weights that were sent, if any, and what became of the exchange; it appears in one step
when all of that is whole. `KEY.lock` is held by the run that makes the exchange; others wait for
it, and the kernel frees it with its holder.

Privacy: in simulation only. One person owns all clients here, and each client's ledger travels with
its releases, so that a run whose releases are shared states their price as the first one did.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from client_side.folder import ClientFolder
from lm.model_folders import base_model_digest, resolve_base_model
from lm.settings import save_settings, to_mapping
from server_side.config import ServerConfig
from server_side.exchange.collecting import RELEASES
from server_side.exchange.outcome import OUTCOME_FILE, read_outcome
from server_side.exchange.starts import STARTS
from server_side.public_texts import read_public_text
from server_side.shared_stages import code_versions, file_digest, locked, remove
from simulations.config import SimulateConfig
from simulations.costs import COST_FILE
from simulations.owned_records import records_digest
from simulations.prepare import WORLD_FILE, World, prepare_world

ORIGIN_FILE: Final = "exchange_origin.json"
"""In a run's folder: under which key its exchange is shared, and which run made it."""

_CLIENTS: Final = "clients"
# Releases that started from weights of the server are admitted by what it sent.
_OF_THE_SERVER: Final = (RELEASES, STARTS)
# What a training left behind is large and of no further use.
_LEFT_OUT: Final = shutil.ignore_patterns("work")


def share_exchange(
    config: SimulateConfig,
    world: World,
    *,
    run_folder: Path,
    shared: Path,
    make: Callable[[str], None],
) -> World:
    """Take the exchange from another run that made the same one, or make it and keep it.

    Args:
        config: The simulation.
        world: The parties as they were laid out.
        run_folder: The run.
        shared: Folder of the shared exchanges.
        make: Makes the exchange in this run's folder under the run name that it is given.

    Returns:
        The parties; those of the other run where its exchange was taken.

    Raises:
        RewardDSError: The exchange failed; nothing is shared then.
    """
    key = exchange_key(config, world)
    entry = shared / key
    with locked(shared / f"{key}.lock"):
        if entry.is_dir():
            _take(entry, run_folder)
            taken = prepare_world(config, run_folder)
            save_settings(taken.server, taken.server_folder / "server_node.yaml")
            return taken
        make(f"exchange-{key[:16]}")
        origin = {"key": key, "made_by": run_folder.name}
        (run_folder / ORIGIN_FILE).write_text(json.dumps(origin, indent=1), encoding="utf-8")
        # What a client failed at once may go well the next time: such luck is not handed on.
        if _is_complete(world):
            _give(entry, run_folder)
    return world


def exchange_key(config: SimulateConfig, world: World) -> str:
    """Return the digest of all that decides what the clients of a run release.

    Args:
        config: The simulation.
        world: Its parties as they were laid out.

    Returns:
        64 hexadecimal digits.
    """
    admission = dataclasses.asdict(world.server.admission)
    del admission["allowed_public_keys"]  # fresh ones in every layout; they go with the clients
    parts = {
        "seed": config.seed,
        "code": dict(code_versions()),
        "base_model": base_model_digest(resolve_base_model(world.server.base_model)),
        "admission": admission,
        "min_clients": world.server.min_clients,
        "warm_start": _starting(world.server),
        "clients": [
            (client.path.name, _deciding(client), records_digest(client))
            for client in world.clients
        ],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _is_complete(world: World) -> bool:
    outcome: dict[str, Any] | None = read_outcome(world.server_folder)  # JSON values
    answers = [client["answers"].values() for client in (outcome or {}).get("clients", ())]
    return bool(answers) and all(answer == "admitted" for some in answers for answer in some)


def _starting(server: ServerConfig) -> Mapping[str, object]:
    """Return what decides the starting weights that the server sends."""
    settings = dataclasses.asdict(server.warm_start)
    if settings.pop("path") is None:
        return {}
    return {**settings, "text": read_public_text(server).digest, "seed": server.seed}


def _deciding(client: ClientFolder) -> Mapping[str, object]:
    config = client.load_config()
    settings = to_mapping(config)
    # Where the model lies and how many cores there are decides nothing; its digest is in the key.
    del settings["base_model"], settings["num_threads"]
    prompts = client.public_prompts_path(config)
    if prompts is not None:
        settings["preferences"]["public_prompts_path"] = _content(prompts)
    return settings


def _content(source: str) -> str:
    """Return the digest of a file, or the name of what `datasets` knows."""
    return file_digest(Path(source)) if Path(source).is_file() else source


def _take(entry: Path, run_folder: Path) -> None:
    """Put another run's parties in the place of those that were laid out.

    The world file goes first and the outcome comes last: a run that is killed in between lays its
    parties out anew and takes the exchange again.
    """
    server, world_file = run_folder / "server", run_folder / WORLD_FILE
    world = world_file.read_text(encoding="utf-8")
    world_file.unlink()
    for source, target in (
        (entry / _CLIENTS, run_folder / _CLIENTS),
        *((entry / name, server / name) for name in _OF_THE_SERVER),
    ):
        remove(target)
        if source.is_dir():
            _copy_folder(source, target)
    for name in (ORIGIN_FILE, COST_FILE):
        if (entry / name).is_file():
            shutil.copyfile(entry / name, run_folder / name)
    _write_whole(world_file, world)
    _write_whole(server / OUTCOME_FILE, (entry / OUTCOME_FILE).read_text(encoding="utf-8"))


def _give(entry: Path, run_folder: Path) -> None:
    part = entry.with_name(f".{entry.name}.part")
    remove(part)
    part.mkdir()
    # Copies, not links: a client's ledger is appended to.
    shutil.copytree(run_folder / _CLIENTS, part / _CLIENTS, ignore=_LEFT_OUT)
    for name in _OF_THE_SERVER:
        if (run_folder / "server" / name).is_dir():
            shutil.copytree(run_folder / "server" / name, part / name)
    for source in (
        run_folder / "server" / OUTCOME_FILE,
        run_folder / ORIGIN_FILE,
        run_folder / COST_FILE,
    ):
        if source.is_file():
            shutil.copyfile(source, part / source.name)
    os.sync()  # once, for all of it: after a power cut the folder is whole or not there
    part.rename(entry)


def _copy_folder(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
