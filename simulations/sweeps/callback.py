"""What Hydra calls when a multirun begins and ends: note what was asked for, say what failed."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from simulations.command_line import hold_failure, point_latest_at
from simulations.sweeps.points import SweepFailedError, begin_sweep, require_all_done

_COUNTING_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class SweepCallback(Callback):
    """Keeps a sweep's folder; its name stands in `conf/simulate.yaml`."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # Hydra's own signature
        """Note what is asked for, before any point begins."""
        folder = Path(config.hydra.sweep.dir)
        # What the command said, but for where to keep it: `resume` names that itself.
        words = [*config.hydra.overrides.hydra, *config.hydra.overrides.task]
        overrides = [
            word for word in words if not word.startswith(("hydra.sweep.dir=", "hydra.mode="))
        ]
        begin_sweep(
            folder,
            overrides=overrides,
            num_points=_num_points(config),
            command=["rewardds-simulate", *sys.argv[1:]],
        )
        point_latest_at(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # Hydra's own signature
        """Say how it went; a point that failed makes the command fail."""
        folder = Path(config.hydra.sweep.dir)
        try:
            require_all_done(folder)
        except SweepFailedError as error:
            hold_failure(error)
        print(f"Sweep:  {folder}\nReport: rewardds-report {folder}")


def _num_points(config: DictConfig) -> int | None:
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    assert isinstance(sweeper, dict)
    if sweeper.get("_target_") != _COUNTING_SWEEPER:
        return None
    words = [f"{name}={value}" for name, value in (sweeper.get("params") or {}).items()]
    chosen = {}
    for override in OverridesParser.create().parse_overrides(
        [*words, *config.hydra.overrides.task]
    ):
        is_swept = override.is_sweep_override()
        chosen[override.get_key_element()] = (
            len(list(override.sweep_string_iterator())) if is_swept else 1
        )
    *_, product = itertools.accumulate(chosen.values(), lambda one, two: one * two, initial=1)
    return product
