"""Two processes on a CPU tune the target as one process does."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from accelerate import PartialState
from transformers import TrainerControl, TrainerState, TrainingArguments

from lm.threads import torch_threads
from protocol.errors import ConfigurationError, StageError
from server_side import finetuning
from server_side.children import Child, Children
from server_side.config import FinetuningConfig
from server_side.finetuning import finetune_target
from server_side.samples import CuratedSample
from server_side.tuning import processes as tuning_processes
from server_side.tuning.checkpoints import mark_whole
from server_side.tuning.processes import TuningJob, read_job, write_job
from server_side.tuning.target_adapter import read_adapter
from server_side.tuning.tuned_target import TunedTarget
from tests.support.tiny_models import build_tiny_model

pytestmark = pytest.mark.integration


def _pool() -> list[CuratedSample]:
    return [
        CuratedSample(
            query_id=f"q{i}",
            client_name="north",
            instruction="Answer the message.",
            prompt=f"How is patient {i}?",
            chosen="All is well. " * (1 + i % 3),
            rejected="No.",
            chosen_candidate_id=f"q{i}-0",
            rejected_candidate_id=f"q{i}-1",
            chosen_reward=1.0,
            rejected_reward=0.0,
            chosen_perplexity=3.0,
            round_index=1,
        )
        for i in range(16)
    ]


def _tune(
    target: Path,
    output: Path,
    *,
    num_processes: int,
    learning_rate: float = 1e-2,
    max_grad_norm: float = 1.0,
    objective: str = "sft",
    num_epochs: int = 2,
    **changes: Any,
) -> TunedTarget:
    config = FinetuningConfig(
        lora_rank=2,
        target_modules=["q_proj", "v_proj"],
        learning_rate=learning_rate,
        max_grad_norm=max_grad_norm,
        num_epochs=num_epochs,
        batch_size=8,
        max_physical_batch_size=2,
        checkpoint_steps=2,
        num_processes=num_processes,
        objective=objective,
        dtype="float32",
        report_to="none",
    )
    arguments: dict[str, Any] = {"previous": None, "seed": 3, "round_index": 1}
    return finetune_target(
        _pool(), target_folder=target, config=config, output_folder=output, **arguments | changes
    )


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("target"))


@pytest.mark.parametrize("objective", ["sft", "dpo", "orpo"])
def test_two_processes_end_where_one_does(target: Path, tmp_path: Path, objective: str) -> None:
    """The same samples stand in each step; only the order of additions differs."""
    seen: list[tuple[int, int]] = []

    alone = _tune(target, tmp_path / "alone", num_processes=1, objective=objective)
    together = _tune(
        target,
        tmp_path / "together",
        num_processes=2,
        objective=objective,
        on_progress=lambda done, of: seen.append((done, of)),
    )

    assert together.num_steps == alone.num_steps == 4
    assert together.losses == pytest.approx(alone.losses, rel=1e-3)
    assert together.losses[-1] < together.losses[0]
    one, two = (read_adapter(adapter.folder).tensors for adapter in (alone, together))
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name], tensor, atol=2e-3, err_msg=name)
    assert seen[-1] == (4, 4)
    assert not list((tmp_path / "together").glob("checkpoints/*"))


def test_two_processes_that_were_killed_end_where_one_does_undisturbed(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` to both once a checkpoint of theirs is whole; the next start goes on from it."""
    monkeypatch.setattr(tuning_processes, "_POLL_SECONDS", 0.02)
    output = tmp_path / "together"
    alone = _tune(target, tmp_path / "alone", num_processes=1, num_epochs=10)

    def kill(done: int, of: int) -> None:
        if any((output / "checkpoints").glob("*/whole.json")):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it was killed a moment ago
                    words = process.cmdline()
                    if "server_side.tuning.worker" in words and "--num_processes" not in words:
                        process.kill()

    with pytest.raises(StageError, match="2 processes"):
        _tune(target, output, num_processes=2, num_epochs=10, on_progress=kill)
    again = _tune(target, output, num_processes=2, num_epochs=10)

    assert json.loads((output / "job.json").read_text(encoding="utf-8"))["checkpoint"] is not None
    assert again.num_steps == alone.num_steps == 20
    assert again.losses == pytest.approx(alone.losses, rel=1e-2)


def test_a_checkpoint_is_looked_for_once_before_there_are_several_processes(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that clear away the same remains take them from under each other."""
    jobs: list[TuningJob] = []
    whole, remains = (tmp_path / "checkpoints" / f"checkpoint-{step}" for step in (2, 4))
    for folder in (whole, remains):
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text("{}", encoding="utf-8")
    mark_whole(whole)

    def stop(job: TuningJob, **_: object) -> None:
        assert not remains.exists()
        jobs.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "tune_in_processes", stop)
    with pytest.raises(KeyboardInterrupt):
        _tune(target, tmp_path, num_processes=2)

    assert [job.checkpoint for job in jobs] == [whole]


def test_a_checkpoint_is_vouched_for_once_every_process_has_added_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()

    def wait(_: PartialState) -> None:
        (checkpoint / "rng_state_1.pth").write_bytes(b"of the other process")

    monkeypatch.setattr(PartialState, "wait_for_everyone", wait)
    finetuning._Watcher(None).on_save(
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True),
        TrainerState(global_step=2, is_world_process_zero=True),
        TrainerControl(),
    )

    assert "rng_state_1.pth" in (checkpoint / "whole.json").read_text(encoding="utf-8")


def test_a_failure_in_a_process_is_told_with_the_end_of_what_it_wrote(
    target: Path, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"2 processes to tune the target.*tuning\.log"):
        _tune(target, tmp_path, num_processes=2, learning_rate=1e30, max_grad_norm=1e30)

    assert "Lower finetuning.learning_rate" in (tmp_path / "tuning.log").read_text()
    assert not (tmp_path / "tuned").exists()


def test_processes_share_the_threads_that_the_server_allows(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments: list[dict[str, str]] = []

    def start(
        children: Children, name: str, command: object, *, environment: dict[str, str], cwd: Path
    ) -> Child:
        environments.append(environment)
        raise StageError("seen enough")

    monkeypatch.setattr(Children, "start", start)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with torch_threads(6), pytest.raises(StageError, match="seen enough"):
        _tune(target, tmp_path, num_processes=2)

    assert environments[0]["OMP_NUM_THREADS"] == "3"


def test_a_batch_that_cannot_be_split_evenly_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"finetuning\.num_processes"):
        FinetuningConfig(batch_size=8, num_processes=3)


def test_the_job_is_read_as_it_was_written(target: Path, tmp_path: Path) -> None:
    job = TuningJob(
        pool=tuple(_pool()),
        target_folder=target,
        previous=tmp_path / "previous",
        config=FinetuningConfig(num_processes=2, target_modules=["q_proj"]),
        output_folder=tmp_path,
        checkpoint=tmp_path / "checkpoints" / "checkpoint-2",
        seed=5,
        round_index=2,
    )

    write_job(job, tmp_path / "job.json")

    assert json.loads((tmp_path / "job.json").read_text(encoding="utf-8"))["seed"] == 5
    assert read_job(tmp_path / "job.json") == job
