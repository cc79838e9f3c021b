from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import (
    Gemma3TextConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
)

from lm.context import check_context, max_positions
from lm.errors import ModelFolderError

FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
LONGROPE = {"rope_type": "longrope", **FACTORS}


@pytest.mark.parametrize(("num_tokens", "fits"), [(80, True), (100, False)])
def test_a_text_must_fit_the_window_within_which_a_sampler_continues_it(
    tiny_llama: Path, tmp_path: Path, num_tokens: int, fits: bool
) -> None:
    """A record too long for the window would end a training that is paid for, and so be told."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    config = Gemma3TextConfig(
        num_hidden_layers=6, sliding_window=128, max_position_embeddings=1024, layer_types=None
    )
    config.save_pretrained(folder)
    lengths = {"max_prompt_tokens": num_tokens // 2, "max_response_tokens": num_tokens // 2}

    assert max_positions(config) == 128
    if fits:
        check_context(folder, instruction="", **lengths)
    else:
        with pytest.raises(ModelFolderError, match="which is the sliding_window of"):
            check_context(folder, instruction="", **lengths)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (MistralConfig(sliding_window=256, max_position_embeddings=1024), 256),
        (MistralConfig(sliding_window=None, max_position_embeddings=1024), 1024),
        (Phi3Config(sliding_window=256, max_position_embeddings=1024), 256),
        (Qwen2Config(sliding_window=256, max_position_embeddings=1024), 1024),
        (PretrainedConfig(max_position_embeddings=1024), 1024),
        (
            PretrainedConfig(
                sliding_window=256, use_sliding_window=False, max_position_embeddings=1024
            ),
            1024,
        ),
    ],
)
def test_a_window_of_all_layers_bounds_a_text_where_it_holds(
    config: PretrainedConfig, limit: int
) -> None:
    """Older architectures have a window and name no kinds of layers."""
    assert max_positions(config) == limit


@pytest.mark.parametrize(
    ("changes", "num_tokens", "named"),
    [
        ({}, 900, None),
        ({}, 1100, "max_position_embeddings"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 900, None),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, 900, None),
        (
            {
                "rope_scaling": {
                    "type": "longrope",
                    **FACTORS,
                    "original_max_position_embeddings": 512,
                }
            },
            900,
            "original_max_position_embeddings",
        ),
        (
            {"rope_parameters": LONGROPE, "original_max_position_embeddings": 512},
            900,
            "original_max_position_embeddings",
        ),
        (
            {"rope_parameters": LONGROPE, "original_max_position_embeddings": 512},
            400,
            None,
        ),
    ],
)
def test_texts_must_fit_where_no_text_changes_the_positions_of_others(
    tiny_llama: Path,
    tmp_path: Path,
    changes: dict[str, object],
    num_tokens: int,
    named: str | None,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    lengths = {"max_prompt_tokens": num_tokens // 2, "max_response_tokens": num_tokens // 2}

    if named is None:
        check_context(folder, instruction="Go.", **lengths)
    else:
        with pytest.raises(ModelFolderError, match=f"which is the {named} of"):
            check_context(folder, instruction="Go.", **lengths)
