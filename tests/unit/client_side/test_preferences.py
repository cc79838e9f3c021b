from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from client_side.config import PreferencesConfig, RecordsConfig
from client_side.preferences import RecordPreferences, build_preferences
from client_side.records import PrivateRecord
from lm.loading import load_tokenizer
from tests.support.samplers import FakeSampler

RECORDS = (
    PrivateRecord(prompt="why", response="own one", unit_id="a"),
    PrivateRecord(prompt="how", response="own two", unit_id="b"),
)
SETTINGS = RecordsConfig(instruction="Go.", max_prompt_tokens=20, max_response_tokens=20)


def _build(folder: Path, config: PreferencesConfig) -> tuple[RecordPreferences, ...]:
    return build_preferences(
        RECORDS,
        tokenizer=load_tokenizer(folder),
        open_base=lambda: FakeSampler(lambda prefix, n: (100, 101)),
        open_generator=lambda: FakeSampler(lambda prefix, n: (200,)),
        config=config,
        records_config=SETTINGS,
        seed=0,
    )


def _never() -> FakeSampler:
    raise AssertionError("a writer without weight was opened")


def _responses(folder: Path, preferences: RecordPreferences) -> list[str]:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(preferences.prefix).endswith("<|im_start|>assistant\n")
    return [tokenizer.decode(ids) for ids in preferences.responses]


def test_a_record_gives_every_pair_that_has_weight(tiny_llama: Path) -> None:
    """Own ≻ generator, own ≻ base and generator ≻ base share three sequences."""
    config = PreferencesConfig(
        chosen_over_generator=2.0, chosen_over_base=1.0, generator_over_base=1.0
    )

    first, second = _build(tiny_llama, config)

    assert _responses(tiny_llama, first)[0] == "own one<|im_end|>"
    assert _responses(tiny_llama, second)[0] == "own two<|im_end|>"
    assert [(p.chosen, p.rejected, p.weight) for p in first.pairs] == [
        (0, 1, 0.5),
        (0, 2, 0.25),
        (1, 2, 0.25),
    ]
    assert first.responses[1][:-1] == (200,)
    assert first.responses[2][:-1] == (100, 101)


def test_pairs_without_weight_are_not_sampled(tiny_llama: Path) -> None:
    preferences = build_preferences(
        RECORDS,
        tokenizer=load_tokenizer(tiny_llama),
        open_base=lambda: FakeSampler(lambda prefix, n: (100,)),
        open_generator=_never,
        config=PreferencesConfig(chosen_over_generator=0.0, chosen_over_base=3.0),
        records_config=SETTINGS,
        seed=0,
    )

    assert all(len(p.responses) == 2 and len(p.pairs) == 1 for p in preferences)


def test_samplers_are_asked_with_the_records_prompt_only(tiny_llama: Path) -> None:
    """The negative may depend on the prompt; it must not have seen the response."""
    base = FakeSampler(lambda prefix, n: (100,))
    tokenizer = load_tokenizer(tiny_llama)

    build_preferences(
        RECORDS,
        tokenizer=tokenizer,
        open_base=lambda: base,
        open_generator=_never,
        config=PreferencesConfig(chosen_over_generator=0.0),
        records_config=SETTINGS,
        seed=0,
    )

    asked = [tokenizer.decode(prefix) for prefix in base.asked]
    assert all("own" not in text for text in asked)
    assert "why" in asked[0]


def test_one_writer_is_closed_before_the_other_is_opened(tiny_llama: Path) -> None:
    """Two models in memory at once would double what a client needs."""
    opened: list[FakeSampler] = []

    def open_next() -> FakeSampler:
        assert all(sampler.is_closed for sampler in opened)
        opened.append(FakeSampler(lambda prefix, n: (100,)))
        return opened[-1]

    build_preferences(
        RECORDS,
        tokenizer=load_tokenizer(tiny_llama),
        open_base=open_next,
        open_generator=open_next,
        config=PreferencesConfig(),
        records_config=SETTINGS,
        seed=0,
    )

    assert len(opened) == 2
    assert all(sampler.is_closed for sampler in opened)


def test_a_cut_response_is_ended_like_any_other(tiny_llama: Path) -> None:
    """Whether a response ended by itself is not what the reward is to learn."""
    tokenizer = load_tokenizer(tiny_llama)
    settings = RecordsConfig(instruction="Go.", max_response_tokens=3)

    (preferences, _) = build_preferences(
        RECORDS,
        tokenizer=tokenizer,
        open_base=lambda: FakeSampler(lambda prefix, n: (100,)),
        open_generator=_never,
        config=PreferencesConfig(chosen_over_generator=0.0),
        records_config=settings,
        seed=0,
    )

    assert _responses(tiny_llama, preferences)[0] == "own<|im_end|>"


def test_preferences_show_lengths_and_cannot_be_copied_out(tiny_llama: Path) -> None:
    (preferences, _) = _build(tiny_llama, PreferencesConfig())

    assert repr(preferences) == "RecordPreferences(<3 responses, 2 pairs>)"
    with pytest.raises(TypeError, match="stay in this process"):
        pickle.dumps(preferences)
