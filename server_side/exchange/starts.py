"""Starting weights in the run folder: one file for each client and proxy, and what made it.

What was sent is what admission compares a release with, and what an exchange that starts anew sends
again: a client that was sent other weights under the same run would train, and pay, again. So
weights that were tuned otherwise than the settings now say are neither sent nor replaced; the
operator is told.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lm.adapter_shapes import expected_adapter_shapes
from lm.disk import clear_disk_errors
from lm.errors import LmError
from protocol.artifacts import AdapterWeights, LoraShape
from protocol.documents import to_document
from protocol.errors import ConfigurationError
from protocol.ledger import ProxyKind
from protocol.messages import Request, TrainingRequest, WarmTrainingRequest
from server_side.admission_checks import start_name
from server_side.whole_files import read_json, write_atomically

_LOGGER = logging.getLogger(__name__)

STARTS: Final = "starts"
"""Folder of the starting weights within the server's run folder."""
WARM_START_STAGE: Final = "00_warm_start"
"""Under what name the counts of public text stand beside those of the job's stages."""
_SUFFIX: Final = ".safetensors"
_PROGRESS: Final = "progress"
"""Name of the file that tells how far the tuning of starting weights is; none where none is."""

StartShapes = Mapping[ProxyKind, LoraShape | None]
"""Shapes of the starting weights that a client takes, from its hello."""


def misfit(lora: LoraShape, proxy: ProxyKind, *, base_folder: Path, max_bytes: int) -> str | None:
    """Say why no starting weights can be made of a shape: it is a client's word.

    Args:
        lora: Shape that the client states.
        proxy: Which proxy they would be for.
        base_folder: Folder of the base model.
        max_bytes: What weights may take; admission would refuse larger ones.

    Returns:
        What was expected and found; None where they can be made.
    """
    try:
        shapes = expected_adapter_shapes(
            base_folder, lora, has_reward_head=proxy is ProxyKind.REWARD
        )
    except LmError as error:
        return str(error)
    size = sum(4 * math.prod(shape) for shape in shapes.values())  # float32
    if size > max_bytes:
        return (
            f"Expected weights of at most {max_bytes:,} bytes (admission.max_release_bytes), found "
            f"a shape that takes {size:,}."
        )
    return None


def cached_start(
    client_name: str,
    proxy: ProxyKind,
    lora: LoraShape,
    *,
    base_folder: Path,
    run_folder: Path,
    origin: Mapping[str, object],
    counts: Mapping[str, int],
    train: Callable[[ProxyKind, LoraShape], AdapterWeights],
) -> AdapterWeights:
    """Return the starting weights for one proxy of one client, and keep them in the run folder.

    Args:
        client_name: Name of the client.
        proxy: Which proxy they are for.
        lora: Shape that the client states.
        base_folder: Folder of the base model.
        run_folder: The server's run folder.
        origin: All that decides the weights, shape apart, as JSON values.
        counts: What became of the public text, for the metrics.
        train: Tunes weights of a shape, where none that fit are kept.

    Returns:
        The weights.

    Raises:
        ConfigurationError: Weights are kept that another origin made.
    """
    expected = expected_adapter_shapes(base_folder, lora, has_reward_head=proxy is ProxyKind.REWARD)
    stated = to_document(lora)
    file = _start_file(client_name, proxy, run_folder=run_folder)
    note = file.with_suffix(".json")
    if file.is_file():
        _require_origin(note, origin)
        kept = AdapterWeights.from_bytes(file.read_bytes())
        shapes = {name: tensor.shape for name, tensor in kept.tensors.items()}
        # Weights of the same shapes do something else under another scale. A note of an earlier
        # version names none.
        if shapes == expected and _read_note(note).get("lora", stated) == stated:
            return kept
    weights = train(proxy, lora)
    with clear_disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        # The note comes first: there are never weights of which nobody knows what made them.
        file.unlink(missing_ok=True)
        content = {"origin": origin, "lora": stated, "counts": counts}
        write_atomically(note, json.dumps(content, indent=1) + "\n")
        part = file.with_name(f".{file.name}.partial")
        part.write_bytes(weights.to_bytes())
        part.replace(file)
    return weights


def sent_digests(run_folder: Path) -> dict[str, str]:
    """Return the digest of all starting weights of a run, by client and proxy, for admission.

    Args:
        run_folder: The server's run folder.

    Returns:
        SHA-256 as hexadecimal text, by `start_name`; empty where no starting weights were sent.
    """
    return {
        file.name.removesuffix(_SUFFIX): AdapterWeights.from_bytes(file.read_bytes()).digest()
        for file in sorted((run_folder / STARTS).glob(f"*{_SUFFIX}"))
        if not file.name.startswith(".")
    }


