"""What became of an exchange is read as it was written, or refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.errors import StageError
from server_side.exchange.outcome import OUTCOME_FILE, read_outcome


@pytest.mark.parametrize("text", ["[]", "{}", '{"run_id": "run"}', "null"])
def test_an_outcome_that_was_changed_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / OUTCOME_FILE).write_text(text, encoding="utf-8")

    with pytest.raises(StageError, match=r"exchange\.json as it was written"):
        read_outcome(tmp_path)
