from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3Config,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeHybridConfig,
    Lfm2Config,
    MistralConfig,
    PhiConfig,
    PretrainedConfig,
)

from lm.errors import ModelFolderError
from lm.loading import check_loadable, load_causal_lm

SHAPE = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def write_settings(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    config = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (GraniteConfig(**SHAPE, logits_scaling=8.0), r"logits_scaling=8\.0"),
        (CohereConfig(**SHAPE, logit_scale=0.0625), r"logit_scale=0\.0625"),
        (Gemma2Config(**SHAPE, head_dim=8), r"final_logit_softcapping=30\.0"),
        (PhiConfig(**SHAPE), "found one with it"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_model_whose_logits_are_more_than_its_heads_product_is_refused(
    copy: Path, config: PretrainedConfig, named: str
) -> None:
    """Its likelihoods would silently be those of another model."""
    config.save_pretrained(copy)

    with pytest.raises(ModelFolderError, match=named):
        check_loadable(copy)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (Gemma3Config(), "num_hidden_layers=None"),
        (GPT2Config(), "num_hidden_layers=None"),
        (FalconH1Config(**SHAPE), "layer_types with hybrid"),
        (Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]), "layer_types with conv"),
        (GraniteMoeHybridConfig(), "layer_types with linear_attention"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_model_of_nested_settings_or_other_layers_is_refused_by_what_it_has(
    copy: Path, config: PretrainedConfig, named: str
) -> None:
    config.save_pretrained(copy)

    with pytest.raises(ModelFolderError, match=named) as caught:
        check_loadable(copy)
    assert str(copy) in str(caught.value)


def test_a_model_that_would_add_a_mask_of_truth_values_to_its_scores_is_refused(copy: Path) -> None:
    """GPT-OSS has sinks in its attention, and no implementation but the eager one."""
    GptOssConfig(**SHAPE, num_local_experts=2, num_experts_per_tok=1).save_pretrained(copy)

    with pytest.raises(ModelFolderError, match="found that gpt_oss has none"):
        check_loadable(copy)


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**SHAPE, logits_scaling=1.0),
        MistralConfig(**SHAPE),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_of_another_architecture_whose_logits_are_its_heads_is_taken(
    copy: Path, config: PretrainedConfig
) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(copy)

    assert {"q_proj", "v_proj"} <= check_loadable(copy)


def test_quantised_weights_are_refused_before_they_are_paid_for(copy: Path) -> None:
    write_settings(copy, quantization_config={"quant_method": "gptq", "bits": 4})

    with pytest.raises(ModelFolderError, match="found a quantization_config"):
        check_loadable(copy)
    with pytest.raises(ModelFolderError, match="loadable causal language model"):
        load_causal_lm(copy)


@pytest.mark.parametrize("is_absent", [True, False])
def test_a_weight_that_would_be_a_random_one_is_refused(copy: Path, is_absent: bool) -> None:
    weights = load_file(copy / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    del weights[name]
    if not is_absent:
        weights[name] = torch.zeros(3, 32)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelFolderError, match=f"found 1 that are absent.*{name}"):
        check_loadable(copy)


def test_every_file_of_weights_that_the_index_names_must_be_there(
    tiny_qwen2: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_qwen2, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    load_causal_lm(tiny_qwen2).save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1

    check_loadable(folder)
    shards[0].unlink()

    with pytest.raises(ModelFolderError, match=f"Expected {shards[0].name} in"):
        check_loadable(folder)


def test_only_layers_that_an_adapter_is_laid_out_for_count_as_its_places(tiny_qwen2: Path) -> None:
    """Embeddings and head would be refused only where the adapter's shape is asked for."""
    places = check_loadable(tiny_qwen2)

    assert places == {*(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))}
