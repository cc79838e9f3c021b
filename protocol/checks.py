"""Small validators for settings and for values from the wire.

Each takes the value as a keyword, so that the name in the message is the name in the call:
`check_fraction(sample_rate=1.5)` says *Expected 0 < sample_rate <= 1, got sample_rate=1.5.*
Every one raises `ConfigurationError`; `protocol/documents.py` turns that into
`MalformedMessageError` where the value came from the other party.
"""

from __future__ import annotations

import math
import re
from typing import Final

from protocol.errors import ConfigurationError

# Names become file names and log text. A wider pattern would let a peer write "../" or a newline.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODULE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,127}")
_HEX_BYTES: Final = re.compile(r"(?:[0-9a-f]{2})+")


def check_fraction(**named: float) -> None:
    """Check that each value lies in (0, 1].

    Raises:
        ConfigurationError: A value is not a number in (0, 1].
    """
    for name, value in named.items():
        if not (_is_number(value) and 0 < value <= 1):
            raise ConfigurationError(
                f"Expected 0 < {name} <= 1, got {name}={value!r}. Give a number in that range."
            )


def check_open_fraction(**named: float) -> None:
    """Check that each value lies in (0, 1), both ends left out.

    Raises:
        ConfigurationError: A value is not a number in (0, 1).
    """
    for name, value in named.items():
        if not (_is_number(value) and 0 < value < 1):
            raise ConfigurationError(
                f"Expected 0 < {name} < 1, got {name}={value!r}. Give a number in that range."
            )


def check_positive(**named: float) -> None:
    """Check that each value is finite and above zero.

    Raises:
        ConfigurationError: A value is not a finite number above zero.
    """
    for name, value in named.items():
        if not (_is_number(value) and math.isfinite(value) and value > 0):
            raise ConfigurationError(
                f"Expected a finite {name} > 0, got {name}={value!r}. Give a number above zero."
            )


def check_not_negative(*, can_be_infinite: bool = False, **named: float) -> None:
    """Check that each value is zero or more.

    Args:
        can_be_infinite: Whether positive infinity passes.
        **named: The values under the names that the user knows.

    Raises:
        ConfigurationError: A value is negative, not a number, or infinite where it may not be.
    """
    for name, value in named.items():
        is_ok = _is_number(value) and value >= 0 and (can_be_infinite or math.isfinite(value))
        if not is_ok:
            kind = "a" if can_be_infinite else "a finite"
            raise ConfigurationError(
                f"Expected {kind} {name} >= 0, got {name}={value!r}. Give a number of at least 0."
            )


def check_count(*, at_least: int, at_most: int, **named: int) -> None:
    """Check that each value is a whole number within bounds.

    Args:
        at_least: Smallest value that passes.
        at_most: Largest value that passes.
        **named: The values under the names that the user knows.

    Raises:
        ConfigurationError: A value is not an integer within the bounds.
    """
    for name, value in named.items():
        # `bool` is an `int` in Python; True is not a count.
        if type(value) is not int or not at_least <= value <= at_most:
            raise ConfigurationError(
                f"Expected a whole number {at_least} <= {name} <= {at_most}, "
                f"got {name}={value!r}. Give a number in that range."
            )


def check_name(**named: str) -> None:
    """Check that each value can serve as a file name and cannot leave its folder.

    Raises:
        ConfigurationError: A value is not 1 to 64 letters, digits, dots, dashes or underscores
            that begin with a letter or digit.
    """
    for name, value in named.items():
        if not (isinstance(value, str) and _NAME.fullmatch(value)):
            raise ConfigurationError(
                f"Expected {name} of 1 to 64 letters, digits, '.', '-' or '_' that begins with a "
                f"letter or digit, got {name}={_shown(value)}. Choose a plain name."
            )


def check_module_name(**named: str) -> None:
    """Check that each value can be the name of a module inside a model.

    Raises:
        ConfigurationError: A value is not a dotted name.
    """
    for name, value in named.items():
        if not (isinstance(value, str) and _MODULE_NAME.fullmatch(value)):
            raise ConfigurationError(
                f"Expected {name} to be a dotted module name such as 'q_proj', got "
                f"{name}={_shown(value)}. Use the names that the base model gives its layers."
            )


def check_hex(*, num_bytes: int, **named: str) -> None:
    """Check that each value is lower-case hexadecimal for a fixed number of bytes.

    Args:
        num_bytes: How many bytes the text stands for.
        **named: The values under the names that the user knows.

    Raises:
        ConfigurationError: A value is not hexadecimal text of that length.
    """
    for name, value in named.items():
        is_ok = (
            isinstance(value, str) and len(value) == 2 * num_bytes and _HEX_BYTES.fullmatch(value)
        )
        if not is_ok:
            raise ConfigurationError(
                f"Expected {name} as {2 * num_bytes} lower-case hexadecimal digits, got "
                f"{name}={_shown(value)}. Copy it from where it was computed."
            )


def check_text(*, max_chars: int, can_be_empty: bool = False, **named: str) -> None:
    """Check that each value is printable text of bounded length.

    Args:
        max_chars: Longest text that passes.
        can_be_empty: Whether the empty text passes.
        **named: The values under the names that the user knows.

    Raises:
        ConfigurationError: A value is too long, empty, or holds control characters or halves of
            surrogate pairs.
    """
    for name, value in named.items():
        is_ok = isinstance(value, str) and (can_be_empty or value) and len(value) <= max_chars
        if not is_ok or not all(char.isprintable() or char == "\n" for char in value):
            raise ConfigurationError(
                f"Expected {name} of at most {max_chars} printable characters, got "
                f"{name}={_shown(value)}. Shorten it and remove control characters and "
                f"spaces other than U+0020 and line ends."
            )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and not math.isnan(value)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    """Show a value of unknown origin: escaped, so that it cannot forge a log line, and short."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
