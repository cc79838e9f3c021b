"""The kinds of people who write: what each adds, in which words, and how each spells.

A voice changes the surface of a message and nothing of its substance. `restyle` works on one part
of a message at a time, so that names and numbers can be kept out of it.
"""

from __future__ import annotations

import random
import re
from enum import StrEnum
from functools import partial


class Voice(StrEnum):
    """How somebody writes."""

    PLAIN = "plain"
    """Friendly and to the point."""
    TEXTER = "texter"
    """No capitals, short forms, few full stops."""
    FORMAL = "formal"
    """A letter, without contractions."""
    WORRIED = "worried"
    """Apologises, asks twice."""
    LEARNER = "learner"
    """Writes in a language that is not his own."""
    ENGINEER = "engineer"
    """A list of facts with numbers."""
    RAMBLER = "rambler"
    """Tells how it came about first."""
    ANGRY = "angry"
    """Has waited too long for an answer."""
    JOKER = "joker"
    """Makes light of it."""
    SHY = "shy"
    """Finds it embarrassing."""


OPENINGS: dict[Voice, tuple[str, ...]] = {
    Voice.PLAIN: ("", "", "", "Hi,", "Hello,", "Hi there,", "Good morning,", "Hello all,"),
    Voice.TEXTER: ("", "", "", "hey", "hi", "hi doc", "quick q"),
    Voice.FORMAL: (
        "Dear Doctor,",
        "Dear Sir or Madam,",
        "Good afternoon, Doctor.",
        "Dear Doctor, I hope this finds you well.",
        "To whom it may concern:",
        "I should be grateful for your advice.",
    ),
    Voice.WORRIED: (
        "I'm really worried.",
        "Hello, sorry to bother you.",
        "Please help, I'm not sure what to do.",
        "Hi, I'm a bit anxious about this.",
        "Sorry for writing so late.",
        "I don't want to overreact, but",
    ),
    Voice.LEARNER: (
        "Hello doctor.",
        "Good day doctor, sorry for my English.",
        "Hello, I am new in your clinic.",
        "Dear doctor, excuse my writing.",
        "Hello, please I have question.",
    ),
    Voice.ENGINEER: ("", "Hello,", "Facts first.", "Short summary:", "Hi team, brief report:"),
    Voice.RAMBLER: (
        "My neighbour, who was a nurse for thirty years, says I should write.",
        "Where do I begin? We had the painters in and I thought nothing of it.",
        "It was my birthday on Sunday, so I put off writing until now.",
        "I would have rung, but I never get through before the shop opens.",
        "We've just moved house and everything is upside down.",
        "My sister looked it up and frightened me, so here I am.",
        "You may remember me, I brought the plum cake at Christmas.",
        "I said to myself I'd give it one more week, and then another.",
        "The dog has been ill as well, but that's another story.",
        "I'm not one to make a fuss, ask anybody.",
        "We were at my cousin's wedding when it all began, lovely day otherwise.",
        "Between the school run and the roof leaking I never got round to this.",
    ),
    Voice.ANGRY: (
        "This is my second message and nobody has answered.",
        "I've rung three times and been cut off each time.",
        "I was told someone would call me back. Nobody did.",
        "Frankly I'm fed up with waiting.",
        "Last time I was sent home with good wishes, so let me try again.",
    ),
    Voice.JOKER: (
        "Before the internet tells me I'm dying:",
        "I think the warranty has run out.",
        "Your favourite customer again.",
        "Good news, I'm not writing about the weather.",
        "Asking before I call the priest.",
        "New week, new spare part needed.",
    ),
    Voice.SHY: (
        "This is a bit embarrassing.",
        "I feel silly asking.",
        "It's probably nothing.",
        "I've never written here before.",
        "I hope this isn't a stupid thing to ask.",
    ),
}
"""How a message may begin; an empty text is no opening."""

