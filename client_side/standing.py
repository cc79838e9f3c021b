"""How a client is, read from its folder: for `rewardds-client status`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from client_side.folder import ClientFolder, read_status
from client_side.network import NodeFiles
from client_side.spending import read_spending
from client_side.supervising import read_node_status


def standing(folder: ClientFolder) -> dict[str, object]:
    """Read how a client is; changes nothing.

    Args:
        folder: The client's folder.

    Returns:
        JSON values.

    Raises:
        SettingsError: It is no client's folder.
        BudgetError: The ledger was changed from outside.
        ConfigurationError: What was noted of node or training is damaged.

    Privacy:
        For the operator's eyes: progress and cost. Nothing is sent.
    """
    config = folder.load_config()
    network = NodeFiles(folder=folder).load()
    spending = read_spending(folder)
    training = read_status(folder.status_file, keys={"phase"})
    return {
        "client": config.name,
        "server": network.server or None,
        "bundle_sha256": network.bundle_sha256 or None,
        "node": read_node_status(folder),
        "training": training,
        "epsilon_spent": max((item.epsilon for item in spending.data_sets), default=0.0),
        "lifetime_epsilon_cap": spending.lifetime_epsilon_cap,
        "num_reservations": len(spending.spendings),
    }


def describe(found: Mapping[str, Any]) -> str:
    """Put a standing into lines for people.

    Args:
        found: What `standing` returned.

    Returns:
        The lines.
    """
    node, training = found["node"], found["training"]
    if node is None:
        state = "never started"
    else:
        since = datetime.fromtimestamp(node["since"], tz=UTC).isoformat(timespec="seconds")
        state = f"{node['state']} since {since}, start number {node['num_starts']}"
        if node["reason"]:
            state += f"; it ended because {node['reason']}"
    if training is None:
        progress = "nothing asked yet"
    elif training["phase"] == "refused":
        progress = f"refused the last request: {training['reason']}"
    else:
        progress = f"{training['proxy']} proxy: {training['phase']}"
        if training["total"]:
            counted = "responses" if training["phase"] == "sampling" else "steps"
            progress += f", {training['done']} of {training['total']} {counted}"
    return "\n".join(
        (
            f"Client    {found['client']}",
            f"Server    {found['server'] or 'not joined yet'}",
            f"Bundle    {found['bundle_sha256'] or 'none pinned'}",
            f"Node      {state}",
            f"Work      {progress}",
            f"Budget    ε = {found['epsilon_spent']:.3g} of {found['lifetime_epsilon_cap']:g} "
            f"spent, in {found['num_reservations']} reservations",
        )
    )
