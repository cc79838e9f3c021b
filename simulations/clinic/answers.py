"""Writes the clinic's answers: one house style, four clinicians with wordings of their own.

An answer thanks, says what it most likely is, takes up the question, says what to do and what to
leave alone, and ends with when to be seen. The substance comes from the topic alone.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final

from simulations.clinic.people import Relative
from simulations.clinic.prompts import Draft, num_units
from simulations.clinic.topic import Topic
from simulations.clinic.voices import Voice

MAX_RESPONSE_UNITS: Final = 88
"""Longest response, in units of `num_units`."""

_EMERGENCY = "112: "
_SOON = "soon: "
_EMERGENCY_CALL = "Call 112 at once if {see}."
_THANKS = ("Thank you for your message.", "Thank you for writing to us.")
_THANKS_ABOUT = "Thank you for writing about your {relation}."
_COMFORT: dict[Voice, str] = {
    Voice.WORRIED: "I understand that this is worrying.",
    Voice.ANGRY: "I am sorry that you had to wait.",
    Voice.SHY: "There is no need to feel embarrassed.",
    Voice.RAMBLER: "I am glad that you wrote.",
}
_SENTENCE_START = re.compile(r"(^|[.?!]\s+)([a-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clinician:
    """Somebody who answers for the clinic, with the phrases that are his own."""

    signature: str
    """How an answer is signed."""
    causes: tuple[str, ...]
    """Ways to say what it most likely is."""
    same_day: str
    """How to say when to be seen at once."""
    visit: str
    """How to say when to be seen in the next days."""
    does_greet: bool
    """Whether he opens with a greeting."""


CLINICIANS: tuple[Clinician, ...] = (
    Clinician(
        signature="Dr Aldous, Willowmere Clinic",
        causes=("This sounds most like {cause}.", "What you describe sounds like {cause}."),
        same_day="Please come in the same day if {see}.",
        visit="Please book a visit if {see}.",
        does_greet=True,
    ),
    Clinician(
        signature="Nurse Fenn, Willowmere Clinic",
        causes=("This is most likely {cause}.",),
        same_day="Please ring us the same day if {see}.",
        visit="Please ring us if {see}.",
        does_greet=False,
    ),
    Clinician(
        signature="Dr Castellan, Willowmere Clinic",
        causes=("What you describe fits {cause}.", "This fits {cause}."),
        same_day="Please come in the same day if {see}.",
        visit="Please come in if {see}.",
        does_greet=False,
    ),
    Clinician(
        signature="Dr Harrow, Willowmere Clinic",
        causes=("The most likely cause is {cause}.", "This sounds like {cause}."),
        same_day="Please see us the same day if {see}.",
        visit="Please come and see us if {see}.",
        does_greet=True,
    ),
)
"""The four who answer; invented, like everybody here."""


def write_response(
    topic: Topic, draft: Draft, *, relative: Relative | None, rng: random.Random
) -> str:
    """Write the clinic's answer to a message.

    Args:
        topic: What the message is about.
        draft: The message, with the question's answer and what may be addressed.
        relative: Whom the message is about, where that is not the writer.
        rng: Source of randomness.

    Returns:
        The answer, at most `MAX_RESPONSE_UNITS` long.
    """
    clinician = rng.choice(CLINICIANS)
    opening = _opening(clinician, draft, relative, rng)
    cause = rng.choice(clinician.causes).format(cause=rng.choice(topic.cause))
    # The first step stands by itself; the others may lean on it.
    steps = [topic.do[0]]
    if draft.answer is None or rng.random() < 0.4:
        steps.append(rng.choice(topic.do[1:]))
    extras = [rng.choice(topic.avoid)] if rng.random() < 0.85 else []
    if draft.phone is not None and rng.random() < 0.4:
        extras.insert(0, f"We will ring you on {draft.phone}.")
    end = [_when(clinician, topic, rng), clinician.signature]
    kept = [opening, cause, *([draft.answer] if draft.answer else []), steps[0]]
    extras = [*steps[1:], *extras]
    while extras and num_units(" ".join([*kept, *extras, *end])) > MAX_RESPONSE_UNITS:
        extras.pop()
    text = " ".join([*kept, *extras, *end])
    return _SENTENCE_START.sub(lambda m: m[1] + m[2].upper(), text.format_map(_slots(relative)))


def _when(clinician: Clinician, topic: Topic, rng: random.Random) -> str:
    index = rng.randrange(len(topic.see))
    clause = topic.see[index]
    if clause.startswith(_EMERGENCY):
        return _EMERGENCY_CALL.format(see=clause.removeprefix(_EMERGENCY))
    is_urgent = index == 0 and not clause.startswith(_SOON)
    wording = clinician.same_day if is_urgent else clinician.visit
    return wording.format(see=clause.removeprefix(_SOON))


def _opening(
    clinician: Clinician, draft: Draft, relative: Relative | None, rng: random.Random
) -> str:
    sentences = [_THANKS[0] if rng.random() < 0.75 else _THANKS[1]]
    if relative is not None and rng.random() < 0.6:
        sentences = [_THANKS_ABOUT.format(relation=relative.relation)]
    if draft.voice in _COMFORT and rng.random() < 0.5:
        sentences.append(_COMFORT[draft.voice])
    greeting = "Hello," if clinician.does_greet else ""
    if draft.signature is not None and rng.random() < 0.7:
        greeting = f"Dear {draft.signature},"
    text = " ".join(sentences)
    return f"{greeting} {text[0].lower()}{text[1:]}" if greeting else text


def _slots(relative: Relative | None) -> dict[str, str]:
    if relative is None:
        return {
            "you": "you",
            "them": "you",
            "your": "your",
            "are": "are",
            "have": "have",
            "do": "do",
            "s": "",
            "yourself": "yourself",
        }
    he, his, him = ("he", "his", "him") if relative.sex == "m" else ("she", "her", "her")
    return {
        "you": he,
        "them": him,
        "your": his,
        "he": he,
        "his": his,
        "him": him,
        "are": "is",
        "have": "has",
        "do": "does",
        "s": "s",
        "yourself": "him" if relative.sex == "m" else "her",
    }
