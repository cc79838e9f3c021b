"""Two processes on a CPU tune the target as one process does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.errors import ConfigurationError, StageError
from server_side.config import FinetuningConfig
from server_side.finetuning import finetune_target
from server_side.samples import CuratedSample
from server_side.target_adapter import read_adapter
from server_side.tuned_target import TunedTarget
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
    **changes: Any,
) -> TunedTarget:
    config = FinetuningConfig(
        lora_rank=2,
        target_modules=["q_proj", "v_proj"],
        learning_rate=learning_rate,
        max_grad_norm=max_grad_norm,
        num_epochs=2,
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


def test_a_failure_in_a_process_is_told_with_the_end_of_what_it_wrote(
    target: Path, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"2 processes to tune the target.*tuning\.log"):
        _tune(target, tmp_path, num_processes=2, learning_rate=1e30, max_grad_norm=1e30)

    assert "Lower finetuning.learning_rate" in (tmp_path / "tuning.log").read_text()
    assert not (tmp_path / "tuned").exists()


def test_a_batch_that_cannot_be_split_evenly_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"finetuning\.num_processes"):
        FinetuningConfig(batch_size=8, num_processes=3)


def test_the_job_is_read_as_it_was_written(target: Path, tmp_path: Path) -> None:
    from server_side.tuning_processes import TuningJob, read_job, write_job

    job = TuningJob(
        pool=tuple(_pool()),
        target_folder=target,
        previous=tmp_path / "previous",
        config=FinetuningConfig(num_processes=2, target_modules=["q_proj"]),
        output_folder=tmp_path,
        seed=5,
        round_index=2,
    )

    write_job(job, tmp_path / "job.json")

    assert json.loads((tmp_path / "job.json").read_text(encoding="utf-8"))["seed"] == 5
    assert read_job(tmp_path / "job.json") == job
