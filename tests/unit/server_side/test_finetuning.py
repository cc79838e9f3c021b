import json
import os
import random
import shutil
import signal
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import modeling_utils
from trl import SFTTrainer

import server_side.tuning.trainers as tuning_trainers
from lm.loading import load_causal_lm, load_tokenizer
from protocol.errors import ConfigurationError, StageError
from server_side.config import FinetuningConfig
from server_side.finetuning import finetune_target
from server_side.samples import CuratedSample
from server_side.tuning.rows import encode_chosen, sft_row
from server_side.tuning.target_adapter import merge_target, read_adapter
from server_side.tuning.tuned_target import TunedTarget
from tests.support.forked import exit_status
from tests.support.tiny_models import build_tiny_model

CONFIG: dict[str, Any] = {
    "lora_rank": 2,
    "lora_alpha": 4.0,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "learning_rate": 1e-2,
    "num_epochs": 3,
    "batch_size": 4,
    "max_physical_batch_size": 2,
    "checkpoint_steps": 2,
    "dtype": "float32",
    "report_to": "none",
}


def _pool(num_samples: int = 10) -> list[CuratedSample]:
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
        for i in range(num_samples)
    ]


def _tune(target: Path, output: Path, **changes: Any) -> TunedTarget:
    arguments: dict[str, Any] = {
        "target_folder": target,
        "previous": None,
        "config": FinetuningConfig(**CONFIG),
        "output_folder": output,
        "seed": 3,
        "round_index": 1,
    }
    return finetune_target(changes.pop("pool", _pool()), **(arguments | changes))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def undisturbed(target: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedTarget:
    return _tune(target, tmp_path_factory.mktemp("undisturbed"))


def test_finetuning_lowers_the_loss_and_reports_every_step(target: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    adapter = _tune(target, tmp_path, on_progress=lambda done, of: seen.append((done, of)))

    assert adapter.losses[-1] < adapter.losses[0]
    assert adapter.num_steps == 9
    assert seen == [(step, 9) for step in range(1, 10)]


def test_finetuning_is_repeatable_on_a_cpu(
    target: Path, undisturbed: TunedTarget, tmp_path: Path
) -> None:
    assert _tune(target, tmp_path).digest == undisturbed.digest


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
def test_adapter_loads_with_peft_and_equals_the_merged_model(
    target: Path, undisturbed: TunedTarget, tmp_path: Path
) -> None:
    ids = torch.tensor([load_tokenizer(target)("hello there")["input_ids"]])
    model = PeftModel.from_pretrained(load_causal_lm(target), undisturbed.folder)
    merged = merge_target(
        target_folder=target, adapter=undisturbed.folder, out_folder=tmp_path / "merged"
    )

    with torch.inference_mode():
        tuned = model(ids).logits
        from_merged = load_causal_lm(merged)(ids).logits
        untuned = load_causal_lm(target)(ids).logits

    assert (tuned - untuned).abs().max() > 0.05
    assert (tuned - from_merged).abs().max() < 0.05  # merged weights are bfloat16


def test_a_finished_tuning_is_returned_and_not_repeated(
    target: Path, undisturbed: TunedTarget
) -> None:
    steps: list[int] = []

    again = _tune(
        target, undisturbed.folder.parent, on_progress=lambda done, of: steps.append(done)
    )

    assert again == undisturbed
    assert steps == []


def test_labels_cover_the_response_and_its_end_only(target: Path) -> None:
    tokenizer = load_tokenizer(target)

    (chat,) = encode_chosen(_pool(1), tokenizer, FinetuningConfig(**CONFIG))
    row = sft_row(chat)
    learnt = [label for label in row["labels"] if label != -100]

    assert tokenizer.decode(learnt) == "All is well. <|im_end|>"
    assert row["input_ids"][-len(learnt) :] == learnt


def test_a_cut_response_has_no_end_to_learn(target: Path) -> None:
    tokenizer = load_tokenizer(target)
    config = FinetuningConfig(**CONFIG, max_response_tokens=6)

    (chat,) = encode_chosen(_pool(1), tokenizer, config)
    row = sft_row(chat)

    assert tokenizer.decode([label for label in row["labels"] if label != -100]) == "All is"


def test_loss_equals_that_of_trl(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortcut for CPUs computes less and means the same."""
    own = tuning_trainers._SftTrainer.compute_loss
    pairs: list[tuple[float, float]] = []

    def both(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = own(self, model, inputs, *args, **kwargs)
        theirs = SFTTrainer.compute_loss(self, model, dict(inputs), *args, **kwargs)
        pairs.append((loss.item(), theirs.item()))
        return loss

    monkeypatch.setattr(tuning_trainers._SftTrainer, "compute_loss", both)
    _tune(target, tmp_path, config=FinetuningConfig(**CONFIG | {"lora_dropout": 0.0}))

    assert len(pairs) > 9
    np.testing.assert_allclose([ours for ours, _ in pairs], [trls for _, trls in pairs], rtol=1e-5)


def test_next_round_goes_on_from_the_previous(
    target: Path, undisturbed: TunedTarget, tmp_path: Path
) -> None:
    second = _tune(target, tmp_path, previous=undisturbed.folder, round_index=2)

    assert second.losses[0] < undisturbed.losses[0]
    assert second.digest != undisturbed.digest


def test_previous_of_another_shape_is_refused(
    target: Path, undisturbed: TunedTarget, tmp_path: Path
) -> None:
    config = FinetuningConfig(**CONFIG | {"lora_rank": 3})

    with pytest.raises(ConfigurationError, match="lora_rank"):
        _tune(target, tmp_path, previous=undisturbed.folder, config=config)


def test_another_pool_in_the_same_folder_is_refused(target: Path, undisturbed: TunedTarget) -> None:
    with pytest.raises(ConfigurationError, match="pool_digest"):
        _tune(target, undisturbed.folder.parent, pool=_pool(9))


def test_an_empty_pool_is_refused(target: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="empty pool"):
        _tune(target, tmp_path, pool=[])


def test_a_diverging_training_leaves_no_adapter(target: Path, tmp_path: Path) -> None:
    config = FinetuningConfig(**CONFIG | {"learning_rate": 1e30, "max_grad_norm": 1e30})

    with pytest.raises(StageError, match="learning_rate"):
        _tune(target, tmp_path, config=config)
    assert not (tmp_path / "tuned").exists()


def test_a_bfloat16_base_keeps_a_float32_adapter(target: Path, tmp_path: Path) -> None:
    adapter = _tune(target, tmp_path, config=FinetuningConfig(**CONFIG | {"dtype": "bfloat16"}))

    assert adapter.losses[-1] < adapter.losses[0]
    assert {str(t.dtype) for t in read_adapter(adapter.folder).tensors.values()} == {"float32"}


def test_gradient_checkpointing_changes_memory_and_not_the_result(
    target: Path, undisturbed: TunedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    checkpoint = modeling_utils.checkpoint

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr(modeling_utils, "checkpoint", counted)

    adapter = _tune(
        target, tmp_path, config=FinetuningConfig(**CONFIG, gradient_checkpointing=True)
    )

    assert calls
    np.testing.assert_allclose(adapter.losses, undisturbed.losses, rtol=1e-4)


def test_only_upper_layers_are_tuned_when_asked(target: Path, tmp_path: Path) -> None:
    adapter = _tune(target, tmp_path, config=FinetuningConfig(**CONFIG, num_upper_layers=1))

    assert all(".layers.1." in name for name in read_adapter(adapter.folder).tensors)


@pytest.mark.parametrize("objective", ["sft", "dpo", "orpo"])
def test_training_speaks_to_nobody(
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    objective: str,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("training tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", refuse)
    # The tests' own switch would keep libraries from what they ask a hub where a user runs them.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("CI", raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = FinetuningConfig(**CONFIG | {"lora_dropout": 0.0, "objective": objective})
        _tune(target, tmp_path, config=config)

    printed = capfd.readouterr()
    assert not caught
    assert printed.out + printed.err == ""


def test_training_leaves_the_global_random_state_alone(target: Path, tmp_path: Path) -> None:
    def drawn_after(work: Callable[[], object]) -> tuple[float, ...]:
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        work()
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: S311 - no secret

    assert drawn_after(lambda: _tune(target, tmp_path)) == drawn_after(lambda: None)


def _tune_and_die(target: Path, output: Path, in_step: int, config: dict[str, Any]) -> None:
    def die(done: int, of: int) -> None:
        if done == in_step:
            os.kill(os.getpid(), signal.SIGKILL)

    _tune(target, output, config=FinetuningConfig(**config), on_progress=die)


def _kill(target: Path, output: Path, *, in_step: int, config: dict[str, Any]) -> None:
    assert exit_status(_tune_and_die, target, output, in_step, config) == -signal.SIGKILL
    assert not (output / "tuned").exists()


@pytest.fixture(scope="module")
def killed(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training of 9 steps that a signal ended in step 7."""
    output = tmp_path_factory.mktemp("killed")
    _kill(target, output, in_step=7, config=CONFIG)
    return output


@pytest.mark.integration
@pytest.mark.parametrize(
    ("damage", "first_step"),
    [("none", 7), ("truncated", 5), ("file_gone", 5), ("list_gone", 5), ("all_gone", 1)],
)
def test_killed_training_ends_as_if_nothing_had_happened(
    target: Path,
    undisturbed: TunedTarget,
    killed: Path,
    tmp_path: Path,
    damage: str,
    first_step: int,
) -> None:
    """A half-written checkpoint is skipped for the one before it."""
    output = Path(shutil.copytree(killed, tmp_path / "again"))
    newest = output / "checkpoints" / "checkpoint-6"
    weights = newest / "adapter_model.safetensors"
    match damage:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-8])
        case "file_gone":
            weights.unlink()
        case "list_gone":
            (newest / "whole.json").unlink()
        case "all_gone":
            shutil.rmtree(output / "checkpoints")
    steps: list[int] = []

    adapter = _tune(target, output, on_progress=lambda done, of: steps.append(done))

    assert steps == list(range(first_step, 10))
    assert adapter.digest == undisturbed.digest
    assert adapter.losses == undisturbed.losses
    (output / "checkpoints").mkdir()  # as where it is killed before it has cleared up
    _tune(target, output)
    assert not (output / "checkpoints").exists()


@pytest.mark.integration
@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "dpo"},
        {"objective": "orpo", "use_rslora": True},
        {"method": "full", "objective": "dpo", "learning_rate": 1e-3},
    ],
    ids=["dpo", "orpo", "full-dpo"],
)
def test_killed_training_ends_as_if_nothing_had_happened_in_every_way_to_tune(
    target: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = CONFIG | {"lora_dropout": 0.0, "num_epochs": 2} | changes
    whole = _tune(target, tmp_path / "whole", config=FinetuningConfig(**config))
    _kill(target, tmp_path / "killed", in_step=5, config=config)
    steps: list[int] = []

    again = _tune(
        target,
        tmp_path / "killed",
        config=FinetuningConfig(**config),
        on_progress=lambda done, of: steps.append(done),
    )

    assert steps == [5, 6]
    assert again.losses == whole.losses
    assert again.digest == whole.digest


@pytest.mark.parametrize("num_samples", [3, 10])
def test_steps_that_are_named_are_made_whatever_the_size_of_the_pool(
    num_samples: int, target: Path, tmp_path: Path
) -> None:
    config = FinetuningConfig(**CONFIG | {"num_steps": 11}).in_round(2, num_rounds=2)

    tuned = _tune(target, tmp_path, pool=_pool(num_samples), config=config, round_index=2)

    # By passes it would be 3 or 9.
    assert len(tuned.losses) == 5


@pytest.mark.parametrize(("num_steps", "shares"), [(100, [34, 33, 33]), (11, [4, 4, 3])])
def test_rounds_share_all_steps_and_the_first_take_what_is_left_over(
    num_steps: int, shares: list[int]
) -> None:
    config = FinetuningConfig(num_steps=num_steps)

    assert [config.in_round(n, num_rounds=3).num_steps for n in (1, 2, 3)] == shares
    assert FinetuningConfig().in_round(1, num_rounds=3) == FinetuningConfig()


def test_description_file_names_what_is_trained(undisturbed: TunedTarget) -> None:
    description = json.loads((undisturbed.folder.parent / "training.json").read_text())

    assert description["config"]["lora_rank"] == 2
    assert description["seed"] == 3
