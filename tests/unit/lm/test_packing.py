"""Responses that share a row get the states that they would get in rows of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lm.encoding import EncodedChat, batches_by_length, encode_chat
from lm.loading import load_causal_lm, load_tokenizer
from lm.packing import PackedBatch, PackedRow, pack_rows

PROMPTS = {"why": ["so", "because of that", "x"], "how come that": ["it did", "é"]}


def _chats(folder: Path) -> list[EncodedChat]:
    tokenizer = load_tokenizer(folder)
    return [
        encode_chat(tokenizer, instruction="Go.", prompt=prompt, response=response)
        for prompt, responses in PROMPTS.items()
        for response in responses
    ]


def _batches(chats: list[EncodedChat], max_batch_tokens: int) -> list[PackedBatch]:
    rows = []
    for prefix in dict.fromkeys(chat.response_prefix for chat in chats):
        members = tuple(i for i, chat in enumerate(chats) if chat.response_prefix == prefix)
        tails = tuple(chats[i].response_ids + chats[i].end_ids for i in members)
        rows.append(PackedRow(prefix=prefix, tails=tails, members=members))
    cuts = batches_by_length([row.length for row in rows], max_batch_tokens)
    return [pack_rows([rows[i] for i in cut]) for cut in cuts]


@pytest.mark.parametrize("max_batch_tokens", [1, 1000])
def test_packed_states_equal_those_of_each_chat_alone(
    tiny_model: Path, max_batch_tokens: int
) -> None:
    decoder = load_causal_lm(tiny_model).get_decoder()
    chats = _chats(tiny_model)
    seen = []

    with torch.inference_mode():
        for batch in _batches(chats, max_batch_tokens):
            hidden = batch.hidden_states(decoder)
            for packed in batch.chats:
                chat = chats[packed.index]
                alone = decoder(input_ids=torch.tensor([chat.input_ids])).last_hidden_state[0]
                start, stop = chat.response_span
                torch.testing.assert_close(
                    hidden[packed.row, packed.start : packed.stop],
                    alone[start:stop],
                    rtol=1e-4,
                    atol=1e-5,
                )
                seen.append(packed.index)

    assert sorted(seen) == list(range(len(chats)))


def test_a_row_holds_its_prompt_once(tiny_llama: Path) -> None:
    chats = _chats(tiny_llama)

    (batch,) = _batches(chats, 10_000)

    for row, (prompt, responses) in enumerate(PROMPTS.items()):
        members = [chat for chat in batch.chats if chat.row == row]
        tails = sum(chat.stop - chat.start for chat in members)
        assert len(members) == len(responses), prompt
        assert max(chat.stop for chat in members) == min(chat.start for chat in members) + tails
