"""Trackers write into the run folder, and to nobody else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from protocol.errors import ConfigurationError
from server_side.config import FinetuningConfig
from server_side.tuning.tuned_target import TunedTarget
from tests.support.tiny_models import build_tiny_model
from tests.unit.server_side.test_finetuning import CONFIG, _tune


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("target"))


def _tracked(target: Path, folder: Path, tracker: str, **changes: object) -> TunedTarget:
    config = FinetuningConfig(**CONFIG | {"report_to": tracker, "num_epochs": 1})
    return _tune(target, folder, config=config, **changes)


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_an_early_error(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigurationError, match=f"package {tracker} because.*report_to") as caught:
        _tracked(target, tmp_path, tracker)
    assert not (tmp_path / "training.json").exists()
    extra = "server" if tracker == "tensorboard" else tracker
    assert f"pip install -e '.[{extra}]'" in str(caught.value)


def test_tensorboard_files_hold_the_losses_and_outlive_the_checkpoints(
    target: Path, tmp_path: Path
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    tuned = _tracked(target, tmp_path, "tensorboard")
    found = events.EventAccumulator(str(tmp_path / "curves"))
    found.Reload()

    assert not (tmp_path / "checkpoints").exists()
    losses = [event.value for event in found.Scalars("train/loss")]
    assert losses == pytest.approx(list(tuned.losses), rel=1e-4)


def test_mlflow_keeps_its_run_in_the_run_folder(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://curves.invalid")
    before = mlflow.get_tracking_uri()

    tuned = _tracked(target, tmp_path, "mlflow")
    (file,) = (tmp_path / "curves").glob("*/*/metrics/loss")
    losses = [float(line.split()[1]) for line in file.read_text().splitlines()]

    assert losses == pytest.approx(list(tuned.losses), rel=1e-4)
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None


def test_wandb_writes_offline_and_one_run_for_each_round(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")

    first = _tracked(target, tmp_path / "1", "wandb")
    _tracked(target, tmp_path / "2", "wandb", previous=first.folder, round_index=2)

    for folder in (tmp_path / "1", tmp_path / "2"):
        assert len(list(folder.glob("curves/wandb/offline-run-*/*.wandb"))) == 1
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert os.environ["WANDB_MODE"] == "online"


def test_tensorboard_asks_nobody(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("a tracker tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    assert _tracked(target, tmp_path, "tensorboard").num_steps == 3