def sent_start(client_name: str, proxy: ProxyKind, *, run_folder: Path) -> AdapterWeights | None:
    """Return the starting weights that a client was sent for a proxy.

    Args:
        client_name: Name of the client.
        proxy: Which proxy they were for.
        run_folder: The server's run folder.

    Returns:
        The weights; None where none were sent.
    """
    file = _start_file(client_name, proxy, run_folder=run_folder)
    return AdapterWeights.from_bytes(file.read_bytes()) if file.is_file() else None


def strayed_clients(
    sent: Mapping[str, str],
    requests: Mapping[str, Request],
    *,
    proxy: ProxyKind,
    run_folder: Path,
) -> frozenset[str]:
    """Name the clients that were sent other weights than they are about to be asked to start from.

    Such a client would train, and pay, for a release that admission must refuse. Each is told of to
    the server's operator; the others go on.

    Args:
        sent: What `sent_digests` gave.
        requests: By client name, what it is about to be asked.
        proxy: For which proxy.
        run_folder: The server's run folder.

    Returns:
        The names.
    """
    strayed = set()
    for client_name, request in requests.items():
        name = start_name(client_name, proxy)
        kept, asked = sent.get(name), _asked_start(request)
        if kept is not None and kept != asked:
            strayed.add(client_name)
            _LOGGER.warning(
                "%s is not asked: it was sent the weights in %s to start from, and a request now "
                "would start from %s. Restore what was changed (server_side.warm_start here, or "
                "warm_start and lora at the client), or delete that file; a client that has "
                "trained from the old weights then pays again.",
                client_name,
                _start_file(client_name, proxy, run_folder=run_folder),
                asked or "a fresh adapter",
            )
    return frozenset(strayed)


def note_start_progress(
    run_folder: Path, proxy: ProxyKind, phase: str, done: int, total: int
) -> None:
    """Tell whoever watches the run how far the tuning of starting weights is.

    Args:
        run_folder: The server's run folder.
        proxy: Which proxy they are for.
        phase: `sampling` or `training`, as clients call it.
        done: Responses or steps that are done.
        total: Responses or steps in all.
    """
    file = run_folder / STARTS / _PROGRESS
    file.parent.mkdir(parents=True, exist_ok=True)
    status = {"proxy": proxy.value, "phase": phase, "done": done, "total": total}
    write_atomically(file, json.dumps(status) + "\n")


def forget_start_progress(run_folder: Path) -> None:
    """Take the note away, whatever became of the tuning.

    Args:
        run_folder: The server's run folder.
    """
    (run_folder / STARTS / _PROGRESS).unlink(missing_ok=True)


def start_progress(run_folder: Path) -> dict[str, Any] | None:  # JSON values
    """Return how far the tuning of starting weights is.

    Args:
        run_folder: The server's run folder.

    Returns:
        Proxy, phase, and what is done of how much, by name; None where nothing is tuned.
    """
    try:
        return _read_note(run_folder / STARTS / _PROGRESS)
    except FileNotFoundError:  # also one that was taken away a moment ago
        return None


def start_counts(run_folder: Path) -> dict[str, dict[str, int]]:
    """Return what became of the public text of a run, by stage like all counts.

    Args:
        run_folder: The server's run folder.

    Returns:
        One stage, or none where no starting weights were sent. All weights of a run come from the
        same text, so the first note speaks for all.
    """
    notes = sorted((run_folder / STARTS).glob("*.json"))
    return {WARM_START_STAGE: _read_note(notes[0])["counts"]} if notes else {}


def _start_file(client_name: str, proxy: ProxyKind, *, run_folder: Path) -> Path:
    return run_folder / STARTS / f"{start_name(client_name, proxy)}{_SUFFIX}"


def _asked_start(request: Request) -> str | None:
    match request:
        case WarmTrainingRequest():
            return request.request.start_digest
        case TrainingRequest():
            return request.start_digest
    return None


def _require_origin(note: Path, origin: Mapping[str, object]) -> None:
    kept = _read_note(note)["origin"] if note.is_file() else {}
    differing = sorted(name for name, value in origin.items() if kept.get(name) != value)
    if differing:
        raise ConfigurationError(
            "Expected the settings, public text and base model with which the starting weights in "
            f"{note.parent} were tuned, found another {', '.join(differing)}. Restore what was "
            f"changed, or delete {note.parent} to send new weights; a client that has trained from "
            "the old ones then pays again."
        )


def _read_note(note: Path) -> dict[str, Any]:  # JSON values
    content = read_json(note)
    assert isinstance(content, dict)
    return content
