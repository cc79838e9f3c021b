"""Prompts alone, from a file that either party calls public."""

from __future__ import annotations

from lm.errors import TableError
from lm.table_formats import read_raw_rows, text_of
from lm.tables import PROMPT_COLUMNS


def read_prompts(source: str, *, column: str | None = None) -> tuple[str, ...]:
    """Read the prompts of a table; its further columns are not looked at.

    Args:
        source: A file, or the name of a data set, as `lm.tables.read_table` takes it.
        column: Column with the prompts; None infers it from known names.

    Returns:
        The prompts, in the order of the rows, without surrounding whitespace.

    Raises:
        TableError: The source cannot be used, or has no such column, or a row has no text in it.
    """
    rows = read_raw_rows(source, split=None)
    known = PROMPT_COLUMNS if column is None else (column,)
    found = next((name for name in known if name in rows[0][1]), None)
    if found is None:
        raise TableError(
            f"Expected {'one of the columns ' if column is None else 'the column '}"
            f"{', '.join(known)} in the public prompts of {source}, found none. Rename the column "
            "with the prompts."
        )
    prompts = []
    for number, row in rows:
        prompt = text_of(row.get(found))
        if not prompt:
            raise TableError(
                f"Expected a public prompt in every row of {source}, found none in row {number}. "
                "Complete or delete it."
            )
        prompts.append(prompt)
    return tuple(prompts)
