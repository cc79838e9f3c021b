"""A tokenizer and a template of another family: nothing here is made for the embedded model's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lm.encoding import encode_chat, prompt_prefix, render_prefix
from lm.loading import load_tokenizer
from lm.model_folders import check_model_folder
from lm.sampling import Sampler, SamplingParams, stop_token_ids
from lm.sampling_openvino import OpenVinoSampler
from lm.sampling_transformers import TransformersSampler
from lm.sampling_vllm import VllmSampler, VllmServer
from tests.support.sampling import build_foreign_model, generate_greedily
from tests.support.vllm_server import FakeVllm

CHATS = [("Be brief.", "the cat is singing"), ("Be brief.", "is a dog the er?"), ("x", "{}~")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_foreign_model(tmp_path_factory.mktemp("foreign") / "model")


@pytest.fixture(params=["openvino", "transformers", "vllm"])
def sampler(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Iterator[Sampler]:
    match request.param:
        case "openvino":
            yield OpenVinoSampler.open(
                folder, num_threads=1, cache_folder=tmp_path, dtype=torch.float32
            )
        case "transformers":
            yield TransformersSampler.open(folder, num_threads=1, dtype=torch.float32)
        case _:
            with FakeVllm(folder) as server:
                yield VllmSampler.open(folder, server=VllmServer(url=server.url))


def _prefixes(folder: Path) -> list[tuple[int, ...]]:
    tokenizer = load_tokenizer(folder)
    return [
        encode_chat(tokenizer, instruction=instruction, prompt=prompt).response_prefix
        for instruction, prompt in CHATS
    ]


def test_a_chat_has_its_segments_and_borders(folder: Path) -> None:
    check_model_folder(folder)
    tokenizer = load_tokenizer(folder)

    chat = encode_chat(tokenizer, instruction="Be brief.", prompt="the cat", response="is [INST] a")

    start, stop = chat.response_span
    assert chat.input_ids[stop - 1] == tokenizer.convert_tokens_to_ids("</s>")
    assert tokenizer.decode(chat.input_ids[start : stop - 1]) == "is [INST] a"
    assert chat.input_ids[:1] == (tokenizer.convert_tokens_to_ids("<s>"),)
    assert prompt_prefix(tokenizer, "Be brief.") == chat.prefix_ids
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "the cat"},
    ]
    assert render_prefix(tokenizer, messages) == chat.response_prefix
    # A message that spells out a control token has not become one.
    control = tokenizer.convert_tokens_to_ids("[INST]")
    assert chat.input_ids.count(control) == 1


def test_greedy_completions_equal_those_of_generate(sampler: Sampler, folder: Path) -> None:
    params = SamplingParams(max_new_tokens=24, greedy=True)
    stop_ids = stop_token_ids(folder, load_tokenizer(folder))
    prefixes = _prefixes(folder)

    completions = sampler.sample(prefixes, params, seed=0)

    assert stop_ids == {2, load_tokenizer(folder).convert_tokens_to_ids("[/INST]")}
    for prefix, (completion,) in zip(prefixes, completions, strict=True):
        assert completion.token_ids == generate_greedily(folder, prefix, params, stop_ids)


def test_sampled_texts_end_at_this_models_own_end(sampler: Sampler, folder: Path) -> None:
    params = SamplingParams(max_new_tokens=200, num_candidates=6, top_p=1.0, temperature=5.0)
    tokenizer = load_tokenizer(folder)

    completions = sampler.sample(_prefixes(folder), params, seed=1)

    drawn = [completion for own in completions for completion in own]
    assert any(completion.is_finished for completion in drawn)
    for completion in drawn:
        assert 2 not in completion.token_ids
        assert completion.is_finished or len(completion.token_ids) == 200
        assert completion.text == tokenizer.decode(
            list(completion.token_ids), skip_special_tokens=True
        )
