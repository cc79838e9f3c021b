"""The environment variables that keep libraries from phoning home.

Libraries read these variables when they are first imported, so each entry point calls
`switch_off_telemetry` before it imports anything heavy; child processes inherit the variables. What
no variable keeps quiet is silenced beside its import: OpenVINO in `lm/sampling_openvino.py`, TRL in
`server_side/tuning/trainers.py`.
"""

from __future__ import annotations

import os
from typing import Final

QUIET_ENVIRONMENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Flower would otherwise install what an app bundle asks for, from the network.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # Not telemetry, but as unasked for: tokenizers warn after a fork unless told.
    "TOKENIZERS_PARALLELISM": "false",
}
"""What is set; a variable that the user has set already keeps its value."""


def switch_off_telemetry() -> None:
    """Set the switches for this process and all that it starts."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
