"""The invented people of the shipped records: who writes, for whom, and what gives them away.

All names are made up, telephone numbers lie in the range 555-0100 to 555-0199 that belongs to
fiction. About one message in seven tells a full name, a number or a date of birth, so that a leak
can be seen; `find_identifiers` finds them again in any text.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import pairwise

from simulations.clinic.topic import Others, Topic


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


REFERENCE_YEAR = 2025
"""The year in which all messages are written; dates of birth follow from the age."""

WOMEN = _words("""
    Adela Birgit Carys Delphine Edda Fenna Greta Hanneke Ilka Jorunn Katya Lioba Maeve Nerys
    Odile Perpetua Romilly Sunniva Tamsin Ursel Verity Wilhelmina Xenia Yara Zelda Amina Beatrix
    Chidera Dunya Elspeth Farida Ginevra Hester Imogen Jadwiga Keziah Leocadia Mirela Noor
    Ottilie
""")
"""First names of women and girls."""

MEN = _words("""
    Alaric Bertil Caspian Dietmar Emrys Florian Gethin Henrik Ivo Jarek Konrad Lorcan Matthis
    Nils Osric Piet Quentin Rufus Silvan Tobiah Ulric Viggo Wendel Xander Yorick Zoltan Anselm
    Bram Cormac Dragan Elio Fergus Gustav Hamish Idris Joost Kwame Leif Malachy Ndulu
""")
"""First names of men and boys."""

SURNAMES = _words("""
    Quillfeather Dunmorrow Ashenby Brackwater Copperfold Dellamere Emberwick Fallowdene
    Greyhollow Hartsbane Inglethorpe Juniperley Kestrelman Larkenfield Merrowdale Nettleship
    Oakenshaw Pennyfarrow Quarrington Ravenscombe Silverlock Thistlewood Underbarrow Vellacroft
    Wintergreene Yewdale Zellwanger Applegarthe Birchwhistle Cloudesley Driftmoor Elderquist
    Foxgrove Gorsebury Hollowick Ivermee Jessamore Knotweather Lindenquay Mossgrave Northquill
    Otterburne Plumridger Rookhampton Saltmarsh Tallowby Umberfield Vanterpoole Wrenfold
    Yarrowman
""")
"""Invented surnames, chosen to be unlike common words."""

MONTHS = _words("""
    January February March April May June July August September October November December
""")

_PHONE = re.compile(r"\b555-01\d\d\b")
_BIRTH_DATE = re.compile(rf"\b\d{{1,2}} (?:{'|'.join(MONTHS)}) (?:19|20)\d\d\b", re.IGNORECASE)
_BIRTH_NUMBERS = re.compile(r"\b\d{1,2}/\d{1,2}/(?:19|20)\d\d\b")
_WORD = re.compile(r"[^\W\d_]+")
_FIRST_LOWER = frozenset(name.lower() for name in (*WOMEN, *MEN))
_SURNAMES_LOWER = frozenset(name.lower() for name in SURNAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A person who writes to the clinic."""

    patient_id: str
    """Identifier, the same in all messages of this person."""
    sex: str
    """"f" or "m"."""
    age: int
    """In years, 18 to 84."""
    first_name: str
    """Invented first name."""
    surname: str
    """Invented surname, shared by the family."""
    phone: str
    """Telephone number in the range of fiction."""
    birthday: tuple[int, int]
    """Day and month of birth."""
    spouse_name: str
    """First name of the husband or wife."""
    child_name: str
    """First name of the child."""
    child_sex: str
    """"f" or "m"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """The person whom a message is about when it is not the writer."""

    relation: str
    """What the writer calls this person after "my": husband, daughter, baby."""
    mention: str
    """How the message first mentions this person: "my husband", "our 6-year-old"."""
    sex: str
    """"f" or "m"."""
    age: int
    """In years, or in months for a baby."""
    is_baby: bool
    """Whether `age` counts months."""
    first_name: str | None
    """Name, where the message could give it."""


def draw_patient(rng: random.Random, *, patient_id: str) -> Patient:
    """Draw an invented person.

    Args:
        rng: Source of randomness.
        patient_id: Identifier for this person.

    Returns:
        The person, of any adult age.
    """
    sex = rng.choice("fm")
    child_sex = rng.choice("fm")
    return Patient(
        patient_id=patient_id,
        sex=sex,
        age=rng.choice((rng.randint(18, 45), rng.randint(24, 60), rng.randint(45, 84))),
        first_name=rng.choice(WOMEN if sex == "f" else MEN),
        surname=rng.choice(SURNAMES),
        phone=f"555-01{rng.randint(0, 99):02d}",
        birthday=(rng.randint(1, 28), rng.randint(1, 12)),
        spouse_name=rng.choice(MEN if sex == "f" else WOMEN),
        child_name=rng.choice(WOMEN if child_sex == "f" else MEN),
        child_sex=child_sex,
    )


def can_have(patient: Patient, topic: Topic) -> bool:
    """Tell whether the topic can be this person's own complaint."""
    youngest, oldest = topic.ages
    return youngest <= patient.age <= oldest and topic.sex in (None, patient.sex)


