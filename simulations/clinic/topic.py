"""The shape of one topic in the hand-written body of the shipped records.

A topic is a complaint together with what people add to it, what they ask, and what the clinic
answers. The `body_*` modules fill it by body system; the composer reads nothing else of them.

Texts carry slots, so that one wording serves a person who writes for himself and one who writes
for somebody else:

- In the message: `{who}` (only in `says`; its presence means that the writer is not the
  patient), `{he} {his} {him}` after it, `{i} {my} {me} {am} {have} {do} {was}` in fragments that
  either may use, `{s}` behind a verb, `{for}` ("for three days"), `{ago}` ("three days ago").
- In the answer: `{you} {them} {your} {are} {have} {do}` ("you you your" or "he him his"), and
  `{s}` behind a verb.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Lasting(StrEnum):
    """How long a complaint has usually been there when somebody writes about it."""

    HOURS = "hours"
    """Since this morning or last night."""
    DAYS = "days"
    """For a few days."""
    WEEKS = "weeks"
    """For some weeks."""
    MONTHS = "months"
    """For months."""


class Others(StrEnum):
    """For whom else somebody may write about a topic."""

    NOBODY = "nobody"
    """Only the patient writes."""
    ADULT = "adult"
    """A spouse, a parent, a brother or sister."""
    CHILD = "child"
    """A child at nursery or school."""
    BABY = "baby"
    """A child whose age is told in months."""
    ANY = "any"
    """An adult or a child."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One complaint: how people tell it, what they ask, and what the clinic advises."""

    name: str
    """Identifier of the topic, unique in the body."""
    lasting: Lasting
    """Which durations make sense."""
    others: Others = Others.NOBODY
    """For whom `says` with a `{who}` may be written."""
    sex: str | None = None
    """"f" or "m" where only one can have it; None otherwise."""
    ages: tuple[int, int] = (18, 84)
    """Youngest and oldest writer, in years, who may have it himself."""
    other_ages: tuple[int, int] | None = None
    """Youngest and oldest other person (months for a baby); None takes the usual range."""
    is_grave: bool = False
    """Whether nobody would joke about it."""
    says: tuple[str, ...]
    """Wordings of the complaint; the last one is reserved for the test split."""
    notes: tuple[str, ...]
    """Findings that somebody may add, each a sentence."""
    tried: tuple[str, ...]
    """What has been tried, each a noun phrase or gerund."""
    asks: tuple[tuple[str, str], ...]
    """Questions, each with the sentence that answers it."""
    cause: tuple[str, ...]
    """What it most likely is, each a noun phrase."""
    do: tuple[str, ...]
    """What to do, each an imperative sentence."""
    avoid: tuple[str, ...]
    """What to leave alone, each a sentence."""
    see: tuple[str, ...]
    """When to be seen, each a clause that follows "if": the first the same day (with "soon: " in
    front, in the next days), the others in the next days, "112: " in front makes an emergency."""
