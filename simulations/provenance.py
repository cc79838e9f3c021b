"""What a simulation adds to its `provenance.json` (`server_side/provenance.py`).

`simulate.yaml` beside it holds every setting, resolved. Commands and versions are there from the
start; once the records were paid for come the digests of all that went in and came out, the seeds,
and each client's ledger as its certificate states it.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server_side.provenance import add_provenance, note_start
from server_side.whole_files import read_json

if TYPE_CHECKING:
    from protocol.ledger import PrivacyLedger
    from server_side.admission import AdmittedRelease
    from simulations.config import SimulateConfig
    from simulations.prepare import World


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
    command = [program, *sys.argv[1:]]
    if overrides is not None:
        # What the same run takes by itself; a sweep's own file would make it a sweep again.
        is_chosen = any(word.startswith("sweep=") for word in overrides)
        command = [program, *overrides, *(["hydra.mode=RUN"] if is_chosen else [])]
    note_start(folder, command, digests={"simulation_digest": _simulation_digest()})


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
    from lm.model_folders import base_model_digest, resolve_base_model
    from server_side.dataset_export import guarantees
    from server_side.shared_stages import file_digest
    from simulations.owned_records import records_digest
    from simulations.shared_exchange import ORIGIN_FILE

    certificates = [release.certificate for release in releases]
    if ledgers is None:
        ledgers = {name: found.privacy for name, found in guarantees(certificates).items()}
    noise_seed = config.client_side.budget.noise_seed
    origin = folder / ORIGIN_FILE
    facts = {
        "seeds": {
            "seed": config.seed,
            "noise": "operating system" if noise_seed is None else noise_seed,
        },
        "run_id": certificates[0].run_id if certificates else folder.name,
        "shared_exchange": read_json(origin) if origin.is_file() else None,
        "digests": {
            "base_model": base_model_digest(resolve_base_model(world.server.base_model)),
            "target_model": base_model_digest(resolve_base_model(world.server.target_model)),
            "test_records": file_digest(world.server_folder / "evaluation.jsonl"),
            "public_texts": _public_texts(config),
            "records": {client.path.name: records_digest(client) for client in world.clients},
            "releases": {
                f"{item.client_name}/{item.proxy.value}": item.weights_digest
                for item in certificates
            },
        },
        "ledgers": {name: ledger_values(ledger) for name, ledger in ledgers.items()},
    }
    add_provenance(folder, facts)


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
