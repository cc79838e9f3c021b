"""What Hydra calls when a multirun begins and ends: note what was asked for, say what failed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
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
        try:
            points = _points(config)
            _check_composition(config, points or [])
            begin_sweep(
                folder,
                overrides=overrides,
                num_points=None if points is None else len(points),
                command=["rewardds-simulate", *sys.argv[1:]],
            )
        except Exception as error:
            # Hydra makes a warning of what a callback raises, and goes on.
            hold_failure(error)
            sys.exit(1)
        point_latest_at(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # Hydra's own signature
        """Say how it went; a point that failed makes the command fail."""
        folder = Path(config.hydra.sweep.dir)
        try:
            require_all_done(folder)
        except SweepFailedError as error:
            hold_failure(error)
        print(f"Sweep:  {folder}\nReport: rewardds-report {folder}")


def _points(config: DictConfig) -> list[list[str]] | None:
    """Return each point's overrides; None where the sweeper does not say beforehand."""
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    assert isinstance(sweeper, dict)
    if sweeper.get("_target_") != _COUNTING_SWEEPER:
        return None
    words = [f"{name}={value}" for name, value in (sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*words, *config.hydra.overrides.task])
    points: list[list[str]] = BasicSweeper.split_arguments(overrides, None)[0]
    return points


def _check_composition(config: DictConfig, points: list[list[str]]) -> None:
    """Compose points until every word was in one; Hydra itself does so with a folder made."""
    seen: set[str] = set()
    for overrides in points:
        if not seen.issuperset(overrides):
            GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
            seen.update(overrides)
