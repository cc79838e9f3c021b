"""The saved state of a training: whole or not at all, its owner's alone, and never another's."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_side.config import ClientConfig
from client_side.training_state import (
    Binding,
    TrainingState,
    TrainingStateError,
    TrainingStateFile,
    bind_training,
)
from protocol.errors import BudgetError
from protocol.ledger import DpSgdEvent, ProxyKind

REQUEST = "ab" * 32
STATE = TrainingState(
    losses=(3.5, math.nan),
    arrays={
        "weights/b": np.array([[1.0, -0.0]], dtype=np.float32),
        "sum/b": np.array([[0.1, 1e-300]], dtype=np.float64),
    },
)
EVENT = DpSgdEvent(proxy=ProxyKind.GENERATOR, noise_multiplier=0.7, sample_rate=0.1, steps=4)


def binding(**changes: Any) -> Binding:
    values: dict[str, Any] = {
        "reservation_id": "0123",
        "proxy": ProxyKind.GENERATOR,
        "event": EVENT,
        "config": ClientConfig(),
        "base_model_digest": "cd" * 32,
        "code_digest": "ef" * 32,
        "generator_release": None,
    }
    return bind_training(**(values | changes))


def saved(folder: Path) -> TrainingStateFile:
    file = TrainingStateFile(folder, REQUEST)
    file.save(STATE, binding())
    return file


def path_in(folder: Path) -> Path:
    (path,) = (folder / "training").iterdir()
    return path


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    found = saved(tmp_path).load(binding())

    assert found.num_steps == 2
    assert np.array(found.losses).tobytes() == np.array(STATE.losses).tobytes()
    assert found.arrays.keys() == STATE.arrays.keys()
    for name, array in STATE.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].tobytes() == array.tobytes()


def test_a_training_at_its_start_has_a_state_too(tmp_path: Path) -> None:
    file = TrainingStateFile(tmp_path, REQUEST)
    file.save(TrainingState(), binding())

    assert file.load(binding()).num_steps == 0


def test_file_and_folders_are_for_the_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        saved(tmp_path / "work")
    finally:
        os.umask(before)

    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "work", *(tmp_path / "work").rglob("*"))
    }
    assert sorted(modes.values()) == [0o600, 0o700, 0o700]


def test_repr_shows_no_loss_and_no_weight() -> None:
    """Both are private, and a repr ends up in logs."""
    assert repr(STATE) == "TrainingState()"


def test_a_missing_state_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(TrainingStateError, match="found none"):
        TrainingStateFile(tmp_path, REQUEST).load(binding())


@given(place=st.floats(0.0, 1.0, exclude_max=True), bit=st.integers(0, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_state_with_any_bit_changed_is_not_taken(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("state")
    file = saved(folder)
    data = bytearray(path_in(folder).read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path_in(folder).write_bytes(data)

    try:
        found = file.load(binding())
    except TrainingStateError:
        return
    # A space more or less in the header says the same as before, and changes nothing.
    assert found.num_steps == STATE.num_steps
    assert all(found.arrays[n].tobytes() == a.tobytes() for n, a in STATE.arrays.items())


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_state_that_was_cut_short_is_damaged(tmp_path: Path, size: int) -> None:
    file = saved(tmp_path)
    path_in(tmp_path).write_bytes(path_in(tmp_path).read_bytes()[:size])

    with pytest.raises(TrainingStateError, match="found it damaged"):
        file.load(binding())


def _change(room: str, **changes: Any) -> ClientConfig:
    config = ClientConfig()
    return replace(config, **{room: replace(getattr(config, room), **changes)})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("reservation", lambda: {"reservation_id": "4567"}),
        ("event", lambda: {"event": replace(EVENT, steps=5)}),
        ("event", lambda: {"event": replace(EVENT, noise_multiplier=0.6)}),
        ("base model", lambda: {"base_model_digest": "00" * 32}),
        ("code", lambda: {"code_digest": "00" * 32}),
        ("start", lambda: {"start_digest": "00" * 32}),
        ("generator", lambda: {"config": _change("generator", learning_rate=1e-3)}),
        ("generator", lambda: {"config": _change("generator", max_grad_norm=0.2)}),
        ("records", lambda: {"config": _change("records", declared_size=2000)}),
        ("budget", lambda: {"config": _change("budget", target_epsilon=2.0)}),
        ("budget", lambda: {"config": _change("budget", noise_seed=1)}),
    ],
)
def test_a_state_of_something_else_is_refused_by_name(
    tmp_path: Path, name: str, change: Callable[[], dict[str, Any]]
) -> None:
    file = saved(tmp_path)

    with pytest.raises(TrainingStateError, match=f"another value of: {name}\\."):
        file.load(binding(**change()))


def test_a_reward_training_is_bound_to_what_writes_its_negatives(tmp_path: Path) -> None:
    reward: dict[str, Any] = {
        "proxy": ProxyKind.REWARD,
        "event": replace(EVENT, proxy=ProxyKind.REWARD),
    }
    file = TrainingStateFile(tmp_path, REQUEST)
    file.save(STATE, binding(**reward, generator_release=b"one"))

    with pytest.raises(TrainingStateError, match="generator release"):
        file.load(binding(**reward, generator_release=b"two"))
    with pytest.raises(TrainingStateError, match="preferences"):
        file.load(
            binding(
                **reward, generator_release=b"one", config=_change("preferences", temperature=0.5)
            )
        )


def test_before_the_first_step_other_preferences_fit_and_nothing_else_does(tmp_path: Path) -> None:
    """Nothing of a step exists, and what failed may be theirs to mend."""
    reward: dict[str, Any] = {
        "proxy": ProxyKind.REWARD,
        "event": replace(EVENT, proxy=ProxyKind.REWARD),
        "generator_release": b"one",
    }
    file = TrainingStateFile(tmp_path, REQUEST)
    file.save(TrainingState(), binding(**reward))
    mended = _change("preferences", temperature=0.5)

    assert file.load(binding(**reward, config=mended)).num_steps == 0
    for name, change in {
        "generator release": {"generator_release": b"two"},
        "reservation": {"reservation_id": "4567"},
        "base model": {"base_model_digest": "00" * 32},
        "code": {"code_digest": "00" * 32},
        "start": {"start_digest": "00" * 32},
        "records": {"config": replace(mended, records=replace(mended.records, declared_size=2000))},
        "budget": {"config": replace(mended, budget=replace(mended.budget, target_epsilon=2.0))},
    }.items():
        changed = reward | {"config": mended} | change
        with pytest.raises(TrainingStateError, match=f"another value of: {name}\\."):
            file.load(binding(**changed))


@pytest.mark.parametrize(
    ("room", "changes"),
    [("generator", {"max_batch_tokens": 64}), ("budget", {"lifetime_epsilon_cap": 20.0})],
)
def test_what_changes_neither_mechanism_nor_price_may_change(
    tmp_path: Path, room: str, changes: dict[str, Any]
) -> None:
    """An operator whose memory ran out, or who raised the cap, keeps the training."""
    found = saved(tmp_path).load(binding(config=_change(room, **changes)))

    assert found.num_steps == 2


def test_a_full_disk_is_an_error_and_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path)

    def write_a_little(descriptor: int, data: bytes, offset: int) -> int:
        os.write(descriptor, data[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", write_a_little)
        with pytest.raises(BudgetError, match="No space left on device"):
            file.save(TrainingState(losses=(1.0, 2.0, 3.0)), binding())

    assert file.load(binding()).num_steps == 2
    assert len(list((tmp_path / "training").iterdir())) == 1


def test_discarding_takes_what_a_killed_save_left_with_it(tmp_path: Path) -> None:
    file = saved(tmp_path)
    (tmp_path / "training" / f".{REQUEST}.safetensors.4711.partial").write_bytes(b"half")
    (tmp_path / "training" / "another.safetensors").write_bytes(b"not ours")

    file.discard()
    file.discard()

    assert [path.name for path in (tmp_path / "training").iterdir()] == ["another.safetensors"]
