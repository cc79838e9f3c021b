from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_side.config import PreferencesConfig, RecordsConfig
from client_side.preferences import RecordPreferences, build_preferences
from client_side.public_prompts import read_public_prompts
from client_side.records import PrivateRecord
from lm.loading import load_tokenizer
from lm.sampling import Completion, Progress, SamplingParams
from protocol.errors import ConfigurationError, RecordsError
from tests.support.samplers import FakeSampler, SeededSampler

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
        config=PreferencesConfig(chosen_over_generator=0.0, chosen_over_base=1.0),
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
        config=PreferencesConfig(chosen_over_base=1.0),
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
        config=PreferencesConfig(chosen_over_generator=0.0, chosen_over_base=1.0),
        records_config=settings,
        seed=0,
    )

    assert _responses(tiny_llama, preferences)[0] == "own<|im_end|>"


@pytest.mark.parametrize(
    ("when_cut", "own", "written"),
    [("keep", "Rest. Drink wat", "Well. And"), ("trim", "Rest.", "Well.")],
)
def test_cut_responses_of_both_sides_may_end_with_their_last_whole_sentence(
    tiny_llama: Path, when_cut: str, own: str, written: str
) -> None:
    """Where one side alone broke off, that would be what the reward learns to see."""
    tokenizer = load_tokenizer(tiny_llama)
    record = PrivateRecord(prompt="why", response="Rest. Drink water.", unit_id="a")
    length = len(tokenizer("Rest. Drink wat", add_special_tokens=False)["input_ids"])
    said = tuple(tokenizer("Well. And", add_special_tokens=False)["input_ids"])

    (preferences,) = build_preferences(
        (record,),
        tokenizer=tokenizer,
        open_base=_never,
        open_generator=lambda: FakeSampler(lambda prefix, n: said, is_finished=False),
        config=PreferencesConfig(when_cut=when_cut),
        records_config=replace(SETTINGS, max_response_tokens=length),
        seed=0,
    )

    assert _responses(tiny_llama, preferences) == [f"{own}<|im_end|>", f"{written}<|im_end|>"]


def test_preferences_show_lengths_and_cannot_be_copied_out(tiny_llama: Path) -> None:
    (preferences, _) = _build(tiny_llama, PreferencesConfig(chosen_over_base=1.0))

    assert repr(preferences) == "RecordPreferences(<3 responses, 2 pairs>)"
    with pytest.raises(TypeError, match="stay in this process"):
        pickle.dumps(preferences)


ALL_KINDS = PreferencesConfig(
    chosen_over_generator=1.0,
    chosen_over_base=1.0,
    generator_over_base=1.0,
    chosen_over_damaged=1.0,
    chosen_over_other_prompt=1.0,
    generator_over_other_prompt=3.0,
    num_public_prompts=4,
)
OTHERS = tuple(
    PrivateRecord(prompt=f"which {n}", response=f"one. two. {n}.", unit_id=str(n)) for n in range(6)
)


SAME_PROMPT = (
    PrivateRecord(prompt=RECORDS[0].prompt, response="another's", unit_id="x"),
    PrivateRecord(prompt=RECORDS[0].prompt, response="a third one's", unit_id="y"),
)


class WritingSampler(SeededSampler):
    """A generator proxy that also writes prompts: `p0`, `p1`, … and answers by its seeds."""

    def __init__(self, folder: Path, prompts: tuple[str, ...] = ("p0", "p1", "why", "p3")) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._prompts = prompts
        super().__init__()

    def sample(
        self,
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        salts: Sequence[str] | None = None,
        on_progress: Progress | None = None,
    ) -> list[list[Completion]]:
        found = super().sample(prefixes, params, seed=seed, salts=salts, on_progress=on_progress)
        texts = self._prompts[: params.num_candidates]
        return [
            [replace(completion, text=text) for completion, text in zip(row, texts, strict=False)]
            for row in found
        ]


def _build_all(
    folder: Path,
    records: Sequence[PrivateRecord],
    *,
    config: PreferencesConfig = ALL_KINDS,
    generator: FakeSampler | None = None,
) -> tuple[RecordPreferences, ...]:
    return build_preferences(
        records,
        tokenizer=load_tokenizer(folder),
        open_base=SeededSampler,
        open_generator=lambda: generator or WritingSampler(folder),
        config=config,
        records_config=SETTINGS,
        seed=0,
    )


def _content(preferences: RecordPreferences) -> object:
    return preferences.prefix, preferences.responses, preferences.pairs


@pytest.mark.parametrize("place", [0, 1, 6])
@pytest.mark.parametrize("others", [OTHERS, (*SAME_PROMPT, *OTHERS[:4])], ids=["other", "same"])
def test_a_records_pairs_do_not_change_when_other_records_come_or_go(
    tiny_llama: Path, place: int, others: tuple[PrivateRecord, ...]
) -> None:
    """Otherwise one unit would move the gradient of another, and its own clip bound nothing.

    The samplers answer by their seeds, as engines do: a seed that followed from the number of
    records with the same prompt, or from a record's place, would show.
    """
    (alone,) = _build_all(tiny_llama, RECORDS[:1])

    among = _build_all(tiny_llama, (*others[:place], RECORDS[0], *others[place:]))

    assert len(alone.responses) == 5
    assert _content(among[place]) == _content(alone)


