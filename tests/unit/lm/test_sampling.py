from __future__ import annotations

import json
import logging
import re
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lm
from lm.errors import ModelFolderError, SamplingError
from lm.loading import load_tokenizer
from lm.sampling import (
    SamplingEngine,
    SamplingParams,
    check_prefixes,
    open_sampler,
    prefix_seeds,
    stop_token_ids,
)
from lm.sampling_openvino import OpenVinoSampler
from lm.sampling_transformers import TransformersSampler
from tests.support.sampling import PREFIXES, set_stop_ids
from tests.support.tiny_models import build_tiny_model


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("num_candidates", 0),
        ("temperature", 0.0),
        ("temperature", 1e-40),
        ("temperature", 1e7),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-40),
        ("repetition_penalty", float("nan")),
    ],
)
def test_sampling_params_refuse_a_value_out_of_range(field: str, value: float) -> None:
    with pytest.raises(SamplingError, match=rf"Expected {field} .* got {field}={value}\..*\.$"):
        SamplingParams(**{"max_new_tokens": 5, field: value})  # type: ignore[arg-type]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), max_size=8), st.integers())
def test_prefix_seeds_do_not_depend_on_the_other_prefixes(
    prefixes: list[list[int]], seed: int
) -> None:
    marked = [8, 8, 8, 8]  # longer than any other

    alone = prefix_seeds([marked], seed)
    together = prefix_seeds([*prefixes, marked, *prefixes], seed)

    assert together[len(prefixes)] == alone[0]
    assert len(set(together)) == len(together)
    assert all(0 <= value < 2**63 for value in together)


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=2), st.text(max_size=2))),
    st.integers(),
)
def test_salted_prefix_seeds_do_not_depend_on_the_same_prefix_elsewhere(
    others: list[tuple[list[int], str]], seed: int
) -> None:
    prefixes, salts = [prefix for prefix, _ in others], [salt for _, salt in others]

    alone = prefix_seeds([[1]], seed, ["own"])
    together = prefix_seeds([*prefixes, [1], *prefixes], seed, [*salts, "own", *salts])

    assert together[len(others)] == alone[0]
    assert alone[0] not in together[: len(others)]


@pytest.mark.parametrize("engine", [SamplingEngine.OPENVINO, SamplingEngine.TRANSFORMERS])
def test_a_salted_prefix_writes_the_same_wherever_it_stands(
    engine: SamplingEngine, tiny_llama: Path, tmp_path: Path
) -> None:
    params = SamplingParams(max_new_tokens=12, top_p=1.0)
    with closing(
        open_sampler(tiny_llama, engine=engine, cache_folder=tmp_path, device="cpu", num_threads=1)
    ) as sampler:
        one = sampler.sample([PREFIXES[0]] * 2, params, seed=1, salts=["a", "b"])
        other = sampler.sample([PREFIXES[0]] * 2, params, seed=1, salts=["b", "a"])

    assert one == other[::-1]
    assert one[0] != one[1]


def test_prefix_seeds_change_with_the_seed() -> None:
    assert not set(prefix_seeds(PREFIXES, 1)) & set(prefix_seeds(PREFIXES, 2))


def test_stop_token_ids_collect_every_known_end(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model")
    set_stop_ids(folder, [17, 18])
    tokenizer = load_tokenizer(folder)

    found = stop_token_ids(folder, tokenizer)

    named = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    assert found == {17, 18} | named


@pytest.mark.parametrize("prefix", [(), (1,) * 91])
def test_check_prefixes_names_what_is_too_short_or_too_long(prefix: tuple[int, ...]) -> None:
    params = SamplingParams(max_new_tokens=10)

    with pytest.raises(SamplingError, match=f"1 to 90 tokens .* {len(prefix)} tokens at position"):
        check_prefixes([(1, 2), prefix], params, max_positions=100)


def test_auto_takes_openvino_for_an_architecture_that_it_knows(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="lm.sampling"):
        sampler = open_sampler(tiny_model, cache_folder=tmp_path, device="cpu", num_threads=1)

    assert isinstance(sampler, OpenVinoSampler)
    assert "Sampling with openvino" in caplog.text
    sampler.close()


misread = pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention_bias": True}, "biases"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "linear"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"head_dim": 16}, "heads"),
    ],
)


@misread
def test_auto_takes_transformers_for_a_model_that_openvino_would_misread(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, object],
    reason: str,
) -> None:
    folder = _changed_model(tmp_path, change)
    opened: list[Path] = []
    # The weights do not fit what the config says now; which engine is taken is what counts.
    monkeypatch.setattr(TransformersSampler, "open", lambda model, **_: opened.append(model))

    with caplog.at_level(logging.INFO, logger="lm.sampling"):
        open_sampler(folder, engine=SamplingEngine.AUTO, device="cpu")

    assert opened == [folder]
    assert re.search(f"Sampling with transformers: .*{reason}", caplog.text)


@misread
def test_openvino_refuses_a_model_that_it_would_misread(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    folder = _changed_model(tmp_path, change)

    with pytest.raises(SamplingError) as error:
        open_sampler(folder, engine=SamplingEngine.OPENVINO, device="cpu")

    assert reason in str(error.value)
    assert "engine=transformers" in str(error.value)


def test_auto_falls_back_where_openvino_does_not_import(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(lm, "sampling_openvino")
    monkeypatch.setitem(sys.modules, "lm.sampling_openvino", None)

    sampler = open_sampler(tiny_llama, device="cpu")

    assert isinstance(sampler, TransformersSampler)


def test_open_sampler_refuses_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError):
        open_sampler(tmp_path)


@pytest.mark.parametrize("engine", [SamplingEngine.OPENVINO, SamplingEngine.TRANSFORMERS])
def test_a_closed_sampler_refuses(engine: SamplingEngine, tiny_llama: Path, tmp_path: Path) -> None:
    sampler = open_sampler(tiny_llama, engine=engine, cache_folder=tmp_path, device="cpu")
    sampler.close()

    with pytest.raises(SamplingError, match="closed"):
        sampler.sample([(1, 2)], SamplingParams(max_new_tokens=2), seed=0)


def _changed_model(folder: Path, change: dict[str, object]) -> Path:
    model = build_tiny_model(folder / "model")
    file = model / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | change
    file.write_text(json.dumps(config), encoding="utf-8")
    return model
