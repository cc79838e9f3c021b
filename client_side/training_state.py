"""Where a DP-SGD run stands after a whole step, kept so that a killed training can go on.

One file in the client's work folder for each request, replaced as a whole after every step; it is
there from before the training is noted in the ledger until its release is. It is bound to what it
belongs to (reservation, plan, settings, base model, code), and what does not fit is never used.

Private; never leaves the client: the losses and the unreleased iterates in it pay for nothing.

Covers: `kill -9` and power cuts at any byte; full disks; damaged files; files of another training,
other settings or other code. No key of a random stream is in it, so no noise can come back.
Does not cover: somebody who writes to the client's disk on purpose.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from client_side.config import ClientConfig
from client_side.ledger_file import write_whole
from lm.settings import to_mapping
from protocol.documents import dump_canonical, parse_canonical, to_canonical_bytes
from protocol.errors import RewardDSError
from protocol.ledger import DpSgdEvent, ProxyKind

_LOSSES: Final = "losses"
_FOLDER: Final = "training"
_PREFERENCES: Final = "preferences"

Binding = Mapping[str, str]
"""What a state belongs to: names as the operator knows them, with values or their digests."""


class TrainingStateError(RewardDSError):
    """There is no saved state that this training may go on from; the reason is for the operator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """A run after some whole steps; private."""

    losses: tuple[float, ...] = field(default=(), repr=False)
    """Mean loss of each step that was done, nan for an empty one."""
    arrays: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict, repr=False)
    """Weights, moments and sums, as `ProxyOptimizer.snapshot` gives them; empty at the start."""

    @property
    def num_steps(self) -> int:
        """Number of steps that were done."""
        return len(self.losses)


class TrainingStateFile:
    """The saved state of the training that one request asks for.

    Args:
        work_folder: The client's folder of working files.
        request_digest: The request.
    """

    def __init__(self, work_folder: Path, request_digest: str) -> None:
        self._path = work_folder / _FOLDER / f"{request_digest}.safetensors"

    def save(self, state: TrainingState, binding: Binding) -> None:
        """Keep a state in the place of the one before, and wait until it is on the disk.

        Args:
            state: The run after a whole step.
            binding: What it belongs to.

        Raises:
            BudgetError: The disk does not take it; the state before is still there.

        Privacy:
            Private; readable by the owner alone from its first byte on.
        """
        for folder in (self._path.parent.parent, self._path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        arrays = {**state.arrays, _LOSSES: np.array(state.losses, dtype=np.float64)}
        metadata = {
            "binding": dump_canonical(dict(binding)).decode(),
            "digest": _digest(arrays, binding),
        }
        write_whole(self._path, safetensors.numpy.save(arrays, metadata=metadata))

    def load(self, binding: Binding) -> TrainingState:
        """Read the state, if it is whole and belongs to this very training.

        Before the first step other `preferences` than those that it was saved under fit as well:
        what went wrong by then may be theirs to mend. Save it anew under the binding then.

        Args:
            binding: What it must belong to.

        Returns:
            The state.

        Raises:
            TrainingStateError: It is missing, damaged, or belongs to something else.
        """
        if not self._path.exists():
            raise TrainingStateError(f"Expected its saved state in {self._path}, found none.")
        try:
            found, digest, arrays = _read(self._path)
            is_whole = digest == _digest(arrays, found)
            losses = tuple(float(value) for value in arrays.pop(_LOSSES))
        # The parser raises types of its own that may change; the file is bad whatever it was.
        except Exception:
            is_whole = False
        if not is_whole:
            raise TrainingStateError(
                f"Expected its saved state in {self._path} as it was written, found it damaged."
            )
        others = sorted(
            name for name in binding.keys() | found if binding.get(name) != found.get(name)
        )
        # Privacy: at its start nothing of a step exists, and so nothing of the pairs that the old
        # settings gave. They are built anew, and one mechanism alone will have been run.
        if not losses:
            others = [name for name in others if name != _PREFERENCES]
        # Privacy: steps of another mechanism would not be what the ledger's event says.
        if others:
            raise TrainingStateError(
                f"Expected a saved state of this training in {self._path}, found one with another "
                f"value of: {', '.join(others)}."
            )
        return TrainingState(losses=losses, arrays=arrays)

    def discard(self) -> None:
        """Remove the state, and what a killed save left behind; nothing happens if none is there.

        Raises:
            OSError: The disk refuses.
        """
        for path in (self._path, *self._path.parent.glob(f".{self._path.name}.*.partial")):
            path.unlink(missing_ok=True)


def bind_training(
    *,
    reservation_id: str,
    proxy: ProxyKind,
    event: DpSgdEvent,
    config: ClientConfig,
    base_model_digest: str,
    code_digest: str,
    generator_release: bytes | None,
    start_digest: str | None = None,
) -> Binding:
    """Say what must be the same in both lives of a training.

    Left out is what changes neither mechanism nor price: the cap, the number of threads, and
    `max_batch_tokens`, which may have to be lowered because memory ran out.

    Args:
        reservation_id: What pays.
        proxy: The model to train.
        event: The training as it was paid for.
        config: The client's settings.
        base_model_digest: Digest of the base model.
        code_digest: Digest of the sources that can touch records.
        generator_release: The stored generator release that writes negatives, for the reward proxy.
        start_digest: Digest of the starting weights; None for a fresh adapter.

    Returns:
        A value, or its digest, by name.
    """
    is_reward = proxy is ProxyKind.REWARD
    budget = to_mapping(config.budget)
    training = to_mapping(config.reward_proxy if is_reward else config.generator)
    del budget["lifetime_epsilon_cap"], training["max_batch_tokens"]
    binding = {
        "reservation": reservation_id,
        "proxy": proxy.value,
        "event": to_canonical_bytes(event).decode(),
        # Privacy: with the seed, or its absence, so that a run never changes its kind of noise.
        "budget": _fingerprint(budget),
        "reward_proxy" if is_reward else "generator": _fingerprint(training),
        "records": _fingerprint(to_mapping(config.records)),
        "base model": base_model_digest,
        "code": code_digest,
        # Privacy: one mechanism has one starting point; the saved iterates belong to this one.
        "start": start_digest or "",
    }
    if is_reward:
        binding[_PREFERENCES] = _fingerprint(to_mapping(config.preferences))
        binding["generator release"] = hashlib.sha256(generator_release or b"").hexdigest()
    return binding


def _fingerprint(settings: object) -> str:
    return hashlib.sha256(dump_canonical(settings)).hexdigest()


def _read(path: Path) -> tuple[dict[str, str], str, dict[str, npt.NDArray[np.generic]]]:
    # safetensors holds numbers and texts only: nothing in the file is ever run.
    with safetensors.safe_open(os.fspath(path), framework="np") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    binding = parse_canonical(metadata["binding"].encode())
    assert isinstance(binding, dict)
    return binding, metadata["digest"], arrays


def _digest(arrays: Mapping[str, npt.NDArray[np.generic]], binding: Binding) -> str:
    content = hashlib.sha256(safetensors.numpy.save(dict(arrays))).hexdigest()
    return hashlib.sha256(dump_canonical([dict(binding), content])).hexdigest()