CLOSINGS: dict[Voice, tuple[str, ...]] = {
    Voice.PLAIN: ("", "", "Thanks!", "Thank you.", "Many thanks.", "Cheers."),
    Voice.TEXTER: ("", "", "thx", "pls answer soon", "ty"),
    Voice.FORMAL: (
        "Yours faithfully.",
        "With kind regards.",
        "Thanking you in advance.",
        "I remain yours sincerely.",
        "",
    ),
    Voice.WORRIED: ("", "Please answer soon.", "I can't stop thinking about it.", "Thank you!"),
    Voice.LEARNER: ("Thank you doctor.", "Thanks for your help.", "", "God bless you."),
    Voice.ENGINEER: ("", "", "Regards.", "Happy to supply more data."),
    Voice.RAMBLER: ("", "Sorry for the long story.", "Anyway, thank you.", "But I'm rambling."),
    Voice.ANGRY: ("", "I expect an answer today.", "Please don't send me a leaflet.", "Thank you."),
    Voice.JOKER: (
        "",
        "No hurry, I'm not going anywhere.",
        "Asking for a friend, obviously.",
        "Thanks, you're the best.",
    ),
    Voice.SHY: ("", "Thank you for understanding.", "Sorry to take your time.", "Thanks."),
}
"""How a message may end; an empty text is no closing."""

GENERAL_ASKS = (
    "What should {i} do?",
    "Should {i} come in?",
    "Is this something to worry about?",
    "What do you advise?",
    "Can this wait?",
    "{do} {i} need an appointment?",
    "What would help?",
    "Any ideas?",
)
"""Questions that fit every topic; the advice itself answers them."""

TRIED_TELLINGS: dict[Voice | None, tuple[str, ...]] = {
    None: (
        "I've tried {tried}.",
        "{tried} didn't help.",
        "So far I've only tried {tried}.",
        "{tried} did nothing for it.",
        "I've already tried {tried}, with little effect.",
    ),
    Voice.TEXTER: ("tried {tried}, nope", "{tried} did nothing", "tried {tried} already"),
    Voice.ENGINEER: ("Tried: {tried}, no effect.", "Measures so far: {tried}.", "Tried: {tried}."),
    Voice.JOKER: (
        "{tried} did as much as a prayer.",
        "Treatment so far: {tried}. Don't laugh.",
        "I've tried {tried}, zero stars.",
    ),
    Voice.ANGRY: ("{tried} did nothing at all.", "I've tried {tried} and it's useless."),
}
"""How somebody tells what has been tried; the key None serves all other voices."""

MEDICINES = (
    "{i} take{s} no other medicine.",
    "{i} {am} allergic to penicillin.",
    "{i} take{s} something for the thyroid.",
    "No regular tablets.",
    "{i} {have} no other illnesses.",
)
"""What an adult may say about medicines."""

_LONG_FORMS = (
    (r"\b(it|there|that|he|she)'s been\b", r"\1 has been"),
    (r"\b(I|we|you)'ve\b", r"\1 have"),
    (r"\bI'm\b", "I am"),
    (r"\byou're\b", "you are"),
    (r"\b(they|we)'re\b", r"\1 are"),
    (r"\b(it|there|that|he|she|who)'s\b", r"\1 is"),
    (r"\b(I|they|it|you)'ll\b", r"\1 will"),
    (r"\bcan't\b", "cannot"),
    (r"\bwon't\b", "will not"),
    (r"\b(do|does|did|is|are|has|have|had|was|would|should|could)n't\b", r"\1 not"),
)
_SHORT_FORMS = (
    (r"\bplease\b", "pls"),
    (r"\bbecause\b", "bc"),
    (r"\bweeks\b", "wks"),
    (r"\babout\b", "abt"),
    (r"\bwith\b", "w"),
    (r"\bappointment\b", "appt"),
    (r"\byou\b", "u"),
    (r"\btonight\b", "2nite"),
    (r"\band\b", "&"),
    (r"\bi'm\b", "im"),
    (r"\bi've\b", "ive"),
    (r"\bcan't\b", "cant"),
    (r"\bdon't\b", "dont"),
    (r"\bit's\b", "its"),
    (r"\bthere's\b", "theres"),
)
_MISSPELLINGS = (
    ("because", "becuase"),
    ("really", "realy"),
    ("which", "wich"),
    ("tried", "tryed"),
    ("appointment", "apointment"),
    ("medicine", "medecine"),
    ("swollen", "swolen"),
    ("swelling", "sweling"),
    ("headache", "headacke"),
    ("stomach", "stomache"),
    ("antibiotics", "antibotics"),
    ("diarrhoea", "diarrea"),
    ("paracetamol", "paracetemol"),
    ("ibuprofen", "ibuprofin"),
    ("shoulder", "sholder"),
    ("throat", "throut"),
    ("blisters", "blistres"),
    ("breathing", "breething"),
    ("morning", "mornign"),
    ("evening", "evning"),
    ("nothing", "nothin"),
    ("started", "startet"),
    ("nearly", "nearlly"),
    ("weeks", "weks"),
    ("think", "thnik"),
    ("should", "shoud"),
    ("their", "thier"),
    ("again", "agian"),
    ("itchy", "ichy"),
    ("hurts", "hurst"),
    ("fever", "feever"),
    ("with", "wiht"),
    ("that", "taht"),
    ("have", "ahve"),
)


