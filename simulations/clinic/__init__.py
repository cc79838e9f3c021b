"""The shipped records: fictional messages to a clinic's portal, with a clinician's answers.

Composed from a hand-written body of complaints, findings and advice (the `body_*` modules), told
in the voices of many kinds of people. Nobody in here exists, and nothing here is medical advice.
"""

from simulations.clinic.composing import MAX_RECORDS, compose_messages
from simulations.clinic.messages import INSTRUCTION, ClinicMessage, Split, write_messages
from simulations.clinic.people import find_identifiers

__all__ = [
    "INSTRUCTION",
    "MAX_RECORDS",
    "ClinicMessage",
    "Split",
    "compose_messages",
    "find_identifiers",
    "write_messages",
]
