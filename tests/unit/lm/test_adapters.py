from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lm.adapter_shapes import Tensors, expected_adapter_shapes
from lm.adapters import adapter_tensors, attach_lora, freeze_a, load_adapter, merge_adapter
from lm.errors import ModelFolderError
from lm.loading import load_causal_lm
from lm.model_folders import check_model_folder
from protocol.artifacts import LoraShape

LORA = LoraShape(
    rank=2, alpha=4.0, target_modules=("q_proj", "v_proj"), num_upper_layers=None, use_rslora=False
)


def _random_tensors(folder: Path, lora: LoraShape) -> Tensors:
    rng = np.random.default_rng(0)
    shapes = expected_adapter_shapes(folder, lora, has_reward_head=False)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "lora",
    [
        LORA,
        replace(LORA, num_upper_layers=1),
        replace(LORA, use_rslora=True, rank=4),
        replace(
            LORA,
            target_modules=(
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
            ),
        ),
    ],
)
def test_expected_shapes_are_those_of_an_attached_adapter(
    tiny_model: Path, lora: LoraShape
) -> None:
    adapted = attach_lora(load_causal_lm(tiny_model), lora, seed=0)

    shapes = expected_adapter_shapes(tiny_model, lora, has_reward_head=False)

    assert {name: t.shape for name, t in adapter_tensors(adapted).items()} == shapes


def test_expected_shapes_name_a_reward_head_where_asked(tiny_llama: Path) -> None:
    shapes = expected_adapter_shapes(tiny_llama, LORA, has_reward_head=True)

    assert shapes["reward_head.weight"] == (1, 32)


def test_an_unknown_target_module_is_an_error(tiny_llama: Path) -> None:
    lora = replace(LORA, target_modules=("q_proj", "query"))

    with pytest.raises(ModelFolderError, match="layers named query"):
        expected_adapter_shapes(tiny_llama, lora, has_reward_head=False)


def test_the_same_seed_gives_the_same_adapter(tiny_llama: Path) -> None:
    first = adapter_tensors(attach_lora(load_causal_lm(tiny_llama), LORA, seed=3))
    second = adapter_tensors(attach_lora(load_causal_lm(tiny_llama), LORA, seed=3))

    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_loading_puts_back_what_was_taken_out(tiny_llama: Path) -> None:
    tensors = _random_tensors(tiny_llama, LORA)

    adapted = load_adapter(load_causal_lm(tiny_llama), tensors, LORA)

    found = adapter_tensors(adapted)
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert not any(p.requires_grad for p in adapted.parameters())


def test_adapter_weights_are_float32_on_a_bfloat16_base(tiny_llama: Path) -> None:
    """Small DP updates would vanish in bfloat16."""
    adapted = attach_lora(load_causal_lm(tiny_llama, dtype=torch.bfloat16), LORA, seed=0)

    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}


def test_a_merged_folder_computes_what_base_and_adapter_do(
    tiny_model: Path, tmp_path: Path
) -> None:
    tensors = _random_tensors(tiny_model, LORA)
    ids = torch.tensor([[1, 50, 60, 70]])

    folder = merge_adapter(
        tiny_model, tensors, LORA, out_folder=tmp_path / "merged", dtype=torch.float32
    )

    check_model_folder(folder)
    expected = load_adapter(load_causal_lm(tiny_model), tensors, LORA)(input_ids=ids).logits
    torch.testing.assert_close(
        load_causal_lm(folder)(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5
    )
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize(
    ("lora", "scale"),
    [
        (LORA, 4 / 2),
        (replace(LORA, rank=4, alpha=6.0, use_rslora=True), 6 / math.sqrt(4)),
    ],
)
def test_an_adapter_adds_b_times_a_by_the_scale_of_its_kind(
    tiny_llama: Path, tmp_path: Path, lora: LoraShape, scale: float
) -> None:
    """LoRA divides alpha by the rank, rank-stabilised LoRA by the root of the rank."""
    tensors = _random_tensors(tiny_llama, lora)

    folder = merge_adapter(
        tiny_llama, tensors, lora, out_folder=tmp_path / "merged", dtype=torch.float32
    )

    base, merged = (load_causal_lm(path).state_dict() for path in (tiny_llama, folder))
    layers = {name.rsplit(".lora_", 1)[0] for name in tensors}
    assert len(layers) == 4
    for layer in layers:
        added = (merged[f"{layer}.weight"] - base[f"{layer}.weight"]).numpy()
        a, b = (tensors[f"{layer}.lora_{factor}.weight"] for factor in "AB")
        np.testing.assert_allclose(added, scale * (b @ a), rtol=1e-4, atol=1e-5)


def test_freezing_a_leaves_b_alone_trainable(tiny_llama: Path) -> None:
    adapted = attach_lora(load_causal_lm(tiny_llama), LORA, seed=0)

    freeze_a(adapted)

    trainable = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trainable
    assert all(".lora_B." in name for name in trainable)


def test_read_only_weights_are_loaded_as_they_are(tiny_llama: Path) -> None:
    """What admission hands on is read-only, and torch warns of arrays that it cannot write to."""
    tensors = _random_tensors(tiny_llama, LORA)
    for tensor in tensors.values():
        tensor.flags.writeable = False

    adapted = load_adapter(load_causal_lm(tiny_llama), tensors, LORA)

    found = adapter_tensors(adapted)
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
