"""Small checks that the schemas in `server_side/config/` share; all speak in one form."""

from __future__ import annotations

import math
from collections.abc import Iterable

from protocol.errors import ConfigurationError


def require(is_valid: bool, name: str, expected: str, found: object) -> None:
    """Refuse a setting that is not valid.

    Args:
        is_valid: Whether it is.
        name: The setting as the user types it, with its group.
        expected: What it has to be, as a phrase that follows "to be".
        found: Its value.

    Raises:
        ConfigurationError: It names the setting as the user typed it, and shows the value.
    """
    if not is_valid:
        raise ConfigurationError(f"Expected {name} to be {expected}, got {found!r}. Change {name}.")


def require_counts(group: str, config: object, *names: str) -> None:
    """Refuse settings of a group that are not whole numbers of at least 1.

    Args:
        group: What the user types before their names, without the dot.
        config: The group, which has them as attributes.
        *names: The settings to look at; none of them may be None.

    Raises:
        ConfigurationError: It names the setting as the user typed it, and shows the value.
    """
    for name in names:
        value = getattr(config, name)
        require(value >= 1, f"{group}.{name}", "a whole number >= 1", value)


def require_positive(group: str, config: object, *names: str) -> None:
    """Refuse settings of a group that are not finite numbers above 0.

    Args:
        group: What the user types before their names, without the dot.
        config: The group, which has them as attributes.
        *names: The settings to look at; none of them may be None.

    Raises:
        ConfigurationError: It names the setting as the user typed it, and shows the value.
    """
    for name in names:
        value = getattr(config, name)
        require(math.isfinite(value) and value > 0, f"{group}.{name}", "a finite number > 0", value)


def require_fractions(group: str, config: object, *names: str) -> None:
    """Refuse settings of a group that do not lie in [0, 1].

    Args:
        group: What the user types before their names, without the dot.
        config: The group, which has them as attributes.
        *names: The settings to look at; none of them may be None.

    Raises:
        ConfigurationError: It names the setting as the user typed it, and shows the value.
    """
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{group}.{name}", "a fraction in [0, 1]", value)


def require_choice(name: str, found: str, choices: Iterable[str]) -> None:
    """Refuse a setting that is none of the choices.

    Args:
        name: The setting as the user types it, with its group.
        found: Its value.
        choices: What may stand there, in the order in which the message lists it.

    Raises:
        ConfigurationError: It names the setting as the user typed it, and shows the value.
    """
    options = [str(choice) for choice in choices]
    require(found in options, name, f"one of {', '.join(options)}", found)


def require_vllm_url(name: str, url: str | None, *, is_needed: bool) -> None:
    """Refuse what is no address, and a missing one that a stage needs.

    Args:
        name: The setting, without the `server_side.` before it.
        url: Its value; None where no server is named.
        is_needed: Whether some stage asks that server, by `engine=vllm`.

    Raises:
        ConfigurationError: It names the setting as the user typed it, and shows the value.
    """
    is_address = url is not None and url.startswith(("http://", "https://"))
    reason = ", because a stage has engine=vllm" if is_needed else ""
    require(
        is_address or (url is None and not is_needed),
        f"server_side.{name}",
        f"the http:// or https:// address of a vLLM server{reason}",
        url,
    )
