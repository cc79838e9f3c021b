"""Writes one message to the portal: a wording of a complaint, told in somebody's voice.

What stands where differs from voice to voice: who opens how, in which order the facts come, what
is left out. Nothing here depends on the split; the composer hands in the wording.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final

from simulations.clinic.people import Patient, Relative, birth_date
from simulations.clinic.topic import Lasting, Topic
from simulations.clinic.voices import (
    CLOSINGS,
    GENERAL_ASKS,
    MEDICINES,
    OPENINGS,
    TRIED_TELLINGS,
    Voice,
    misspell,
    restyle,
)

MAX_PROMPT_UNITS: Final = 68
"""Longest prompt, in units of `num_units`; the tokenizers in use make about a tenth more."""

_FOR: dict[Lasting, tuple[str, ...]] = {
    Lasting.HOURS: (
        "since this morning",
        "since last night",
        "since yesterday",
        "since yesterday evening",
        "for about six hours",
        "for ten hours or so",
    ),
    Lasting.DAYS: (
        "for two days",
        "for three days",
        "for four days",
        "for five days",
        "for nearly a week",
        "since Monday",
        "since Thursday",
        "since Saturday",
        "since the weekend",
    ),
    Lasting.WEEKS: (
        "for two weeks",
        "for three weeks",
        "for a month",
        "for about six weeks",
        "for the past two weeks",
        "since the beginning of the month",
    ),
    Lasting.MONTHS: (
        "for months",
        "for four months",
        "for half a year",
        "for about a year",
        "since last autumn",
        "since spring",
        "for two years",
    ),
}
_AGO: dict[Lasting, tuple[str, ...]] = {
    Lasting.HOURS: ("this morning", "last night", "yesterday", "a few hours ago"),
    Lasting.DAYS: (
        "three days ago",
        "on Monday",
        "last Thursday",
        "at the weekend",
        "two days ago",
    ),
    Lasting.WEEKS: ("two weeks ago", "about a month ago", "three weeks ago", "six weeks ago"),
    Lasting.MONTHS: ("a few months ago", "last winter", "half a year ago", "in spring"),
}
_AGE = re.compile(r"I(?:'m| am) \d")
_UNITS = re.compile(r"\d|[^\W\d]+|[^\w\s]")
_SENTENCE_START = re.compile(r"(^|[.?!]\s+)([a-z])")
_NOW = re.compile(r"\{for\} (?:now|already)\b")
_KEEPS_CAPITAL = frozenset({"I", "I'm", "I've", "I'd", "I'll", "Atorvastatin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A written prompt with what its answer should take up."""

    prompt: str
    """The message."""
    voice: Voice
    """Who wrote it, as a kind of person."""
    answer: str | None
    """The sentence that answers a question of the topic; None where a general one was asked."""
    signature: str | None
    """The name under or in the message, as the answer may use it."""
    phone: str | None
    """The telephone number in the message."""


