"""The shipped records are plentiful, varied, repeatable, and their splits share no prompt."""

from __future__ import annotations

import json
import random
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import simulations.clinic
from simulations.clinic import (
    INSTRUCTION,
    MAX_RECORDS,
    ClinicMessage,
    Split,
    compose_messages,
    find_identifiers,
    write_messages,
)
from simulations.clinic.answers import CLINICIANS, MAX_RESPONSE_UNITS
from simulations.clinic.body import TOPICS
from simulations.clinic.composing import split_of, wordings
from simulations.clinic.people import SURNAMES
from simulations.clinic.prompts import MAX_PROMPT_UNITS, num_units
from simulations.clinic.topic import Lasting, Others, Topic
from simulations.clinic.voices import Voice, draw_voice, misspell, restyle

TRAIN = compose_messages(4000, seed=7, split=Split.TRAIN)
TEST = compose_messages(1000, seed=7, split=Split.TEST)

MESSAGE_SLOTS = {
    "for", "ago", "who", "he", "his", "him", "i", "my", "me", "am", "have", "do", "was", "s", "es",
    "himself",
}  # fmt: skip
ANSWER_SLOTS = {
    "you", "them", "your", "are", "have", "do", "s", "yourself", "he", "his", "him",
}  # fmt: skip


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z']{3,}", text.lower()))


def slots_of(text: str) -> set[str]:
    return set(re.findall(r"\{(.*?)\}", text))


class TestBody:
    def test_body_has_at_least_72_topics_with_different_names(self) -> None:
        assert len({topic.name for topic in TOPICS}) == len(TOPICS) >= 72

    @pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
    def test_topic_is_complete_and_well_formed(self, topic: Topic) -> None:
        assert len(topic.says) >= 5
        assert min(len(topic.notes), len(topic.tried), len(topic.asks), len(topic.do)) >= 3
        assert min(len(topic.cause), len(topic.avoid), len(topic.see)) >= 2
        sentences = [*topic.says, *topic.notes, *topic.do, *topic.avoid]
        sentences += [answer for _, answer in topic.asks]
        assert all(sentence.rstrip()[-1] in ".?!" for sentence in sentences)
        assert all(ask.endswith("?") for ask, _ in topic.asks)
        assert not any(clause[-1] in ".?!" for clause in (*topic.see, *topic.cause, *topic.tried))
        assert len(set(sentences)) == len(sentences)

    @pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
    def test_topic_uses_only_slots_that_are_filled(self, topic: Topic) -> None:
        messages = [*topic.says, *topic.notes, *topic.tried, *(ask for ask, _ in topic.asks)]
        answers = [*topic.do, *topic.avoid, *topic.see, *topic.cause]
        answers += [answer for _, answer in topic.asks]
        assert set().union(*map(slots_of, messages)) <= MESSAGE_SLOTS
        assert set().union(*map(slots_of, answers)) <= ANSWER_SLOTS
        is_for_others_alone = all("{who}" in saying for saying in topic.says)
        if not is_for_others_alone:
            fixed = {"he", "his", "him"}
            assert not any(fixed & slots_of(text) for text in (*topic.notes, *answers))

    @pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
    def test_wordings_for_others_exist_exactly_where_others_are_named(self, topic: Topic) -> None:
        about_others = [saying for saying in topic.says if "{who}" in saying]
        assert bool(about_others) == (topic.others is not Others.NOBODY)
        assert isinstance(topic.lasting, Lasting)

    def test_advice_differs_from_topic_to_topic(self) -> None:
        counts = Counter(step for topic in TOPICS for step in topic.do)
        assert max(counts.values()) == 1
        assert len({topic.see for topic in TOPICS}) == len(TOPICS)

    def test_reserved_wordings_are_not_near_any_wording_of_training(self) -> None:
        trained = [words_of(text) for topic in TOPICS for text in wordings(topic, Split.TRAIN)]
        reserved = [words_of(text) for topic in TOPICS for text in wordings(topic, Split.TEST)]
        assert min(len(mine - other) for mine in reserved for other in trained) >= 3


