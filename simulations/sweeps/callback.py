"""What Hydra calls when a multirun begins and ends: note what was asked for, say what failed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lm.errors import LmError
from protocol.errors import ConfigurationError, RewardDSError
from simulations.beforehand import require_beforehand, require_no_selection, settings_of
from simulations.command_line import hold_failure, one_line, point_latest_at
from simulations.sweeps.points import (
    SweepFailedError,
    begin_sweep,
    read_sweep,
    require_all_done,
)

_COUNTING_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_MANY = 12
"""Points of which the check may take longer than somebody waits in silence."""


class SweepCallback(Callback):
    """Keeps a sweep's folder; its name stands in `conf/simulate.yaml`."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # Hydra's own signature
        """Note what is asked for, before any point begins."""
        folder = Path(config.hydra.sweep.dir)
        # What the command said, but for where to keep it: `resume` names that itself.
        words = [*_words(config, "hydra"), *_words(config, "task")]
        overrides = [
            word for word in words if not word.startswith(("hydra.sweep.dir=", "hydra.mode="))
        ]
        try:
            points = _points(config)
            _check_points(config, points or [], is_new=read_sweep(folder) is None)
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


def _words(config: DictConfig, kind: str) -> list[str]:
    """Return words of the command as they were typed: what one refers to is each point's own."""
    words = OmegaConf.to_container(config.hydra.overrides[kind], resolve=False)
    assert isinstance(words, list)
    return words


def _points(config: DictConfig) -> list[list[str]] | None:
    """Return each point's overrides; None where the sweeper does not say beforehand."""
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    assert isinstance(sweeper, dict)
    if sweeper.get("_target_") != _COUNTING_SWEEPER:
        return None
    words = [f"{name}={value}" for name, value in (sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*words, *_words(config, "task")])
    points: list[list[str]] = BasicSweeper.split_arguments(overrides, None)[0]
    return points


def _check_points(config: DictConfig, points: list[list[str]], *, is_new: bool) -> None:
    """Compose each point as its launcher will, and check it; Hydra does so with a folder made.

    What a sweep was begun with may have been taken then, so one that goes on is only composed: a
    point that is refused says so itself, and takes nothing else down.
    """
    if is_new and len(points) > _MANY:
        print(f"Checking {len(points)} points before the first begins.", flush=True)
    seen: set[str] = set()
    checked: set[tuple[str, ...]] = set()
    for number, overrides in enumerate(points):
        # A seed goes with whatever another seed goes with, and composing takes time.
        seedless = tuple(word for word in overrides if not word.startswith("seed="))
        if seen.issuperset(overrides) and (seedless in checked or not is_new):
            continue
        seen.update(overrides)
        checked.add(seedless)
        try:
            loader = GlobalHydra.instance().config_loader()
            composed = loader.load_sweep_config(config, overrides)
            if is_new:
                _check(composed, number=number)
        except (RewardDSError, LmError, HydraException, OmegaConfBaseException) as error:
            raise ConfigurationError(
                f"In point {number + 1} of {len(points)} ({' '.join(overrides)}): {one_line(error)}"
            ) from error


def _check(composed: DictConfig, *, number: int) -> None:
    """Check a point's settings, which may ask for what its launcher would say of it."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
        composed.hydra.runtime.output_dir = str(
            Path(composed.hydra.sweep.dir, composed.hydra.sweep.subdir).resolve()
        )
    hydra_config.set_config(composed)
    try:
        values = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        point = settings_of(values)
        require_no_selection(point)
        require_beforehand(point)
    finally:
        hydra_config.cfg = before