def write_prompt(
    topic: Topic,
    wording: str,
    *,
    patient: Patient,
    relative: Relative | None,
    voice: Voice,
    is_identified: bool,
    rng: random.Random,
) -> Draft:
    """Write one message.

    Args:
        topic: What it is about.
        wording: One of the topic's `says`.
        patient: Who writes.
        relative: Whom it is about, where the wording has a `{who}`; otherwise None.
        voice: How the person writes.
        is_identified: Whether a full name, a telephone number or a date of birth is told.
        rng: Source of randomness.

    Returns:
        The message and what the answer needs to know of it.
    """
    slots = _slots(topic, wording, relative, rng)
    ask, answer = _choose_ask(topic, rng)
    core = _fill(wording, slots)
    extras = _choose_extras(topic, patient, relative, voice, rng)
    opening = rng.choice(OPENINGS[voice])
    closing = rng.choice(CLOSINGS[voice])
    if relative is not None and closing == "Asking for a friend, obviously.":
        closing = ""
    identity, signature, phone = _identity(patient, relative, is_identified, rng)
    filled = [_fill(extra, slots) for extra in extras]
    question = _fill(ask, slots) if ask else ""
    parts = _order(core, filled, question, voice, has_relative=relative is not None, rng=rng)
    while filled and num_units(" ".join([opening, *parts, closing, identity])) > MAX_PROMPT_UNITS:
        parts.remove(filled.pop())
    if num_units(" ".join([opening, *parts, closing, identity])) > MAX_PROMPT_UNITS:
        opening = closing = ""
    styled = [restyle(_capitalised(part), voice, rng) for part in parts if part]
    text = _join(opening, [*styled, restyle(closing, voice, rng) if closing else ""], voice, rng)
    slips = {Voice.TEXTER: 0.5, Voice.LEARNER: 0.4, Voice.FORMAL: 0.03}.get(voice, 0.12)
    if rng.random() < slips:
        text = misspell(text, rng, num_slips=rng.choice((1, 1, 2)))
    if identity:
        text = f"{text} {identity.lower() if voice is Voice.TEXTER else identity}"
    return Draft(prompt=text, voice=voice, answer=answer, signature=signature, phone=phone)


def num_units(text: str) -> int:
    """Count words, digits and marks: a tokenizer's length without a tokenizer, to within a tenth.

    >>> num_units("Call 555, please.")
    7
    """
    return len(_UNITS.findall(text))


def _slots(
    topic: Topic, wording: str, relative: Relative | None, rng: random.Random
) -> dict[str, str]:
    slots = {"for": rng.choice(_FOR[topic.lasting]), "ago": rng.choice(_AGO[topic.lasting])}
    if relative is None:
        own = ("I", "my", "me", "am", "have", "do", "was", "", "", "myself")
        names = ("i", "my", "me", "am", "have", "do", "was", "s", "es", "himself")
        return slots | dict(zip(names, own, strict=True))
    is_male = relative.sex == "m"
    he, his, him = ("he", "his", "him") if is_male else ("she", "her", "her")
    mention = relative.mention if wording.startswith("{who} ") else relative.mention.split(",")[0]
    return slots | {
        "who": mention,
        "he": he,
        "his": his,
        "him": him,
        "i": he,
        "my": his,
        "me": him,
        "am": "is",
        "have": "has",
        "do": "does",
        "was": "was",
        "s": "s",
        "es": "es",
        "himself": "himself" if is_male else "herself",
    }


def _choose_ask(topic: Topic, rng: random.Random) -> tuple[str, str | None]:
    roll = rng.random()
    if roll < 0.68:
        return rng.choice(topic.asks)
    return (rng.choice(GENERAL_ASKS), None) if roll < 0.9 else ("", None)


def _choose_extras(
    topic: Topic, patient: Patient, relative: Relative | None, voice: Voice, rng: random.Random
) -> list[str]:
    """Return extra facts, the most dispensable last."""
    tellings = TRIED_TELLINGS.get(voice, TRIED_TELLINGS[None])
    tried = rng.choice(tellings).replace("{tried}", rng.choice(topic.tried))
    if relative is not None:
        tried = re.sub(r"\bI've", "we've", tried)
    facts = [tried]
    is_adult = relative is None or not (relative.is_baby or relative.age < 18)
    if is_adult and rng.random() < 0.3:
        facts.append(rng.choice(MEDICINES))
    if relative is None and rng.random() < 0.35:
        facts.append(rng.choice(("I'm {age}.", "I am {age} years old.")).format(age=patient.age))
    elif relative is not None and not re.search(r"\d", relative.mention) and rng.random() < 0.5:
        unit = " months" if relative.is_baby else ""
        if relative.age > 1:
            facts.append(f"{{he}} is {relative.age}{unit}{' old' if relative.is_baby else ''}.")
    rng.shuffle(facts)
    # A finding speaks of the complaint as "it", so it follows at once or not at all.
    if rng.random() < 0.7:
        facts.insert(0, rng.choice(topic.notes))
    if voice is Voice.ENGINEER:
        if relative is None:
            facts = [f"Age {patient.age}.", *(fact for fact in facts if not _AGE.match(fact))]
        facts.append(f"Effect on daily life: {rng.randint(2, 8)}/10.")
        return facts[:3]
    if voice is Voice.TEXTER:
        return facts[: rng.choice((0, 1, 1, 2))]
    return facts[: rng.choice((0, 1, 1, 2, 2, 3))]


