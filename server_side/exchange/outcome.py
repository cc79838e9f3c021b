"""What became of an exchange, as a small file that whoever waits for it can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from lm.errors import LmError
from protocol.errors import ExchangeError, RewardDSError, StageError
from protocol.ledger import ProxyKind
from server_side.whole_files import read_json, write_atomically

OUTCOME_FILE = "exchange.json"
"""What became of each client; written when the exchange is over, whichever way."""

ADMITTED = "admitted"
"""The answer of a client whose release may be used."""


_ENTRIES: Final = frozenset({"run_id", "error", "clients"})


class RunLostError(ExchangeError):
    """The link is away or gave the run up: no outcome. The same exchange can be submitted again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientOutcome:
    """What became of one client."""

    name: str = ""
    """Its public name; empty where it never said."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """By action: `admitted`, `refused: <code>`, `not admitted: <code>` or `no answer`.

    Under `node`, in a simulation, why it was given up."""
    epsilon: float | None = None
    """Composed ε of its newest admitted release."""

    @property
    def gave_both(self) -> bool:
        """Whether both of its proxies were admitted."""
        return all(self.answers.get(proxy.value) == ADMITTED for proxy in ProxyKind)

    @property
    def told(self) -> str:
        """Its answers as prose has them."""
        return ", ".join(f"{action} {answer}" for action, answer in self.answers.items())


def write_outcome(
    run_folder: Path,
    *,
    run_id: str,
    error: Exception | None,
    outcomes: Sequence[ClientOutcome],
    flower_run: str | None = None,
) -> None:
    """Write what became of an exchange.

    Args:
        run_folder: The server's run folder.
        run_id: Name of the run.
        error: Why it failed, if it did.
        outcomes: What became of each client.
        flower_run: Flower's own number of the try that came to this; None without Flower.

    Raises:
        DiskError: The disk refuses.
    """
    is_ours = isinstance(error, (RewardDSError, LmError))
    text = None if error is None else f"{error}" if is_ours else f"{type(error).__name__}: {error}"
    outcome = {
        "run_id": run_id,
        "flower_run": flower_run,
        "error": text,
        "clients": [asdict(outcome) for outcome in outcomes],
    }
    write_atomically(run_folder / OUTCOME_FILE, json.dumps(outcome, indent=1) + "\n")


def read_outcome(run_folder: Path, *, flower_run: str | None = None) -> dict[str, object] | None:
    """Read what became of an exchange.

    Args:
        run_folder: The server's run folder.
        flower_run: Flower's own number of the one try that is asked about; None takes any. A try
            that Flower gave up may still be alive and say last words beside the next one.

    Returns:
        The outcome as JSON values, or None while the exchange is under way.

    Raises:
        StageError: The file is not as it was written.
    """
    file = run_folder / OUTCOME_FILE
    if not file.is_file():
        return None
    outcome = read_json(file)
    if not isinstance(outcome, dict) or not outcome.keys() >= _ENTRIES:
        raise StageError(
            f"Expected {file} as it was written, found something else: it was changed since. "
            "Restore it from a copy, or delete it to run the exchange again."
        )
    is_of_another = flower_run is not None and outcome.get("flower_run") != flower_run
    return None if is_of_another else outcome


def clients_without_releases(run_folder: Path) -> tuple[ClientOutcome, ...]:
    """Return the clients of an exchange that is over of which less than both proxies can be used.

    They may have trained and paid all the same, so that whoever reads a result should hear of them.

    Args:
        run_folder: The server's run folder.

    Returns:
        What became of each; nothing where the folder holds releases alone and no outcome.
    """
    outcome = read_outcome(run_folder)
    if outcome is None:
        return ()
    return tuple(client for client in outcomes_of(outcome) if not client.gave_both)


def outcomes_of(outcome: Mapping[str, object]) -> tuple[ClientOutcome, ...]:
    """Return what became of each client.

    Args:
        outcome: What `read_outcome` gives.

    Returns:
        One a client.
    """
    clients = outcome["clients"]
    assert isinstance(clients, list)
    return tuple(ClientOutcome(**client) for client in clients)