class TestSplits:
    @pytest.mark.parametrize("seed", [0, 7, 11])
    def test_splits_share_no_prompt_even_across_seeds(self, seed: int) -> None:
        trained = {message.prompt for message in TRAIN}
        tested = {m.prompt for m in compose_messages(500, seed=seed, split="test")}
        assert not trained & tested

    def test_digest_of_the_text_alone_decides_where_a_prompt_may_occur(self) -> None:
        assert all(split_of(message.prompt) is Split.TRAIN for message in TRAIN)
        assert all(split_of(message.prompt) is Split.TEST for message in TEST)
        assert split_of("A  sore\nThroat") is split_of("a sore throat")

    def test_both_splits_cover_every_topic(self) -> None:
        names = {topic.name for topic in TOPICS}
        assert {message.topic for message in TRAIN} == names
        assert {message.topic for message in TEST} == names

    def test_few_records_still_spread_over_topics(self) -> None:
        messages = compose_messages(60, seed=3, split="test")
        assert len({message.topic for message in messages}) >= 55

    def test_no_patient_is_in_both_splits(self) -> None:
        assert not {m.patient_id for m in TRAIN} & {m.patient_id for m in TEST}


class TestCompose:
    def test_same_seed_gives_same_messages_and_another_seed_others(self) -> None:
        first = compose_messages(50, seed=1, split="train")
        assert first == compose_messages(50, seed=1, split=Split.TRAIN)
        assert not set(first) & set(compose_messages(50, seed=2, split="train"))

    def test_twenty_thousand_records_of_training_have_no_repeated_prompt(self) -> None:
        messages = compose_messages(20_000, seed=5, split="train")
        assert len({message.prompt for message in messages}) == 20_000

    @pytest.mark.parametrize("num_records", [0, -3, MAX_RECORDS[Split.TEST] + 1])
    def test_number_out_of_range_is_refused_with_the_limit(self, num_records: int) -> None:
        with pytest.raises(ValueError, match=rf"between 1 and 10000 .* found {num_records};"):
            compose_messages(num_records, seed=0, split="test")

    def test_unknown_split_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match='"train", "test", found \'dev\''):
            compose_messages(1, seed=0, split="dev")

    @pytest.mark.parametrize("num_records", [1, 2, 99])
    def test_exactly_as_many_as_asked_for(self, num_records: int) -> None:
        assert len(compose_messages(num_records, seed=0, split="train")) == num_records

    def test_patients_write_about_one_and_a_half_messages_on_different_topics(self) -> None:
        per_patient = Counter(message.patient_id for message in TRAIN)
        assert 1.45 <= len(TRAIN) / len(per_patient) <= 1.75
        assert max(per_patient.values()) <= 4
        assert len({(m.patient_id, m.topic) for m in TRAIN}) == len(TRAIN)

    def test_public_names_are_those_that_exist(self) -> None:
        assert sorted(simulations.clinic.__all__) == sorted(
            name
            for name, value in vars(simulations.clinic).items()
            if getattr(value, "__module__", "").startswith("simulations.clinic")
            or name in {"INSTRUCTION", "MAX_RECORDS"}
        )


