"""Composes the shipped records: which wordings go to which split, who writes them, how often.

The splits are kept apart twice. The last wording of every topic's `says` is reserved for the test
split, so every topic occurs in both and no complaint is worded alike. And a prompt is taken only
where the digest of its text falls to its split, so no prompt can occur in both, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from simulations.clinic.answers import write_response
from simulations.clinic.body import TOPICS
from simulations.clinic.messages import ClinicMessage, Split
from simulations.clinic.people import Patient, can_have, draw_patient, draw_relative
from simulations.clinic.prompts import write_prompt
from simulations.clinic.topic import Topic
from simulations.clinic.voices import Voice, draw_voice

MAX_RECORDS: Final[dict[Split, int]] = {Split.TRAIN: 40_000, Split.TEST: 10_000}
"""How many records one call composes at most; the space of prompts is many times larger."""

_IDENTIFIED_FRACTION = 0.15
_MESSAGES_PER_PATIENT = ((1, 2, 3, 4), (0.58, 0.26, 0.11, 0.05))
_MAX_ATTEMPTS = 200


def compose_messages(
    num_records: int, *, seed: int, split: Split | str
) -> tuple[ClinicMessage, ...]:
    """Compose fictional messages to a clinic with the clinician's answers.

    Args:
        num_records: How many, from 1 to `MAX_RECORDS` of the split.
        seed: The same seed gives the same messages; another one gives others.
        split: Which part; no prompt of one part occurs in the other, whatever the seeds.

    Returns:
        Messages without a repeated prompt, all topics equally often, in mixed order.

    Raises:
        ValueError: The split is unknown, or the number is not in range.
    """
    split = _checked_split(split)
    if not 1 <= num_records <= MAX_RECORDS[split]:
        raise ValueError(
            f"Expected between 1 and {MAX_RECORDS[split]} records of the {split.value} split, "
            f"found {num_records}; ask for fewer, or compose with several seeds."
        )
    # Fictional text needs repeatable draws, not unpredictable ones.
    rng = random.Random(f"clinic {split.value} {seed}")  # noqa: S311
    composer = _Composer(split=split, rng=rng)
    messages: list[ClinicMessage] = []
    num_patients = 0
    while len(messages) < num_records:
        num_patients += 1
        patient_id = f"{split.value}-{seed}-{num_patients:05d}"
        messages.extend(composer.compose_patient(patient_id, most=num_records - len(messages)))
    rng.shuffle(messages)
    return tuple(messages)


def wordings(topic: Topic, split: Split) -> tuple[str, ...]:
    """Return the wordings of a topic that belong to a split."""
    return topic.says[-1:] if split is Split.TEST else topic.says[:-1]


def split_of(prompt: str) -> Split:
    """Return the one split in which a prompt may occur; it depends on nothing but its letters."""
    letters = "".join(prompt.lower().split())
    is_even = hashlib.sha256(letters.encode("utf-8")).digest()[0] % 2 == 0
    return Split.TRAIN if is_even else Split.TEST


@dataclass(slots=True, kw_only=True)
class _Composer:
    """Deals topics evenly and remembers which prompts exist."""

    split: Split
    rng: random.Random
    deck: deque[tuple[Topic, str]] = field(default_factory=deque)
    prompts: set[str] = field(default_factory=set)

    def compose_patient(self, patient_id: str, *, most: int) -> list[ClinicMessage]:
        """Compose all messages of one new patient."""
        counts, weights = _MESSAGES_PER_PATIENT
        num_messages = min(most, self.rng.choices(counts, weights=weights)[0])
        self._refill()
        patient = draw_patient(self.rng, patient_id=patient_id)
        voice = draw_voice(patient.age, self.rng)
        messages: list[ClinicMessage] = []
        for _ in range(len(self.deck)):
            topic, wording = self.deck.popleft()
            is_new_topic = all(message.topic != topic.name for message in messages)
            message = self._compose(topic, wording, patient, voice) if is_new_topic else None
            if message is None:
                self.deck.append((topic, wording))
                continue
            messages.append(message)
            if len(messages) == num_messages:
                break
        return messages

    def _compose(
        self, topic: Topic, wording: str, patient: Patient, voice: Voice
    ) -> ClinicMessage | None:
        """Compose one message, or return None where this patient cannot write it."""
        is_about_other = "{who}" in wording
        if not is_about_other and not can_have(patient, topic):
            return None
        for _ in range(_MAX_ATTEMPTS):
            relative = draw_relative(patient, topic, self.rng) if is_about_other else None
            if is_about_other and relative is None:
                return None
            draft = write_prompt(
                topic,
                wording,
                patient=patient,
                relative=relative,
                voice=Voice.PLAIN if topic.is_grave and voice is Voice.JOKER else voice,
                is_identified=self.rng.random() < _IDENTIFIED_FRACTION,
                rng=self.rng,
            )
            if draft.prompt in self.prompts or split_of(draft.prompt) is not self.split:
                continue
            self.prompts.add(draft.prompt)
            return ClinicMessage(
                prompt=draft.prompt,
                response=write_response(topic, draft, relative=relative, rng=self.rng),
                patient_id=patient.patient_id,
                topic=topic.name,
            )
        return None

    def _refill(self) -> None:
        """Deal every topic once more when few cards are left, each with one of its wordings."""
        if len(self.deck) > len(TOPICS):
            return
        cards = [(topic, self.rng.choice(wordings(topic, self.split))) for topic in TOPICS]
        self.rng.shuffle(cards)
        self.deck.extend(cards)


def _checked_split(split: Split | str) -> Split:
    try:
        return Split(split)
    except ValueError:
        known = ", ".join(f'"{member.value}"' for member in Split)
        raise ValueError(f"Expected a split out of {known}, found {split!r}.") from None
