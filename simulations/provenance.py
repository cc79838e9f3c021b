"""What was run, for a reader who has nothing but the run's folder.

`simulate.yaml` beside it holds every setting, resolved. `provenance.json` holds what they cannot
say: the command and versions of every start, and once the records were paid for the digests of all
that went in and came out, the seeds, and each client's ledger as its certificate states it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from protocol import SOFTWARE_VERSION
from protocol.bundle import sources_digest

if TYPE_CHECKING:
    from protocol.ledger import PrivacyLedger
    from server_side.admission import AdmittedRelease
    from simulations.config import SimulateConfig
    from simulations.prepare import World

PROVENANCE_FILE: Final = "provenance.json"
"""Command, versions, digests, seeds and ledgers of a run, in its folder."""

_CODE: Final = ("software_version", "sources_digest", "simulation_digest", "python")
_LIBRARIES: Final = (
    "torch", "transformers", "peft", "randomgen", "flwr", "dp-accounting", "trl", "openvino-genai",
    "numpy", "hydra-core",
)  # fmt: skip


def begin_provenance(
    folder: Path,
    *,
    overrides: Sequence[str] | None = None,
    program: str = "rewardds-simulate",
) -> None:
    """Note command and versions, of the first start and of every later one.

    Args:
        folder: The run's folder.
        overrides: Settings that make this point of a sweep; None for a run of its own.
        program: Name of the command.
    """
    from lm.devices import best_device
    from server_side.shared_stages import library_versions

    command = [program, *sys.argv[1:]]
    if overrides is not None:
        # What the same run takes by itself; a sweep's own file would make it a sweep again.
        is_chosen = any(word.startswith("sweep=") for word in overrides)
        command = [program, *overrides, *(["hydra.mode=RUN"] if is_chosen else [])]
    start: dict[str, object] = {
        "command": command,
        "begun": _now(),
        "software_version": SOFTWARE_VERSION,
        "sources_digest": sources_digest(),
        "simulation_digest": _simulation_digest(),
        "device": best_device(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": library_versions(_LIBRARIES),
    }
    before = read_provenance(folder)
    if before:
        start = {**before, "resumed": [*before.get("resumed", ()), start]}
    _write(folder, start)


def note_price(
    folder: Path,
    config: SimulateConfig,
    world: World,
    releases: Sequence[AdmittedRelease],
    *,
    ledgers: Mapping[str, PrivacyLedger] | None = None,
) -> None:
    """Add what went in and what it cost, as soon as the records have been paid for.

    A run that fails afterwards has cost as much, and the report on its sweep must count it.

    Args:
        folder: The run's folder.
        config: The simulation.
        world: Its parties.
        releases: What was admitted.
        ledgers: What the run cost where nothing was released; None takes the releases' own.
    """
    from lm.loading import base_model_digest, resolve_base_model
    from server_side.dataset_export import guarantees
    from server_side.shared_stages import file_digest
    from simulations.shared_exchange import ORIGIN_FILE

    certificates = [release.certificate for release in releases]
    if ledgers is None:
        ledgers = {name: found.privacy for name, found in guarantees(certificates).items()}
    noise_seed = config.client_side.budget.noise_seed
    origin = folder / ORIGIN_FILE
    facts = {
        **read_provenance(folder),
        "seeds": {
            "seed": config.seed,
            "noise": "operating system" if noise_seed is None else noise_seed,
        },
        "run_id": certificates[0].run_id if certificates else folder.name,
        "shared_exchange": json.loads(origin.read_text("utf-8")) if origin.is_file() else None,
        "digests": {
            "base_model": base_model_digest(resolve_base_model(world.server.base_model)),
            "target_model": base_model_digest(resolve_base_model(world.server.target_model)),
            "test_records": file_digest(world.server_folder / "evaluation.jsonl"),
            "public_texts": _public_texts(config),
            "records": {
                client.path.name: file_digest(client.path / "records.jsonl")
                for client in world.clients
            },
            "releases": {
                f"{item.client_name}/{item.proxy.value}": item.weights_digest
                for item in certificates
            },
        },
        "ledgers": {name: ledger_values(ledger) for name, ledger in ledgers.items()},
    }
    _write(folder, facts)


def finish_provenance(folder: Path) -> None:
    """Note that a run is whole.

    Args:
        folder: The run's folder.
    """
    _write(folder, {**read_provenance(folder), "finished": _now()})


def later_sources(folder: Path) -> list[str]:
    """Say where this start of a run computes with other code than its first one.

    Args:
        folder: The run's folder.

    Returns:
        One sentence for each difference; none for a first start.
    """
    first = read_provenance(folder)
    if not first.get("resumed"):
        return []
    newest = first["resumed"][-1]
    names = [name for name in _CODE if first.get(name) != newest.get(name)]
    names += [
        name for name, value in first["libraries"].items() if newest["libraries"].get(name) != value
    ]
    return [
        f"This run was begun with other {name}: earlier stages stay as they were made then. "
        f"{PROVENANCE_FILE} names both."
        for name in names
    ]


def read_provenance(folder: Path) -> dict[str, Any]:  # a JSON object
    """Return what is known of a run; nothing where it has no such file."""
    file = folder / PROVENANCE_FILE
    if not file.is_file():
        return {}
    facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return facts


def ledger_values(ledger: PrivacyLedger) -> dict[str, object]:
    """Give a ledger as JSON values; an infinite ε is null."""
    return {
        "unit": ledger.unit.value,
        "relation": ledger.relation.value,
        "epsilon": ledger.epsilon if math.isfinite(ledger.epsilon) else None,
        "delta": ledger.delta,
        "accountant": f"{ledger.accountant} {ledger.accountant_version}",
        "reproducible_noise": ledger.reproducible_noise,
        "events": [
            {
                "proxy": event.proxy.value,
                "noise_multiplier": event.noise_multiplier,
                "sample_rate": event.sample_rate,
                "steps": event.steps,
            }
            for event in ledger.events
        ],
    }


def _public_texts(config: SimulateConfig) -> dict[str, str]:
    """Return the digest of each file of public text; a name that `datasets` knows stays a name."""
    from server_side.shared_stages import file_digest

    paths = {
        "client_side.preferences": config.client_side.preferences.public_prompts_path,
        "server_side.synthesis": config.server_side.synthesis.public_prompts_path,
        "server_side.warm_start": config.server_side.warm_start.path,
    }
    return {
        name: file_digest(Path(path)) if Path(path).is_file() else path
        for name, path in paths.items()
        if path is not None
    }


def _simulation_digest() -> str:
    """Return the SHA-256 over the sources that no bundle carries: simulation and report."""
    root = Path(__file__).resolve().parent.parent
    total = hashlib.sha256()
    for package in ("simulations", "server_side/report"):
        for source in sorted((root / package).rglob("*")):
            if source.suffix in (".py", ".j2"):
                content = hashlib.sha256(source.read_bytes()).hexdigest()
                total.update(f"{source.relative_to(root)}\0{content}\n".encode())
    return total.hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder: Path, facts: object) -> None:
    part = folder / f".{PROVENANCE_FILE}.part"
    part.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(folder / PROVENANCE_FILE)
