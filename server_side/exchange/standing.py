"""How far a server's run is, read from its folder: for `rewardds-server status`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lm.locks import is_held
from protocol.errors import ConfigurationError
from server_side.exchange.certificates import TlsFiles, check_certificate
from server_side.exchange.clients import load_clients
from server_side.exchange.folder import ServerFolder
from server_side.exchange.outcome import read_outcome
from server_side.exchange.starts import start_progress
from server_side.whole_files import read_json


def standing(folder: ServerFolder) -> dict[str, object]:
    """Read how far a run is; changes nothing.

    Args:
        folder: The server's folder.

    Returns:
        JSON values; the ε of a client is null where its release has no privacy, as where there is
        none.

    Raises:
        SettingsError: It is no server's folder.
        StageError: The outcome of the exchange is not as it was written.
    """
    network = folder.load_network()
    try:
        ends = check_certificate(TlsFiles.within(folder.tls_folder), host=network.host)
        certificate = f"good for {(ends - datetime.now(UTC)).days} days"
    except ConfigurationError as error:
        certificate = str(error)
    run_id = folder.path / "run_id"
    releases = folder.path / "releases"
    is_collecting = is_held(folder.collecting_file)
    return {
        "address": network.address,
        "certificate": certificate,
        "run_id": run_id.read_text(encoding="utf-8").strip() if run_id.is_file() else None,
        "is_collecting": is_collecting,
        # A process that was killed leaves its last note behind.
        "starting_weights": start_progress(folder.path) if is_collecting else None,
        "allowed_clients": sorted(load_clients(folder.clients_folder)),
        "outcome": _outcome(folder),
        "releases": sorted(file.name for file in releases.glob("*.release")),
        "stages": _stages(folder.path / "manifest.json"),
        "report": str(folder.path / "report.html")
        if (folder.path / "report.html").is_file()
        else None,
    }


def describe(found: Mapping[str, Any]) -> str:
    """Put a standing into lines for people.

    Args:
        found: What `standing` returned.

    Returns:
        The lines.
    """
    outcome = found["outcome"]
    if found["is_collecting"]:
        exchange = "under way"
        if (start := found["starting_weights"]) is not None:
            exchange += (
                f"; starting weights of the {start['proxy']} proxy, {start['phase']} "
                f"{start['done']}/{start['total']}"
            )
    elif outcome is None:
        exchange = "not run yet, or cut off; `rewardds-server collect` goes on with it"
    elif outcome["error"] is None:
        exchange = "over"
    else:
        exchange = f"failed: {outcome['error']}"
    lines = [
        f"Address       {found['address']}",
        f"Certificate   {found['certificate']}",
        f"Run           {found['run_id'] or 'not named yet'}",
        f"Clients       {', '.join(found['allowed_clients']) or 'none allowed yet'}",
        f"Exchange      {exchange}",
    ]
    for client in outcome["clients"] if outcome else ():
        answers = ", ".join(f"{action} {answer}" for action, answer in client["answers"].items())
        lines.append(f"              {client['name'] or 'an unnamed node'}: {answers}")
    lines += [
        f"Releases      {len(found['releases'])}",
        f"Stages whole  {', '.join(found['stages']) or 'none'}",
        f"Report        {found['report'] or 'not yet'}",
    ]
    return "\n".join(lines)


def _outcome(folder: ServerFolder) -> Mapping[str, Any] | None:
    outcome: dict[str, Any] | None = read_outcome(folder.path)
    for client in outcome["clients"] if outcome else ():
        if client["epsilon"] == math.inf:  # a release without privacy; JSON has no such number
            client["epsilon"] = None
    return outcome


def _stages(manifest: Path) -> list[str]:
    if not manifest.is_file():
        return []
    stages = read_json(manifest).get("stages", {})
    return sorted(stages)
