"""Responses that share a kept prefix get the states that each chat gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lm.encoding import EncodedChat, encode_chat
from lm.loading import load_causal_lm, load_tokenizer
from lm.prefix_cache import response_states

PROMPTS = {"why": ["so", "because of that", "x"], "how come that": ["it did", "é"], "and": ["no"]}


def _chats(folder: Path) -> list[EncodedChat]:
    tokenizer = load_tokenizer(folder)
    return [
        encode_chat(tokenizer, instruction="Go.", prompt=prompt, response=response)
        for prompt, responses in PROMPTS.items()
        for response in responses
    ]


@pytest.mark.parametrize("max_batch_tokens", [1, 60, 120, 1000])
def test_states_equal_those_of_each_chat_alone(tiny_model: Path, max_batch_tokens: int) -> None:
    decoder = load_causal_lm(tiny_model).get_decoder()
    chats = _chats(tiny_model)
    seen = []

    with torch.inference_mode():
        for batch in response_states(decoder, chats, max_batch_tokens):
            for row, index in enumerate(batch.indices):
                chat = chats[index]
                start, stop = chat.response_span
                length = int(batch.lengths[row])
                assert length == stop - start
                assert tuple(batch.ids[row, :length].tolist()) == chat.input_ids[start:stop]
                assert int(batch.is_token[row].sum()) == length
                alone = decoder(input_ids=torch.tensor([chat.input_ids])).last_hidden_state[0]
                torch.testing.assert_close(
                    batch.states[row, : length + 1], alone[start - 1 : stop], rtol=1e-4, atol=1e-5
                )
                seen.append(index)

    assert sorted(seen) == list(range(len(chats)))


def test_states_of_a_bfloat16_model_lie_near_those_of_its_weights_in_float32(
    tiny_model: Path,
) -> None:
    """Nearer by half than where every operation rounds, since only the products do."""
    chats = _chats(tiny_model)
    rounding = load_causal_lm(tiny_model, dtype=torch.bfloat16)
    exact = load_causal_lm(tiny_model, dtype=torch.bfloat16).float().get_decoder()
    ours, everywhere = [], []

    with torch.inference_mode():
        for batch in response_states(rounding.get_decoder(), chats, 1000):
            for row, index in enumerate(batch.indices):
                ids = torch.tensor([chats[index].input_ids])
                wanted = exact(input_ids=ids).last_hidden_state[0, -1]
                ours.append(batch.states[row, batch.lengths[row]] - wanted)
                plain = rounding.get_decoder()(input_ids=ids).last_hidden_state[0, -1]
                everywhere.append(plain.float() - wanted)

    assert batch.states.dtype is torch.float32
    assert torch.stack(ours).square().mean() < 0.25 * torch.stack(everywhere).square().mean()


def test_a_model_that_has_scored_computes_as_before(tiny_llama: Path) -> None:
    decoder = load_causal_lm(tiny_llama, dtype=torch.bfloat16).get_decoder()

    with torch.inference_mode():
        before = decoder(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state
        list(response_states(decoder, _chats(tiny_llama), 1000))
        after = decoder(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state

    assert before.dtype is torch.bfloat16
    assert torch.equal(before, after)


def test_a_response_without_tokens_has_the_prefixs_last_state(tiny_llama: Path) -> None:
    decoder = load_causal_lm(tiny_llama).get_decoder()
    tokenizer = load_tokenizer(tiny_llama)
    chats = [
        encode_chat(tokenizer, instruction="Go.", prompt="why", response=text)
        for text in ("", "so")
    ]

    with torch.inference_mode():
        (batch,) = response_states(decoder, chats, 1000)
        alone = decoder(input_ids=torch.tensor([chats[0].response_prefix])).last_hidden_state[0, -1]

    lengths = dict(zip(batch.indices, batch.lengths.tolist(), strict=True))
    assert lengths == {0: 0, 1: len(chats[1].response_ids) + 1}
    empty = batch.indices.index(0)
    torch.testing.assert_close(batch.states[empty, 0], alone, rtol=1e-4, atol=1e-5)


def test_responses_that_are_all_empty_need_no_second_pass(tiny_llama: Path) -> None:
    decoder = load_causal_lm(tiny_llama).get_decoder()
    chat = encode_chat(load_tokenizer(tiny_llama), instruction="Go.", prompt="why")

    with torch.inference_mode():
        (batch,) = response_states(decoder, [chat, chat], 1000)

    assert batch.states.shape == (2, 1, 32)
    assert batch.lengths.tolist() == [0, 0]


def test_a_prompt_is_read_once_for_all_its_responses(tiny_llama: Path) -> None:
    decoder = load_causal_lm(tiny_llama).get_decoder()
    chats = _chats(tiny_llama)
    widths = []
    handle = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape), with_kwargs=True
    )

    with torch.inference_mode():
        list(response_states(decoder, chats, 10_000))

    handle.remove()
    assert [shape[0] for shape in widths] == [len(PROMPTS), len(chats)]


@pytest.mark.parametrize("max_batch_tokens", [60, 120, 200])
def test_what_goes_through_at_once_keeps_to_the_bound(
    tiny_llama: Path, max_batch_tokens: int
) -> None:
    decoder = load_causal_lm(tiny_llama).get_decoder()
    seen = []

    def look(_: object, args: object, kwargs: dict[str, Any]) -> None:
        ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
        looks_back_at = ids.shape[1] if mask is None else mask.shape[-1]
        seen.append((ids.numel(), ids.shape[0] * looks_back_at, len(ids)))

    handle = decoder.register_forward_pre_hook(look, with_kwargs=True)

    with torch.inference_mode():
        list(response_states(decoder, _chats(tiny_llama), max_batch_tokens))

    handle.remove()
    assert any(rows > 1 for *_, rows in seen)
    assert all(through <= max_batch_tokens for through, _, rows in seen if rows > 1)
    assert all(kept <= 2 * max_batch_tokens for _, kept, rows in seen if rows > 1)


def test_responses_of_similar_length_stand_together_whichever_prompt_they_follow(
    tiny_llama: Path,
) -> None:
    decoder = load_causal_lm(tiny_llama).get_decoder()
    tokenizer = load_tokenizer(tiny_llama)
    texts = ["so", "so it went on and on and on and on and on and on"]
    chats = [
        encode_chat(tokenizer, instruction="Go.", prompt=prompt, response=text)
        for prompt in ("why", "how")
        for text in texts
    ]
    longest = max(len(chat.response_ids) + 1 for chat in chats)
    width = max(len(chat.response_prefix) for chat in chats)

    with torch.inference_mode():
        bound = longest + max(longest, width)  # room for two of the long ones
        batches = list(response_states(decoder, chats, bound))

    assert [sorted(batch.indices) for batch in batches] == [[1, 3], [0, 2]]
