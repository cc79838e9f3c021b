"""What was run, for a reader who has nothing but the run's folder.

`provenance.json` holds what settings and stages cannot say: the command of every start, and the
versions of code and libraries that computed. A simulation adds digests, seeds and ledgers
(`simulations/provenance.py`); a real server has these in `manifest.json` and in the certificates
beside the releases.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from protocol import SOFTWARE_VERSION
from protocol.bundle import sources_digest
from server_side.shared_stages import library_versions
from server_side.whole_files import read_json, write_atomically

PROVENANCE_FILE: Final = "provenance.json"
"""Commands, versions, and what else a run says of itself, in its folder."""

_CODE: Final = ("software_version", "sources_digest", "simulation_digest", "python")
_LIBRARIES: Final = (
    "torch", "transformers", "peft", "randomgen", "flwr", "dp-accounting", "trl", "openvino-genai",
    "numpy", "hydra-core",
)  # fmt: skip


def note_start(folder: Path, command: Sequence[str], *, digests: Mapping[str, str]) -> None:
    """Note command and versions, of the first start and of every later one.

    Args:
        folder: The run's folder.
        command: The command, word by word.
        digests: By name, digests of code that no bundle carries.
    """
    from lm.devices import best_device, fastest_dtype

    device = best_device()
    start: dict[str, object] = {
        "command": list(command),
        "begun": _now(),
        "software_version": SOFTWARE_VERSION,
        "sources_digest": sources_digest(),
        **digests,
        "device": device,
        "dtype": str(fastest_dtype(device)).removeprefix("torch."),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": library_versions(_LIBRARIES),
    }
    before = read_provenance(folder)
    if before:
        start = {**before, "resumed": [*before.get("resumed", ()), start]}
    _write(folder, start)


def add_provenance(folder: Path, facts: Mapping[str, object]) -> None:
    """Add what else is to be known of a run.

    Args:
        folder: The run's folder.
        facts: JSON values by name; they replace those of the same name.
    """
    _write(folder, {**read_provenance(folder), **facts})


def finish_provenance(folder: Path) -> None:
    """Note that a run is whole.

    Args:
        folder: The run's folder.
    """
    add_provenance(folder, {"finished": _now()})


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
    # A run of an earlier version does not say in what it computed.
    if first.get("dtype", newest["dtype"]) != newest["dtype"]:
        names.append("dtype")
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
    facts: dict[str, Any] = read_json(file)
    return facts


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder: Path, facts: object) -> None:
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    write_atomically(folder / PROVENANCE_FILE, f"{text}\n")