def restyle(text: str, voice: Voice, rng: random.Random) -> str:
    """Write one part of a message as this voice would.

    Args:
        text: A part in plain words, one or more sentences.
        voice: Who writes.
        rng: Source of randomness.

    Returns:
        The same part in the voice's spelling.
    """
    match voice:
        case Voice.TEXTER:
            text = text.lower()
            for pattern, short in _SHORT_FORMS:
                if rng.random() < 0.6:
                    text = re.sub(pattern, short, text)
            return text.rstrip(".") if rng.random() < 0.7 else text
        case Voice.FORMAL:
            return _spell_out(text)
        case Voice.LEARNER:
            text = _spell_out(text)
            text = re.sub(
                r"\bfor (?=(?:about |nearly )?(?:a|two|three|four|five|six|ten)\b)",
                "since ",
                text,
            )
            return re.sub(r"\b(?:the|a|an) (?=[a-z])", partial(_perhaps_dropped, rng=rng), text)
        case Voice.WORRIED:
            return text.replace("?", "??") if rng.random() < 0.25 else text
        case Voice.ANGRY:
            return text.removesuffix(".") + "!" if rng.random() < 0.25 and text[-1] == "." else text
        case _:
            return text


def misspell(text: str, rng: random.Random, *, num_slips: int) -> str:
    """Put slips of spelling into a text.

    Args:
        text: The text.
        rng: Source of randomness.
        num_slips: At most how many words to misspell.

    Returns:
        The text with at most that many words misspelt.
    """
    present = [slip for slip in _MISSPELLINGS if re.search(rf"\b{slip[0]}\b", text)]
    for right, wrong in rng.sample(present, k=min(num_slips, len(present))):
        text = re.sub(rf"\b{right}\b", wrong, text, count=1)
    return text


def draw_voice(age: int, rng: random.Random) -> Voice:
    """Draw how somebody of this age writes.

    Args:
        age: In years; it makes some ways of writing likelier, and none impossible.
        rng: Source of randomness.

    Returns:
        The voice of all messages of one person.
    """
    weights = {
        Voice.PLAIN: 5.0,
        Voice.TEXTER: 4.0 if age < 35 else 1.5 if age < 55 else 0.2,
        Voice.FORMAL: 4.0 if age > 62 else 0.7,
        Voice.WORRIED: 2.0,
        Voice.LEARNER: 1.5,
        Voice.ENGINEER: 1.5,
        Voice.RAMBLER: 2.5 if age > 45 else 0.9,
        Voice.ANGRY: 1.2,
        Voice.JOKER: 1.5,
        Voice.SHY: 1.2,
    }
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def _spell_out(text: str) -> str:
    for pattern, long_form in _LONG_FORMS:
        text = re.sub(pattern, partial(_lengthen, long_form=long_form), text, flags=re.IGNORECASE)
    return text


def _lengthen(match: re.Match[str], *, long_form: str) -> str:
    found = match.expand(long_form)
    return found[0].upper() + found[1:] if match[0][0].isupper() else found


def _perhaps_dropped(match: re.Match[str], *, rng: random.Random) -> str:
    return "" if rng.random() < 0.5 else match[0]
