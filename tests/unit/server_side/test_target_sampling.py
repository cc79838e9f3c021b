"""Whoever samples from the target, to write or to be judged, has it as it was tuned last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lm.adapter_shapes import expected_adapter_shapes
from lm.adapters import write_peft_folder
from lm.tables import TextRow
from server_side import examination
from server_side.config import EvaluationConfig, ServerConfig
from server_side.examination import judge_arm, set_test
from server_side.inputs import JobInputs
from server_side.target_sampling import target_writer
from server_side.tuning.target_adapter import merge_target
from tests.support.fake_proxies import no_progress
from tests.support.releases import LORA
from tests.support.tiny_models import build_tiny_model

CONFIG = ServerConfig(num_threads=1, evaluation=EvaluationConfig(engine="transformers"))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("target") / "model")


def job(target: Path, folder: Path) -> JobInputs:
    return JobInputs(
        run_id="run",
        clients=(),
        certificates=(),
        target_folder=target,
        test_rows=(TextRow(prompt="A question?", response="An answer."),),
        ranked_rows=(),
        test_instruction="Help.",
        public_prompts=(),
        work_folder=folder / "work",
        settings={},
    )


def write_adapter(target: Path, folder: Path, *, seed: int) -> Path:
    """Write an adapter of random weights, another one for each seed."""
    rng = np.random.default_rng(seed)
    shapes = expected_adapter_shapes(target, LORA, has_reward_head=False)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return write_peft_folder(target, tensors, LORA, out_folder=folder)


def merged_under(work: Path) -> list[bytes]:
    return [path.read_bytes() for path in work.glob("*/merged/model.safetensors")]


def test_a_round_that_was_tuned_again_writes_with_its_new_weights(
    target: Path, tmp_path: Path
) -> None:
    """What was merged before a stage fell lies in the work folder still."""
    inputs = job(target, tmp_path)
    first, second = (write_adapter(target, tmp_path / str(n), seed=n) for n in (1, 2))

    for tuned in (first, second):
        writer = target_writer(inputs, tuned, round_index=1, config=CONFIG)
        with writer.sampler(engine="transformers"):
            pass

    (found,) = merged_under(inputs.work_folder)
    merged = merge_target(target_folder=target, adapter=second, out_folder=tmp_path / "merged")
    assert found == (merged / "model.safetensors").read_bytes()


def test_an_arm_that_was_tuned_again_is_judged_by_its_new_weights(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = job(target, tmp_path)
    test = set_test(inputs, (), config=CONFIG)
    monkeypatch.setattr(
        examination,
        "evaluate_target",
        lambda *_, open_sampler, adapter, **__: open_sampler(adapter),
    )

    for number in (1, 2):
        tuned = write_adapter(target, tmp_path / str(number), seed=number)
        judge_arm(test, tuned, on_progress=no_progress).values[0].close()  # type: ignore[attr-defined]

    assert len(set(merged_under(inputs.work_folder))) == 2
