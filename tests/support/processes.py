"""The processes of a run: which does what, and what a client's folder says meanwhile."""

from __future__ import annotations

import json
import os
from collections import Counter

import psutil

from client_side.folder import ClientFolder


def child_with(*words: str, of: psutil.Process | None = None) -> psutil.Process:
    """Find the one child whose command or place has all the words."""
    (found,) = [
        child
        for child in (of or psutil.Process(os.getpid())).children()
        if all(word in f"{' '.join(child.cmdline())} {child.cwd()}" for word in words)
    ]
    return found


def is_training(client: ClientFolder, *, until: int) -> bool:
    """Say whether a client is at a training, of which it has made three steps or more."""
    try:
        status = json.loads(client.status_file.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return status["phase"] == "training" and 3 <= status["done"] < until


def ledger_entries(client: ClientFolder) -> Counter[str]:
    """Count the entries of a client's ledger by their kind."""
    lines = (client.ledger_folder / "ledger.jsonl").read_text("utf-8").splitlines()
    return Counter(json.loads(line)["entry"]["kind"] for line in lines)
