from __future__ import annotations

import dataclasses
import math
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import nn

from lm.errors import SamplingError
from lm.loading import load_causal_lm, load_tokenizer
from lm.sampling import SamplingParams, stop_token_ids
from lm.sampling_transformers import TransformersSampler
from tests.support.sampling import PREFIXES, build_opinionated_model

PARAMS = SamplingParams(max_new_tokens=16, num_candidates=5, top_p=0.95, repetition_penalty=1.1)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opinionated") / "model"
    return build_opinionated_model(folder, architecture="llama")


def _sampler(
    folder: Path, stop_ids: frozenset[int] | None = None, **limits: int
) -> TransformersSampler:
    tokenizer = load_tokenizer(folder)
    return TransformersSampler(
        load_causal_lm(folder),
        tokenizer,
        stop_ids=stop_ids or stop_token_ids(folder, tokenizer),
        **limits,
    )


@pytest.mark.parametrize(
    "limits",
    [{"max_batch_rows": 1}, {"max_batch_rows": 4}, {"max_batch_tokens": 60}, {"num_threads": 1}],
)
def test_batch_limits_change_no_completion(model_folder: Path, limits: dict[str, int]) -> None:
    whole = _sampler(model_folder).sample(PREFIXES, PARAMS, seed=1)

    assert _sampler(model_folder, **limits).sample(PREFIXES, PARAMS, seed=1) == whole


def test_of_a_prefix_the_last_place_alone_meets_the_vocabulary(model_folder: Path) -> None:
    """All places of all prefixes would take memory by the vocabulary, a hundred times as much."""
    model = load_causal_lm(model_folder)
    tokenizer = load_tokenizer(model_folder)
    seen: list[tuple[int, ...]] = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, __, logits: seen.append(tuple(logits.shape[:2])))
    sampler = TransformersSampler(
        model, tokenizer, stop_ids=stop_token_ids(model_folder, tokenizer)
    )

    sampler.sample([[5], [5, 6, 7], [5, 6]], dataclasses.replace(PARAMS, num_candidates=1), seed=1)

    assert seen[0] == (3, 1)
    assert not head._forward_pre_hooks


def test_rows_that_end_leave_the_others_as_they_are(model_folder: Path) -> None:
    """With many end tokens, rows leave at almost every step."""
    free = _sampler(model_folder).sample(PREFIXES, PARAMS, seed=1)
    stop_ids = frozenset({0, 2, *range(3, 259, 12)})

    ended = _sampler(model_folder, stop_ids).sample(PREFIXES, PARAMS, seed=1)

    num_ended = 0
    for without, with_end in zip(chain(*free), chain(*ended), strict=True):
        ends = [place for place, t in enumerate(without.token_ids) if t in stop_ids]
        expected = without.token_ids[: ends[0]] if ends else without.token_ids
        assert with_end.token_ids == expected
        num_ended += bool(ends)
    assert num_ended > 5


@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        dataclasses.replace(PARAMS, top_p=1.0, repetition_penalty=1.0),
        dataclasses.replace(PARAMS, greedy=True),
    ],
    ids=["top-p", "whole distribution", "greedy"],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_text_at_which_the_model_overflows_ends_and_no_other_knows_of_it(
    model_folder: Path, params: SamplingParams, value: float
) -> None:
    """A failure would tell that some record held such a text: a server may have made the model."""
    unharmed = _sampler(model_folder).sample(PREFIXES, params, seed=1)
    model = load_causal_lm(model_folder)

    def overflow(_: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((args[0] == PREFIXES[3][0])[..., None], value)

    model.get_input_embeddings().register_forward_hook(overflow)
    stop_ids = stop_token_ids(model_folder, load_tokenizer(model_folder))
    sampler = TransformersSampler(model, load_tokenizer(model_folder), stop_ids=stop_ids)
    told: list[tuple[int, int]] = []

    harmed = sampler.sample(
        PREFIXES, params, seed=1, on_progress=lambda done, of: told.append((done, of))
    )

    assert all((c.token_ids, c.is_finished) == ((), False) for c in harmed[3])
    assert told[-1] == (25, 25)
    others = (0, 1, 2, 4)
    assert any(harmed[i] == unharmed[i] for i in others)
    for whole, cut in ((w, c) for i in others for w, c in zip(unharmed[i], harmed[i], strict=True)):
        # Whoever writes the token itself ends behind it.
        assert cut == whole or cut.token_ids == whole.token_ids[: len(cut.token_ids)]
        assert cut == whole or cut.token_ids[-1] == PREFIXES[3][0]


def test_threads_are_as_before_afterwards(model_folder: Path) -> None:
    before = torch.get_num_threads()

    _sampler(model_folder, num_threads=before + 1).sample(PREFIXES, PARAMS, seed=1)

    assert torch.get_num_threads() == before


def test_a_prefix_that_the_model_cannot_hold_is_refused(model_folder: Path) -> None:
    with pytest.raises(SamplingError, match="the model holds 1024"):
        _sampler(model_folder).sample([(1,) * 1020], PARAMS, seed=1)


def test_half_precision_runs_and_repeats(model_folder: Path) -> None:
    sampler = TransformersSampler.open(model_folder, dtype=torch.bfloat16)

    first = sampler.sample(PREFIXES, PARAMS, seed=1)

    assert sampler.sample(PREFIXES, PARAMS, seed=1) == first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator is here")
def test_greedy_completions_on_an_accelerator_equal_those_on_a_cpu(model_folder: Path) -> None:
    params = SamplingParams(max_new_tokens=16, greedy=True)
    cpu = TransformersSampler.open(model_folder, dtype=torch.float32)
    gpu = TransformersSampler.open(model_folder, dtype=torch.float32, device="cuda")

    assert gpu.sample(PREFIXES, params, seed=0) == cpu.sample(PREFIXES, params, seed=0)
