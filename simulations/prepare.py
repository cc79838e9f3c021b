"""Lay out a simulated world: who owns which records, keys and settings, and what the test is.

Each client gets a folder of its own with what a real client would have, and the server gets one
with the test records. What a party is told later it is told through these folders and the wire.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from client_side.config import ClientConfig, Unit
from client_side.egress import load_signing_key
from client_side.folder import ClientFolder, make_client_folder, write_private_file
from client_side.public_prompts import check_public_prompts
from client_side.records import check_declared_size
from client_side.request_checks import check_fit
from lm.model_folders import resolve_base_model
from lm.paths import expanded
from lm.settings import save_settings
from lm.table_formats import is_same_source
from lm.tables import TextRow, drop_overlapping
from protocol.errors import ConfigurationError
from server_side.config import ServerConfig
from server_side.job_checks import check_models, check_texts
from server_side.json_values import differences, to_json
from server_side.public_texts import read_public_prompts, read_start_rows, require_test_rows
from server_side.whole_files import read_json, write_atomically
from simulations.beforehand import require_beforehand
from simulations.config import TINY_MODEL, SimulateConfig
from simulations.record_sources import read_domain, read_rows
from simulations.splitting import split_among_clients

WORLD_FILE = "world.json"
"""Names what was laid out; written last, so a world without it is laid out again."""
RECORDS_FILE = "records.jsonl"
"""One client's private records, in its folder."""

