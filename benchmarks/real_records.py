"""The records that the benchmarks run on: real medical ones where they are, else the shipped ones.

Real records are sought in `$REWARDDS_DATA/medical/`, by default in a folder `shared/data` beside
the checkout. Ratios depend on the lengths of texts, so a results file says which they were.
"""

from __future__ import annotations

import os
from pathlib import Path

from lm.encoding import EncodedChat, encode_chat
from lm.loading import load_tokenizer
from lm.tables import ColumnMap, read_table
from simulations.clinic import INSTRUCTION, compose_messages

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
_MEDICAL_INSTRUCTION = "You are a doctor. Answer the patient's question."


def source_name() -> str:
    """Say which records `read_texts` gives."""
    return "medical" if _medical_file().is_file() else "clinic"


def read_texts(count: int) -> tuple[str, list[tuple[str, str]]]:
    """Return the instruction and the first `count` pairs of prompt and response."""
    if _medical_file().is_file():
        columns = ColumnMap(prompt="input", response="output")
        rows = read_table(str(_medical_file()), columns=columns, drop_unusable=True).rows
        return _MEDICAL_INSTRUCTION, [(row.prompt, row.response) for row in rows[:count]]
    messages = compose_messages(count, seed=0, split="train")
    return INSTRUCTION, [(message.prompt, message.response) for message in messages]


def read_chats(
    folder: Path, count: int, *, max_prompt_tokens: int, max_response_tokens: int
) -> list[EncodedChat]:
    """Return records as token ids of the model in `folder`."""
    tokenizer = load_tokenizer(folder)
    instruction, texts = read_texts(count)
    return [
        encode_chat(
            tokenizer,
            instruction=instruction,
            prompt=prompt,
            response=response,
            max_prompt_tokens=max_prompt_tokens,
            max_response_tokens=max_response_tokens,
        )
        for prompt, response in texts
    ]


def _medical_file() -> Path:
    return Path(os.environ.get("REWARDDS_DATA", _BESIDE)) / "medical" / "train.jsonl"