class TestText:
    def test_lengths_suit_short_training_sequences(self) -> None:
        prompts = [num_units(message.prompt) for message in TRAIN]
        responses = [num_units(message.response) for message in TRAIN]
        assert 33 <= statistics.median(prompts) <= 48
        assert 52 <= statistics.median(responses) <= 72
        # Names and numbers come on top of what is cut to length.
        assert max(prompts) <= MAX_PROMPT_UNITS + 12
        assert max(responses) <= MAX_RESPONSE_UNITS

    def test_no_slot_and_no_broken_mark_is_left(self) -> None:
        broken = re.compile(r"[{}]|  |(?<!\.)\.\.(?!\.)| [,.?!]|,,|\?\.|soon:|112:")
        texts = [text for m in (*TRAIN, *TEST) for text in (m.prompt, m.response)]
        assert not {match[0] for text in texts if (match := broken.search(text))}
        assert all(text == text.strip() for text in texts)

    def test_grammar_of_slots_does_not_clash(self) -> None:
        clashes = re.compile(
            r"\bI (?:is|has|does|needs)\b|\b(?:he|she) (?:am|are|don't)\b|\byou (?:is|has)\b"
            r"|\b(?:wakes|keeps|tell) (?:he|she|I)\b|\bbut [A-HJ-Z]\w+'?\w* [a-z]+ (?:is|are)\b"
            r"|[a-z] (?:We|My|He|She|It|The|Our|This)\b(?<!is This)",
        )
        texts = [text for m in (*TRAIN, *TEST) for text in (m.prompt, m.response)]
        found = {match[0] for text in texts if (match := clashes.search(text))}
        assert not found

    def test_answers_share_a_house_style(self) -> None:
        signatures = Counter(m.response.rsplit(". ", 1)[-1] for m in TRAIN)
        assert set(signatures) == {clinician.signature for clinician in CLINICIANS}
        assert all("hank you for writing" in m.response or "hank you for your" in m.response
                   for m in TRAIN)  # fmt: skip
        assert all(re.search(r" if [^.]+(?:\.\d[^.]*)*\. ", m.response) for m in TRAIN)

    def test_prompts_do_not_open_alike(self) -> None:
        openings = Counter(" ".join(m.prompt.split()[:3]).lower() for m in TRAIN)
        assert openings.most_common(1)[0][1] < 0.04 * len(TRAIN)
        assert sum(m.prompt == m.prompt.lower() for m in TRAIN) > 0.04 * len(TRAIN)
        assert sum(m.prompt.startswith("Dear ") for m in TRAIN) > 0.03 * len(TRAIN)

    def test_about_one_message_in_seven_tells_who_wrote_it(self) -> None:
        identified = [m for m in TRAIN if find_identifiers(m.prompt)]
        assert 0.12 <= len(identified) / len(TRAIN) <= 0.18
        assert any(find_identifiers(m.response) for m in TRAIN)

    def test_surnames_do_not_occur_in_the_body(self) -> None:
        body = words_of(repr(TOPICS))
        assert not body & {name.lower() for name in SURNAMES}


class TestIdentifiers:
    def test_names_numbers_and_birth_dates_are_found_in_any_case(self) -> None:
        text = "greta yewdale, 555-0142, born 3 may 1961 or 14/3/1961"
        assert find_identifiers(text) == ("14/3/1961", "3 may 1961", "555-0142", "greta yewdale")

    def test_ordinary_text_has_none(self) -> None:
        assert find_identifiers("Call 112. Greta took 3 tablets in May 2024.") == ()


class TestVoices:
    @pytest.mark.parametrize("voice", Voice)
    def test_every_voice_keeps_the_substance(self, voice: Voice) -> None:
        rng = random.Random(0)  # noqa: S311  a test wants the same draw each time
        text = restyle("I've had a swollen knee for three weeks.", voice, rng)
        assert {"swollen", "knee", "three"} <= words_of(text)

    def test_formal_writers_spell_out_and_texters_do_not_capitalise(self) -> None:
        rng = random.Random(0)  # noqa: S311  a test wants the same draw each time
        assert restyle("It's sore and there's been blood.", Voice.FORMAL, rng) == (
            "It is sore and there has been blood."
        )
        assert restyle("My knee hurts", Voice.TEXTER, rng) == "my knee hurts"
        assert misspell("really sore", rng, num_slips=2) == "realy sore"
        assert {draw_voice(age, rng) for age in range(18, 85) for _ in range(20)} == set(Voice)


class TestWrite:
    def test_written_lines_are_the_messages(self, tmp_path: Path) -> None:
        path = tmp_path / "records" / "train.jsonl"
        write_messages(path, TRAIN[:20])
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [ClinicMessage(**json.loads(line)) for line in lines] == list(TRAIN[:20])
        assert list(json.loads(lines[0])) == ["prompt", "response", "patient_id", "topic"]
        assert [entry.name for entry in path.parent.iterdir()] == ["train.jsonl"]

    def test_failure_half_way_leaves_the_old_file_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "train.jsonl"
        write_messages(path, TRAIN[:3])
        before = path.read_bytes()

        def failing() -> Iterator[ClinicMessage]:
            yield TRAIN[5]
            raise RuntimeError("stopped")

        with pytest.raises(RuntimeError, match="stopped"):
            write_messages(path, failing())
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["train.jsonl"]

    def test_instruction_is_one_short_line(self) -> None:
        assert "\n" not in INSTRUCTION
        assert len(INSTRUCTION.split()) < 40
