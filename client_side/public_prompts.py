"""Read the public prompts that pairs against other prompts may use, from the operator's own file.

Covers: a file that cannot be used, and the file of the records in its place, found before anything
is paid for.
Does not cover: another file that its operator calls public and that is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from lm.errors import TableError
from lm.public_prompts import read_prompts
from lm.table_formats import is_same_source
from lm.tables import normalise_prompt
from protocol.errors import ConfigurationError, RecordsError


def check_public_prompts(path: str | None, *, records_path: str) -> None:
    """See that a file of public prompts can be used, while nothing is paid for.

    Args:
        path: The file, seen from this process; None where none is named.
        records_path: The records, likewise.

    Raises:
        ConfigurationError: It is the file of the records.
        RecordsError: It cannot be used.
    """
    if path is None:
        return
    # Privacy: a record's pairs must not hold another record's prompt, however the file is spelled.
    if is_same_source(path, records_path):
        raise ConfigurationError(
            "Expected preferences.public_prompts_path to name public prompts, got the file of the "
            "records. Name another file."
        )
    read_public_prompts(path)


def read_public_prompts(path: str) -> tuple[str, ...]:
    """Read public prompts.

    Args:
        path: File with a column named like a prompt; further columns are not looked at.

    Returns:
        The prompts; at least two that differ.

    Raises:
        RecordsError: They cannot be read, or all are the same.
    """
    problem = None
    try:
        prompts = read_prompts(path)
    except TableError as error:
        problem = str(error)
    if problem is not None:
        raise RecordsError(problem)
    if len(distinct_prompts(prompts)) < 2:
        raise RecordsError(
            f"Expected at least two different public prompts in {path}, found one. Supply more."
        )
    return prompts


def distinct_prompts(prompts: Sequence[str]) -> dict[str, str]:
    """Return prompts by the form under which two count as the same."""
    return {key: prompt for prompt in prompts if (key := normalise_prompt(prompt))}