def _identity(
    patient: Patient, relative: Relative | None, is_identified: bool, rng: random.Random
) -> tuple[str, str | None, str | None]:
    """Return the sentence that tells who it is, the name to address, and the number told."""
    first, full = patient.first_name, f"{patient.first_name} {patient.surname}"
    title = f"{'Ms' if patient.sex == 'f' else 'Mr'} {patient.surname}"
    if not is_identified:
        return (first, first, None) if rng.random() < 0.3 else ("", None, None)
    is_numeric = rng.random() < 0.5
    born = birth_date(age=patient.age, birthday=patient.birthday, is_numeric=is_numeric)
    choices = [
        (f"{full}, born {born}", title, None),
        (f"This is {full}, {patient.phone}.", title, patient.phone),
        (f"Please ring me on {patient.phone}. {full}", title, patient.phone),
        (f"My number is {patient.phone}. {first}", first, patient.phone),
        (f"{full}", title, None),
        (f"{full}, tel. {patient.phone}", title, patient.phone),
    ]
    if relative is not None and relative.first_name and not relative.is_baby:
        day, month = patient.birthday
        theirs = birth_date(age=relative.age, birthday=(29 - day, 13 - month), is_numeric=False)
        theirs_full = f"{relative.first_name} {patient.surname}"
        choices.append((f"It's about {theirs_full}, born {theirs}.", title, None))
    return rng.choice(choices)


def _order(
    core: str,
    facts: list[str],
    question: str,
    voice: Voice,
    *,
    has_relative: bool,
    rng: random.Random,
) -> list[str]:
    """Put the parts in an order that this voice would use."""
    if voice is Voice.ENGINEER:
        return [
            core,
            *facts,
            f"Question: {question}" if question and rng.random() < 0.4 else question,
        ]
    is_free = question and not has_relative and not re.search(r"\b(it|this|that|they)\b", question)
    if is_free and rng.random() < 0.18:
        return [question, core, *facts]
    ages = [fact for fact in facts if _AGE.match(fact)]
    if ages and rng.random() < 0.6:
        return [*ages, core, *(fact for fact in facts if fact not in ages), question]
    if len(facts) > 1 and question and rng.random() < 0.25:
        return [core, *facts[:-1], question, facts[-1]]
    return [core, *facts, question]


def _fill(text: str, slots: dict[str, str]) -> str:
    if slots["for"].startswith("since "):
        text = _NOW.sub("{for}", text)
    return _capitalised(text.format_map(slots))


def _capitalised(text: str) -> str:
    return _SENTENCE_START.sub(lambda m: m[1] + m[2].upper(), text)


def _join(opening: str, parts: list[str], voice: Voice, rng: random.Random) -> str:
    kept = [part for part in parts if part]
    if voice is Voice.TEXTER:
        between = rng.choice((", ", " ", ". ", "... ", " - ", "\n"))
        text = opening
        for part in kept:
            is_open = bool(text) and (text[-1].isalnum() or text[-1] in "'&")
            text += (between if is_open else " " if text else "") + part
        return text
    if opening and opening[-1] not in ".!?:" and kept[0].split()[0] not in _KEEPS_CAPITAL:
        kept[0] = kept[0][0].lower() + kept[0][1:]
    return " ".join([opening, *kept] if opening else kept)