_LAID_OUT: Final = (
    "num_clients",
    "split",
    "domains",
    "num_records",
    "num_evaluation_records",
    "evaluation_fraction",
    "declare_sizes",
    "seed",
    "client_side",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What a simulation is made of."""

    clients: tuple[ClientFolder, ...]
    """One folder a client."""
    num_records: tuple[int, ...]
    """Records of each client, in the same order; 0 where its file cannot be read any more."""
    server_folder: Path
    """Run folder of the server's job, with its settings."""
    server: ServerConfig
    """Settings of the server, test file included."""
    num_overlapping: int
    """Test rows left out because their prompt stands in training."""
    num_evaluation: int
    """Test rows that remain."""


def prepare_world(
    config: SimulateConfig, run_folder: Path, *, is_selected_from: bool = False
) -> World:
    """Compose or read records, split them, and write every party's folder.

    Args:
        config: The simulation.
        run_folder: Where the parties' folders go.
        is_selected_from: Whether the run stands to be selected by its score.

    Returns:
        The parties. A world that was laid out before is returned as it is.

    Raises:
        TableError: Records or test records cannot be used.
        ConfigurationError: A client would have too few records for its settings, a client has no
            weight beside others that have one, or a package that the target's tuning needs is not
            installed.
        ModelFolderError: A model cannot be found.
    """
    world_file = run_folder / WORLD_FILE
    if world_file.is_file():
        facts = read_json(world_file)
        # A world of an earlier version does not say.
        before = facts.pop("settings", _layout(config))
        _require_same_layout(run_folder, before=before, now=_layout(config))
        return _reopen(config, run_folder, facts)
    layout = _layout(config)
    require_beforehand(config)
    training, evaluation = read_rows(config)
    of_domains = {name: read_domain(config, own) for name, own in config.own_domains.items()}
    _check_public_text(config)
    unit = config.client_side.records.privacy_unit
    shares = iter(
        split_among_clients(
            training,
            config.num_clients - len(of_domains),
            config=config.split,
            count_units=lambda rows: _count_units(rows, unit=unit),
            min_units=_largest_batch(config.client_side),
            seed=config.seed,
        )
    )
    parts = {
        name: of_domains[name] if name in of_domains else next(shares)
        for name in config.client_names
    }
    # The records first: what is wrong with them should not take a model to find out.
    config = _with_models(config, run_folder)
    training_prompts = {row.prompt for rows in parts.values() for row in rows}
    if is_selected_from and config.has_own_records:
        # Privacy: the score that selects may read no record, and which prompts stand in training
        # would say which test records it is taken on.
        training_prompts = set()
    kept, num_overlapping = drop_overlapping(evaluation, training_prompts=training_prompts)
    require_test_rows(kept, "whose prompts stand in no training")
    # Every client's settings are checked before the first folder is made.
    configs = [_client_config(config, name, rows) for name, rows in parts.items()]
    check_texts(config.server_side, test_rows=kept)
    check_models(config.server_side)
    # Clients of one instruction differ in nothing that a model could be too small for.
    for own in {own.records.instruction: own for own in configs}.values():
        check_fit(Path(own.base_model), own)
    # What an earlier start laid out in part, or was about to take over from another run.
    shutil.rmtree(run_folder / "clients", ignore_errors=True)
    clients = []
    for client_config, rows in zip(configs, parts.values(), strict=True):
        folder = make_client_folder(run_folder / "clients" / client_config.name, client_config)
        write_private_file(folder.path / RECORDS_FILE, _json_lines(rows))
        clients.append(folder)
    server_folder = run_folder / "server"
    server_folder.mkdir(parents=True, exist_ok=True)
    server = _server_config(config, clients, server_folder)
    (server_folder / "evaluation.jsonl").write_bytes(_json_lines(kept))
    save_settings(server, server_folder / "server_node.yaml")
    facts = {
        "clients": [folder.path.name for folder in clients],
        "num_overlapping": num_overlapping,
        "num_evaluation": len(kept),
        "base_model": config.client_side.base_model,
        "target_model": config.server_side.target_model,
    }
    write_atomically(world_file, json.dumps({**facts, "settings": layout}, indent=1))
    return _reopen(config, run_folder, facts)


def delta_warnings(world: World) -> list[str]:
    """Say where δ is so large that the claim means little.

    Args:
        world: The parties.

    Returns:
        One sentence for each client whose δ is not below one in its number of units.
    """
    found = []
    for client in world.clients:
        config = client.load_config()
        size, delta = config.records.declared_size, config.budget.target_delta
        if delta >= 1 / size:
            found.append(
                f"{config.name} has target_delta={delta:g} for {size} units. Choose one well "
                f"below {1 / size:.1g}: a mechanism may publish a δ share of the records outright."
            )
    return found


def _layout(config: SimulateConfig) -> Mapping[str, Any]:  # JSON values
    """Return the settings that are copied into the clients' folders and read there ever after."""
    stated = to_json(config)
    assert isinstance(stated, dict)
    return {name: stated[name] for name in _LAID_OUT}


def _require_same_layout(
    run_folder: Path, *, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    if changed := sorted(differences(dict(before), dict(now))):
        raise ConfigurationError(
            f"Expected the settings with which the clients of {run_folder} were laid out, found "
            f"other values of {', '.join(changed[:8])}. Restore them, or name another run_folder."
        )


def _reopen(config: SimulateConfig, run_folder: Path, facts: Mapping[str, object]) -> World:
    config = _with_models(config, run_folder)
    names, overlapping, evaluation = (
        facts["clients"], facts["num_overlapping"], facts["num_evaluation"]
    )  # fmt: skip
    assert isinstance(names, list)
    assert isinstance(overlapping, int)
    assert isinstance(evaluation, int)
    clients = tuple(ClientFolder(path=run_folder / "clients" / name) for name in names)
    return World(
        clients=clients,
        num_records=tuple(_count_lines(client.path / RECORDS_FILE) for client in clients),
        server_folder=run_folder / "server",
        server=_server_config(config, clients, run_folder / "server"),
        num_overlapping=overlapping,
        num_evaluation=evaluation,
    )


def _count_lines(file: Path) -> int:
    """Count a client's records; 0 where they are gone, which is for that client to refuse."""
    try:
        with file.open("rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


def _with_models(config: SimulateConfig, run_folder: Path) -> SimulateConfig:
    """Turn model names into folders, once for all parties: they share this machine."""
    names = {config.server_side.base_model, config.server_side.target_model}
    # What must be found comes before what is built.
    ordered = sorted(names, key=lambda name: (name == TINY_MODEL, name))
    folders = {name: _model_folder(name, run_folder) for name in ordered}
    base = folders[config.server_side.base_model]
    target = folders[config.server_side.target_model]
    return replace(
        config,
        client_side=replace(config.client_side, base_model=base),
        server_side=replace(config.server_side, base_model=base, target_model=target),
    )


def _model_folder(name: str, run_folder: Path) -> str:
    if name != TINY_MODEL:
        return str(resolve_base_model(name))
    folder = run_folder / "models" / TINY_MODEL
    if not (folder / "model.safetensors").is_file():
        from simulations.tiny_models import build_tiny_model  # with it comes torch

        build_tiny_model(folder)
    return str(folder)


def _client_config(config: SimulateConfig, name: str, rows: Sequence[TextRow]) -> ClientConfig:
    records = config.client_side.records
    if name in config.own_domains:
        records = replace(records, instruction=config.own_domains[name].instruction)
    num_units = _count_units(rows, unit=records.privacy_unit)
    declared_size = records.declared_size
    if config.declare_sizes:
        declared_size = round_to_two_digits(num_units)
    # The client checks this as well, but its refusal would come late and say little.
    check_declared_size(num_units, declared_size=declared_size)
    batch = _largest_batch(config.client_side)
    if batch > num_units:
        raise ConfigurationError(
            f"Expected at least expected_batch_size={batch} privacy units for {name}, found "
            f"{num_units}. Supply more records, have fewer clients, or lower "
            "client_side.generator.expected_batch_size and "
            "client_side.reward_proxy.expected_batch_size."
        )
    preferences = config.client_side.preferences
    return replace(
        config.client_side,
        name=name,
        preferences=replace(
            preferences, public_prompts_path=_absolute(preferences.public_prompts_path)
        ),
        records=replace(
            records,
            path=RECORDS_FILE,
            split=None,
            prompt_column="prompt",
            response_column="response",
            group_column=None if records.group_column is None else "group",
            declared_size=declared_size,
        ),
    )


def _largest_batch(client: ClientConfig) -> int:
    return max(client.generator.expected_batch_size, client.reward_proxy.expected_batch_size)


def round_to_two_digits(number: int) -> int:
    """Round down to two significant digits, as an operator would who declares a size.

    >>> round_to_two_digits(1523), round_to_two_digits(87)
    (1500, 87)
    """
    scale = int(10 ** max(0, len(str(number)) - 2))
    return number // scale * scale


def _check_public_text(config: SimulateConfig) -> None:
    """Find out early what is wrong with the text that either party calls public."""
    synthesis, warm_start = config.server_side.synthesis, config.server_side.warm_start
    called_public = {
        "server_side.synthesis.public_prompts_path": synthesis.public_prompts_path,
        "server_side.warm_start.path": warm_start.path,
        "client_side.preferences.public_prompts_path": (
            config.client_side.preferences.public_prompts_path
        ),
    }
    private_sources = [
        config.client_side.records.path,
        *(own.path for own in config.own_domains.values()),
    ]
    for setting, path in called_public.items():
        # Privacy: neither the server nor another record's pairs may get the records by another
        # name. The clients have copies of them, so that this is the one place to see it.
        if path and any(is_same_source(path, private) for private in private_sources):
            raise ConfigurationError(
                f"Expected {setting} to name public text, got the file of the records. Name "
                "another file."
            )
    read_public_prompts(synthesis)
    read_start_rows(warm_start)
    check_public_prompts(
        config.client_side.preferences.public_prompts_path,
        records_path=config.client_side.records.path,
    )


def _count_units(rows: Sequence[TextRow], *, unit: Unit) -> int:
    if unit is Unit.GROUP:
        return len({row.group for row in rows})
    return len({(row.prompt, row.response) for row in rows})


def _server_config(
    config: SimulateConfig, clients: Sequence[ClientFolder], server_folder: Path
) -> ServerConfig:
    server = config.server_side
    keys = [
        load_signing_key(client.path).public_key().public_bytes_raw().hex() for client in clients
    ]
    return replace(
        server,
        seed=config.seed,
        warm_start=replace(server.warm_start, path=_absolute(server.warm_start.path)),
        synthesis=replace(
            server.synthesis, public_prompts_path=_absolute(server.synthesis.public_prompts_path)
        ),
        admission=replace(server.admission, allowed_public_keys=keys),
        evaluation=replace(
            server.evaluation,
            path=str(server_folder / "evaluation.jsonl"),
            split=None,
            prompt_column="prompt",
            response_column="response",
            tests_column=None if server.evaluation.tests_column is None else "tests",
        ),
    )


def _absolute(source: str | None) -> str | None:
    """Return a file's whole path, since a process of the run may be started elsewhere."""
    if source is None or not expanded(source).is_file():
        return source
    return str(expanded(source).resolve())


def _json_lines(rows: Sequence[TextRow]) -> bytes:
    lines = []
    for row in rows:
        values: dict[str, object] = {"prompt": row.prompt, "response": row.response}
        if row.group is not None:
            values["group"] = row.group
        if row.tests:
            values["tests"] = row.tests
        lines.append(json.dumps(values, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines).encode()