def test_records_with_one_prompt_get_responses_of_their_own(tiny_llama: Path) -> None:
    first, second = _build_all(tiny_llama, SAME_PROMPT)

    assert first.prefix == second.prefix
    assert not set(first.responses[1:3]) & set(second.responses[1:3])


def test_weights_of_all_kinds_are_shares(tiny_llama: Path) -> None:
    """Own, generator, base, damaged, other: 1 + 1 + 1 + 1 + 1 + 3 = 8."""
    (preferences, _) = _build_all(tiny_llama, RECORDS)

    assert {(p.chosen, p.rejected): p.weight for p in preferences.pairs} == {
        (0, 1): 1 / 8,
        (0, 2): 1 / 8,
        (1, 2): 1 / 8,
        (0, 3): 1 / 8,
        (0, 4): 1 / 8,
        (1, 4): 3 / 8,
    }


def test_damaged_responses_need_no_model(tiny_llama: Path) -> None:
    config = PreferencesConfig(
        chosen_over_generator=0.0, chosen_over_base=0.0, chosen_over_damaged=1.0
    )

    found = build_preferences(
        RECORDS,
        tokenizer=load_tokenizer(tiny_llama),
        open_base=_never,
        open_generator=_never,
        config=config,
        records_config=SETTINGS,
        seed=0,
    )

    assert all(p.responses[0] != p.responses[1] for p in found)
    assert all(p.responses[0][-1] == p.responses[1][-1] for p in found)


def test_other_prompts_hold_nothing_of_any_record(tiny_llama: Path) -> None:
    """The generator is asked for prompts and for answers to them, never with a record's prompt."""
    generator = WritingSampler(tiny_llama)
    tokenizer = load_tokenizer(tiny_llama)
    config = PreferencesConfig(
        chosen_over_generator=0.0,
        chosen_over_base=0.0,
        chosen_over_other_prompt=1.0,
        num_public_prompts=4,
    )

    _build_all(tiny_llama, OTHERS, config=config, generator=generator)

    asked = [tokenizer.decode(prefix) for prefix in generator.asked]
    assert len(asked) == 1 + 4
    assert not any("which" in text for text in asked)


def test_a_record_is_never_paired_with_its_own_prompt(tiny_llama: Path) -> None:
    """`why` is among the public prompts by chance; of two, the other one is left."""
    config = PreferencesConfig(
        chosen_over_generator=0.0, chosen_over_base=0.0, generator_over_other_prompt=1.0
    )
    records = [PrivateRecord(prompt=" WHY", response=f"own {n}", unit_id=str(n)) for n in range(30)]

    found = _build_all(
        tiny_llama,
        records,
        config=config,
        generator=WritingSampler(tiny_llama, prompts=("why", "p1")),
    )

    assert len({p.responses[1] for p in found}) == 1
    assert all(p.responses[0] != p.responses[1] for p in found)


def test_public_prompts_come_from_a_file(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "public.jsonl"
    file.write_text('{"prompt": "when"}\n{"prompt": "who"}\n{"prompt": " WHEN "}\n')
    generator = WritingSampler(tiny_llama)
    config = PreferencesConfig(
        chosen_over_generator=0.0,
        chosen_over_base=0.0,
        chosen_over_other_prompt=1.0,
        public_prompts_path=str(file),
    )

    _build_all(tiny_llama, RECORDS, config=config, generator=generator)

    asked = [load_tokenizer(tiny_llama).decode(prefix) for prefix in generator.asked]
    assert len(asked) == 2
    assert any("who" in text for text in asked)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"prompt": "when"}\n{"prompt": "When"}\n', "at least two different"),
        ('{"text": "when"}\n', "one of the columns"),
        ('{"prompt": "when"}\n{"prompt": " "}\n', "row 2"),
        ("", "empty file"),
    ],
)
def test_a_file_of_public_prompts_must_have_prompts(
    tmp_path: Path, content: str, named: str
) -> None:
    file = tmp_path / "public.jsonl"
    file.write_text(content)

    with pytest.raises(RecordsError, match=named):
        read_public_prompts(str(file))


def test_a_generator_that_writes_one_prompt_only_is_refused(tiny_llama: Path) -> None:
    generator = WritingSampler(tiny_llama, prompts=("p0", "P0", "", "p0"))

    with pytest.raises(ConfigurationError, match="two different prompts"):
        _build_all(tiny_llama, RECORDS, generator=generator)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"chosen_over_damaged": -1.0}, r"preferences\.\*_over_\*"),
        ({"damages": []}, "preferences.damages"),
        ({"damages": ["burn"]}, "preferences.damages"),
        ({"num_public_prompts": 1}, "preferences.num_public_prompts"),
    ],
)
def test_settings_of_pairs_are_checked(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        PreferencesConfig(**changes)
