from __future__ import annotations

from pathlib import Path

from client_side.config import PreferencesConfig, RecordsConfig
from client_side.preferences import build_preferences
from client_side.records import PrivateRecord
from lm.loading import load_tokenizer
from tests.support.samplers import FakeSampler
from tests.support.tiny_models import ENDS_APART


def test_both_of_a_pair_end_as_scoring_ends_a_response(tiny_llama: Path) -> None:
    """A reward that is trained on another end than it scores would judge what it never saw."""
    tokenizer = load_tokenizer(tiny_llama)
    tokenizer.chat_template = ENDS_APART

    (built,) = build_preferences(
        [PrivateRecord(prompt="why", response="own one", unit_id="a")],
        tokenizer=tokenizer,
        open_base=lambda: FakeSampler(lambda prefix, n: (100, 101)),
        open_generator=lambda: FakeSampler(lambda prefix, n: (200,)),
        config=PreferencesConfig(chosen_over_generator=0.0, chosen_over_base=1.0),
        records_config=RecordsConfig(instruction="Go."),
        seed=0,
    )

    assert {tokenizer.decode(ids[-1:]) for ids in built.responses} == {"<|endoftext|>"}
