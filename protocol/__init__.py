"""What both parties agree on: ledger, accounting, artifacts, messages, wire format and prompts.

The test for belonging here: if the other party had a different version of this file, would the
run be wrong or unsafe? Nothing in this package trains, configures or reads a record.
"""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 2
"""Version of the bytes on the wire; raised whenever a pinned message in `tests/golden` changes."""

SOFTWARE_VERSION: Final = "0.1.0"
"""Version of RewardDS itself; stated in each certificate; both parties run the same."""

__all__ = ["PROTOCOL_VERSION", "SOFTWARE_VERSION"]
