"""Runs inside the sandbox, before a candidate: evaluate expressions under it, and tell the values.

`server_side/sandbox/code_tests.py` sends this file's text with the candidate and the expressions,
and never what they should give. Only plain data is told, tagged by its type, as JSON; so nothing
that a candidate defines (an `==` that always holds, a `repr` that lies) takes part in judging it.

Only the standard library is imported: there is nothing else in the sandbox.
"""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Mapping, Sequence, Set
from decimal import Decimal
from fractions import Fraction

Json = None | bool | str | list["Json"] | dict[str, "Json"]
"""A value as it is told."""

_MAX_DEPTH = 60


def answer(source: str, questions: Sequence[tuple[str, bool]]) -> None:
    """Run a candidate, put questions to it in turn, and print the values as JSON.

    It ends at the first that raises: the candidate has failed then. What the candidate prints is
    lost, so that it does not get between the values.

    Args:
        source: The candidate.
        questions: Python expressions, each with False; or statements, with True: their value is
            True when they end without an error.
    """
    output = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    candidate = types.ModuleType("candidate")
    sys.modules["candidate"] = candidate  # where dataclasses, for one, look their fields up
    names = vars(candidate)
    # Untrusted on purpose, and confined before it comes to this line.
    exec(compile(source, "<candidate>", "exec"), names)  # noqa: S102
    values = []
    for text, is_statement in questions:
        code = compile(text, "<test>", "exec" if is_statement else "eval")
        value = eval(code, names)  # noqa: S307
        values.append(encode(True if is_statement else value))
    told = json.dumps(values).encode()
    while told:
        told = told[os.write(output, told) :]


def encode(value: object, depth: int = 0) -> Json:
    """Return plain data as JSON values that keep its type; anything else as its type's name.

    A subclass counts as the type that it extends, whose comparisons it mostly shares.

    Args:
        value: Whatever an expression gave.
        depth: How many collections it lies in; one that lies in more than 60 is not looked at.

    Returns:
        None, a bool or a text as it is; a list for a list; all else as an object of one entry, from
        the type to what makes up the value.
    """
    if depth > _MAX_DEPTH:
        return {"other": "too deep"}
    inner = depth + 1
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            return {"int": int.__format__(value, "x")}
        case float():
            return {"float": float.hex(value)}
        case complex():
            return {"complex": [float.hex(value.real), float.hex(value.imag)]}
        case bytes() | bytearray():
            return {"bytes": bytes(value).hex()}
        case Fraction():
            return {"ratio": [f"{part:x}" for part in value.as_integer_ratio()]}
        case Decimal() if value.is_finite():
            return {"ratio": [f"{part:x}" for part in value.as_integer_ratio()]}
        case list():
            return [encode(item, inner) for item in value]
        case tuple():
            return {"tuple": [encode(item, inner) for item in value]}
        case Set():
            return {"set": [encode(item, inner) for item in value]}
        case Mapping():
            pairs = [[encode(key, inner), encode(item, inner)] for key, item in value.items()]
            return {"dict": [list(pair) for pair in pairs]}
    return {"other": type(value).__name__}
