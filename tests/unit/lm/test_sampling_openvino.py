from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from lm import gguf_writer
from lm.errors import SamplingError
from lm.gguf_writer import cached_gguf
from lm.sampling import SamplingParams
from lm.sampling_openvino import OpenVinoSampler
from tests.support.sampling import PREFIXES, build_opinionated_model

PARAMS = SamplingParams(max_new_tokens=10, num_candidates=4)
STOP_IDS = frozenset({0, 2})


def test_a_conversion_is_made_once_for_equal_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_opinionated_model(tmp_path / "first", architecture="llama")
    second = build_opinionated_model(tmp_path / "second", architecture="llama")
    file = cached_gguf(first, stop_ids=STOP_IDS, cache_folder=tmp_path)
    monkeypatch.setattr(gguf_writer, "write_gguf", None)

    assert cached_gguf(second, stop_ids=STOP_IDS, cache_folder=tmp_path) == file


def test_other_weights_get_another_conversion(tmp_path: Path) -> None:
    folders = [
        build_opinionated_model(tmp_path / str(seed), architecture="llama", seed=seed)
        for seed in (1, 2)
    ]

    files = {cached_gguf(f, stop_ids=STOP_IDS, cache_folder=tmp_path) for f in folders}

    assert len(files) == 2


def test_a_conversion_that_breaks_off_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_opinionated_model(tmp_path / "model", architecture="llama")
    monkeypatch.setattr(gguf_writer, "_stored", _raise_no_space)

    with pytest.raises(SamplingError, match=r"No space left.*REWARDDS_CACHE"):
        cached_gguf(folder, stop_ids=STOP_IDS, cache_folder=tmp_path / "cache")

    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


def test_frequencies_that_older_libraries_saved_with_the_weights_are_left_out(
    tmp_path: Path,
) -> None:
    """They follow from the settings, which the file holds."""
    folder = build_opinionated_model(tmp_path / "model", architecture="llama")
    weights = load_file(folder / "model.safetensors")
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    plain = cached_gguf(folder, stop_ids=STOP_IDS, cache_folder=tmp_path)

    save_file(weights | frequencies, folder / "model.safetensors", metadata={"format": "pt"})
    file = cached_gguf(folder, stop_ids=STOP_IDS, cache_folder=tmp_path)

    assert file != plain
    assert [t.name for t in GGUFReader(file).tensors] == [t.name for t in GGUFReader(plain).tensors]


@pytest.mark.parametrize("value", [1e5, float("nan"), float("-inf")])
def test_a_weight_that_does_not_fit_is_refused(tmp_path: Path, value: float) -> None:
    folder = build_opinionated_model(tmp_path / "model", architecture="llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(SamplingError, match=r"at most 65504 in model\.layers\.0\.mlp\.up_proj"):
        cached_gguf(folder, stop_ids=STOP_IDS, cache_folder=tmp_path)


def test_a_model_with_an_output_layer_of_its_own_keeps_it(tmp_path: Path) -> None:
    folder = build_opinionated_model(tmp_path / "model", architecture="llama")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = folder / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))

    file = cached_gguf(folder, stop_ids=STOP_IDS, cache_folder=tmp_path)

    assert "output.weight" in {tensor.name for tensor in GGUFReader(file).tensors}


@pytest.mark.parametrize("limits", [{"max_batch_rows": 4}, {"max_batch_tokens": 50}])
def test_batch_limits_change_no_completion(tmp_path: Path, limits: dict[str, int]) -> None:
    folder = build_opinionated_model(tmp_path / "model", architecture="llama")
    outputs = [
        OpenVinoSampler.open(
            folder, num_threads=1, cache_folder=tmp_path, dtype=torch.float32, **given
        ).sample(PREFIXES, PARAMS, seed=1)
        for given in ({}, limits)
    ]

    assert outputs[0] == outputs[1]


def test_an_abandoned_call_does_not_disturb_the_next(tmp_path: Path) -> None:
    folder = build_opinionated_model(tmp_path / "model", architecture="llama")
    sampler = OpenVinoSampler.open(
        folder, num_threads=1, cache_folder=tmp_path, max_batch_rows=4, dtype=torch.float32
    )
    expected = sampler.sample(PREFIXES, PARAMS, seed=1)

    with pytest.raises(KeyboardInterrupt):
        sampler.sample(PREFIXES, PARAMS, seed=2, on_progress=_interrupt)

    assert sampler.sample(PREFIXES, PARAMS, seed=1) == expected


def test_telemetry_is_never_loaded() -> None:
    program = (
        "import sys, lm.sampling_openvino\n"
        "loaded = [n for n, m in sys.modules.items() if n.startswith('openvino_telemetry') and m]\n"
        "sys.exit(len(loaded))"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert finished.returncode == 0, finished.stderr.decode()


def _raise_no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def _interrupt(num_done: int, num_rows: int) -> None:
    raise KeyboardInterrupt


_STOPPED_AFTER_SAMPLING = """
import signal, sys, torch
from pathlib import Path
from lm.leaving import raise_on
from lm.sampling import SamplingParams
from lm.sampling_openvino import OpenVinoSampler
sampler = OpenVinoSampler.open(
    Path(sys.argv[1]), num_threads=1, cache_folder=Path(sys.argv[2]), dtype=torch.float32
)
sampler.sample([[1, 2]], SamplingParams(max_new_tokens=4), seed=0)
raise_on({signal.SIGTERM: lambda: SystemExit(143)})
if sys.argv[3] == "closed":
    sampler.close()
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize("state", ["open", "closed"])
def test_a_process_that_sampled_can_still_be_stopped_in_order(
    tiny_llama: Path, tmp_path: Path, state: str
) -> None:
    """The engine leaves a stack for signals that is too small for one on a core with AMX."""
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_AFTER_SAMPLING, str(tiny_llama), str(tmp_path), state],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 143, done.stderr
