"""Optional packages that a tuning of the target needs.

Asked for before anything else runs, so it imports none of what it asks for.
"""

from __future__ import annotations

import importlib.util
from typing import Final

from protocol.errors import ConfigurationError
from server_side.config import FinetuningConfig
from server_side.config.finetuning import Method, Tracker

_EXTRAS: Final = {
    "bitsandbytes": "qlora",
    "tensorboard": "server",
    "mlflow": "mlflow",
    "wandb": "wandb",
}
"""By package, the extra of this project that brings it."""


def require_packages(config: FinetuningConfig) -> None:
    """Refuse settings whose optional packages are not installed.

    Raises:
        ConfigurationError: One is not; the message says which, and what does without it.
    """
    needed = []
    if config.method == Method.QLORA:
        needed.append(("bitsandbytes", f"method={config.method}", f"method={Method.LORA}"))
    if config.report_to != Tracker.NONE:
        needed.append(
            (config.report_to, f"report_to={config.report_to}", f"report_to={Tracker.NONE}")
        )
    for package, setting, other in needed:
        if not importlib.util.find_spec(package):
            raise ConfigurationError(
                f"Expected the package {package} because finetuning.{setting}, found it missing. "
                f"Install the extra that brings it: pip install -e '.[{_EXTRAS[package]}]'. Or set "
                f"finetuning.{other}."
            )