def draw_relative(patient: Patient, topic: Topic, rng: random.Random) -> Relative | None:
    """Draw somebody for whom this person may write about a topic.

    Args:
        patient: The writer.
        topic: What the message is about.
        rng: Source of randomness.

    Returns:
        The person it is about, or None where nobody in the family fits.
    """
    kind = topic.others
    if kind is Others.ANY:
        kind = rng.choice((Others.ADULT, Others.CHILD))
    match kind:
        case Others.ADULT:
            return _draw_adult(patient, topic, rng)
        case Others.CHILD:
            return _draw_child(patient, topic, rng)
        case Others.BABY:
            return _draw_baby(patient, topic, rng)
        case _:
            return None


def birth_date(*, age: int, birthday: tuple[int, int], is_numeric: bool) -> str:
    """Write the date of birth that goes with an age in `REFERENCE_YEAR`.

    Args:
        age: In years.
        birthday: Day and month, each from 1.
        is_numeric: Whether it reads as 3/5/1961 or as 3 May 1961.

    Returns:
        The date, day before month, as `find_identifiers` finds it.
    """
    day, month = birthday
    year = REFERENCE_YEAR - age
    return f"{day}/{month}/{year}" if is_numeric else f"{day} {MONTHS[month - 1]} {year}"


def find_identifiers(text: str) -> tuple[str, ...]:
    """Find what gives an invented person away: full names, telephone numbers, dates of birth.

    Args:
        text: Any text, in any case.

    Returns:
        What was found, in lower case, without repeats, sorted.

    >>> find_identifiers("Greta Yewdale here, 555-0142. Born 3 May 1961, I have a cough.")
    ('3 may 1961', '555-0142', 'greta yewdale')
    """
    words = [word.lower() for word in _WORD.findall(text)]
    names = {
        f"{first} {last}"
        for first, last in pairwise(words)
        if first in _FIRST_LOWER and last in _SURNAMES_LOWER
    }
    for pattern in (_PHONE, _BIRTH_DATE, _BIRTH_NUMBERS):
        names.update(found.lower() for found in pattern.findall(text))
    return tuple(sorted(names))


def _draw_adult(patient: Patient, topic: Topic, rng: random.Random) -> Relative | None:
    spouse_sex = "m" if patient.sex == "f" else "f"
    spouse = "husband" if spouse_sex == "m" else "wife"
    near_age = patient.age + rng.randint(-5, 5)
    parent_age = patient.age + rng.randint(23, 32)
    choices = [
        (spouse, spouse_sex, near_age, patient.spouse_name),
        (spouse, spouse_sex, near_age, patient.spouse_name),
        ("partner", spouse_sex, near_age, patient.spouse_name),
        ("mother", "f", parent_age, None),
        ("mum", "f", parent_age, None),
        ("father", "m", parent_age, None),
        ("dad", "m", parent_age, None),
        ("brother", "m", near_age, None),
        ("sister", "f", near_age, None),
    ]
    youngest, oldest = topic.other_ages or topic.ages
    fitting = [
        choice
        for choice in choices
        if max(youngest, 20) <= choice[2] <= oldest and topic.sex in (None, choice[1])
    ]
    if not fitting:
        return None
    relation, sex, age, name = rng.choice(fitting)
    mentions = [f"my {relation}"] * 3 + [f"my {relation}, {age},"]
    if name is not None:
        mentions.append(f"my {relation} {name}")
    return Relative(
        relation=relation,
        mention=rng.choice(mentions),
        sex=sex,
        age=age,
        is_baby=False,
        first_name=name,
    )


def _draw_child(patient: Patient, topic: Topic, rng: random.Random) -> Relative | None:
    sex = topic.sex or patient.child_sex
    if sex != patient.child_sex or not 24 <= patient.age <= 52:
        return None
    youngest, oldest = topic.other_ages or (3, 12)
    age = rng.randint(youngest, oldest)
    if age > patient.age - 19:
        return None
    relation = "daughter" if sex == "f" else "son"
    mentions = [
        f"my {relation}",
        f"our {relation}",
        f"my {age}-year-old",
        f"our {age}-year-old {relation}",
        f"my {relation} {patient.child_name}",
    ]
    if age <= 7:
        mentions.append("my little girl" if sex == "f" else "my little boy")
    return Relative(
        relation=relation,
        mention=rng.choice(mentions),
        sex=sex,
        age=age,
        is_baby=False,
        first_name=patient.child_name,
    )


def _draw_baby(patient: Patient, topic: Topic, rng: random.Random) -> Relative | None:
    if not 20 <= patient.age <= 44:
        return None
    sex = patient.child_sex
    age = rng.randint(*(topic.other_ages or (2, 14)))
    relation = rng.choice(("baby", "daughter" if sex == "f" else "son"))
    mentions = [
        f"my {relation}",
        f"our {age}-month-old" if age > 1 else "our newborn",
        f"our baby {'girl' if sex == 'f' else 'boy'}",
        f"our little {patient.child_name}",
        f"{patient.child_name}, {age} months old," if age > 1 else patient.child_name,
    ]
    return Relative(
        relation=relation,
        mention=rng.choice(mentions),
        sex=sex,
        age=age,
        is_baby=True,
        first_name=patient.child_name,
    )
