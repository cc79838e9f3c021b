"""The points of a sweep as the report needs them: settings that vary, scores, ledgers, costs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lm.settings import load_settings
from protocol.errors import ConfigurationError
from protocol.ledger import DpSgdEvent, ProxyKind
from server_side.measuring.metrics import read_metrics
from server_side.provenance import read_provenance
from server_side.whole_files import read_json
from simulations.config import SimulateConfig, TunedOn
from simulations.run_folder import SETTINGS_FILE
from simulations.sweeps.points import (
    Point,
    PointStatus,
    Sweep,
    is_at_work,
    point_folders,
    read_point,
    read_sweep,
)

EPSILON: Final = "ε"
"""Name of the axis on which budgets lie."""

_AUDIT_FILE: Final = "audit.json"
_SEED: Final = "seed"
_BUDGETS: Final = ("client_side/budget", "client_side.budget.target_epsilon")
# Words that say where and by whom a point is made. All others count where they vary.
_NO_CHOICE: Final = ("hydra.", "hydra/", "run_folder=", "shared_folder=")


@dataclass(frozen=True, kw_only=True, slots=True)
class PointResult:
    """One point, and what came of it where it is done."""

    name: str
    """Its folder in the sweep's."""
    point: Point
    """Overrides, status, error and time."""
    choices: Mapping[str, str]
    """Settings that vary over the sweep, the budget as `ε`; without the seed."""
    config: SimulateConfig | None
    """All its settings; None where they were never valid."""
    metrics: Mapping[str, Any] | None
    """Its `metrics.json`; None where it is not done."""
    provenance: Mapping[str, Any]
    """What is known of how it was run."""
    is_at_work: bool = False
    """Whether a process works on it at this moment."""

    @property
    def is_failed(self) -> bool:
        """Whether it failed or was cut off."""
        return self.metrics is None and not self.is_at_work

    @property
    def may_have_paid(self) -> bool:
        """Whether it began, and left no ledger that says what of the records it spent."""
        return not self.ledgers and self.config is not None

    @property
    def target_epsilon(self) -> float:
        """ε that each client was asked to keep to; infinite without noise, nan where unknown."""
        return math.nan if self.config is None else _target_epsilon(self.config)

    @property
    def seed(self) -> int | None:
        """Seed of records, split and server."""
        return None if self.config is None else self.config.seed

    @property
    def arm(self) -> str:
        """What the run stands for where runs are compared."""
        return "" if self.config is None else self.config.arm

    @property
    def ledgers(self) -> Mapping[str, Any]:
        """Each client's ledger, as JSON values."""
        ledgers: Mapping[str, Any] = self.provenance.get("ledgers", {})
        return ledgers

    @property
    def releases(self) -> str:
        """What names its exchange: points with the same name share their releases."""
        digests = self.provenance.get("digests", {}).get("releases", {})
        # An arm that releases nothing reads the records for itself, and shares that with nobody.
        return json.dumps(digests, sort_keys=True) if digests else f"point {self.name}"

    @property
    def envelope(self) -> tuple[DpSgdEvent, ...]:
        """Events that cost at least what any one client's do.

        A record lies with one client of a run, and nobody says which one in the next run; so each
        event takes the highest rate, the least noise and the most steps of all clients.
        """
        events = [ledger["events"] for ledger in self.ledgers.values()]
        if not events:
            return ()
        longest = max(map(len, events))
        together = [[listed[i] for listed in events if i < len(listed)] for i in range(longest)]
        return tuple(
            DpSgdEvent(
                proxy=ProxyKind(same[0]["proxy"]),
                noise_multiplier=min(event["noise_multiplier"] for event in same),
                sample_rate=max(event["sample_rate"] for event in same),
                steps=max(event["steps"] for event in same),
            )
            for same in together
        )

    def score(self, metric: str, *, arm: str = "tuned") -> float | None:
        """Return a metric of one arm; None where the point is not done.

        Args:
            metric: Its name in `metrics.json`, one of `Metric`.
            arm: `tuned`, or `untuned` for the target as it is.

        Returns:
            The metric over all test rows, without its interval.
        """
        if self.metrics is None:
            return None
        return float(self.metrics[arm][metric]["mean"])


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResults:
    """A sweep as it stands."""

    folder: Path
    """Where it is kept."""
    sweep: Sweep
    """What was asked for."""
    points: tuple[PointResult, ...]
    """Every point that was begun, in order."""
    axis: str
    """The setting that plots are drawn against: `ε`, or one that was swept."""
    audits: tuple[Mapping[str, Any], ...]
    """What `rewardds-audit` found beside it, as JSON values."""
    unfinished_audits: tuple[str, ...] = ()
    """Names of audits beside it without a result."""

    @property
    def done(self) -> tuple[PointResult, ...]:
        """The points with results."""
        return tuple(item for item in self.points if item.metrics is not None)

    @property
    def num_points(self) -> int:
        """How many points there are to be, those included that nobody has begun."""
        return max(self.sweep.num_points or 0, len(self.points))

    @property
    def ticks(self) -> list[str]:
        """Values on the axis, in order; infinity last."""
        return sorted({item.choices.get(self.axis, "all") for item in self.done}, key=sort_key)

    @property
    def series(self) -> dict[str, list[PointResult]]:
        """Points by what they have in common but for the axis and the seed."""
        found: dict[str, list[PointResult]] = {}
        for item in self.done:
            rest = [value_label(n, v) for n, v in item.choices.items() if n != self.axis]
            found.setdefault(", ".join(rest) or item.arm, []).append(item)
        return dict(sorted(found.items(), key=lambda pair: sort_key(pair[0])))


def read_results(folder: Path, *, audits: Sequence[Path] = ()) -> SweepResults:
    """Read a sweep.

    Args:
        folder: The sweep's folder.
        audits: Folders of audits to be shown beside it; those in its `audits/` always are.

    Returns:
        The sweep as it stands, points that failed or are at work included.

    Raises:
        ConfigurationError: It is no sweep's folder, or none of its points is done.
    """
    sweep = read_sweep(folder)
    if sweep is None:
        raise ConfigurationError(
            f"Expected the folder of a sweep, found no sweep.json in {folder}. Name one that "
            "`rewardds-simulate -m` made."
        )
    found = [(item, read_point(item)) for item in point_folders(folder)]
    points = [(item, point) for item, point in found if point is not None]
    configs = {item: _config(item) for item, _ in points}
    varying = _varying({item: (point, configs[item]) for item, point in points})
    results = tuple(
        PointResult(
            name=item.name,
            point=point,
            choices=varying[item],
            config=configs[item],
            metrics=read_metrics(item / "metrics.json")
            if point.status is PointStatus.DONE
            else None,
            provenance=read_provenance(item),
            is_at_work=point.status is PointStatus.RUNNING and is_at_work(item),
        )
        for item, point in points
    )
    if not any(item.metrics for item in results):
        raise ConfigurationError(
            f"Expected a point of {folder} that is done, found none of {len(results)}. See each "
            "point.json for why, and go on with rewardds-simulate resume=" + str(folder) + "."
        )
    beside = [item for item in sorted((folder / "audits").glob("[!.]*")) if item.is_dir()]
    whole = [item for item in beside if (item / _AUDIT_FILE).is_file()]
    return SweepResults(
        folder=folder,
        sweep=sweep,
        points=results,
        axis=_axis(results),
        audits=_read_audits([*whole, *audits]),
        unfinished_audits=tuple(item.name for item in beside if item not in whole),
    )


def sort_key(label: str) -> tuple[int, float, str]:
    """Order labels: numbers by size, then infinity, then words."""
    match = re.search(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", label)
    if label == "∞":
        return 1, 0.0, label
    return (0, float(match[0]), label) if match else (2, 0.0, label)


def value_label(name: str, value: str) -> str:
    """Write one choice; an arm speaks for itself.

    Args:
        name: Setting or group as it was overridden.
        value: What was chosen.

    Returns:
        The value alone for an arm; else with the last part of the name before it.

    >>> value_label("arm", "dp_generate"), value_label("server_side.filtering.k", "8")
    ('dp_generate', 'k=8')
    """
    return value if name in ("arm", "+arm") else f"{re.split(r'[./]', name)[-1]}={value}"


def _target_epsilon(config: SimulateConfig) -> float:
    budget = config.client_side.budget
    is_private = config.tuned_on is not TunedOn.PRIVATE_RECORDS and not budget.unsafe_non_private
    return budget.target_epsilon if is_private else math.inf


def _config(folder: Path) -> SimulateConfig | None:
    file = folder / SETTINGS_FILE
    return load_settings(SimulateConfig, file) if file.is_file() else None


def _varying(
    points: Mapping[Path, tuple[Point, SimulateConfig | None]],
) -> dict[Path, dict[str, str]]:
    choices: dict[Path, dict[str, str]] = {}
    for folder, (point, config) in points.items():
        words = [word.partition("=") for word in point.overrides]
        own = {
            name: value
            for name, _, value in words
            if name not in (_SEED, *_BUDGETS) and not f"{name}=".startswith(_NO_CHOICE)
        }
        # However a budget was chosen, it lies on one axis.
        if config is not None:
            target = _target_epsilon(config)
            own[EPSILON] = f"{target:g}" if math.isfinite(target) else "∞"
        choices[folder] = own
    values: dict[str, set[str | None]] = {}
    for name in {name for own in choices.values() for name in own}:
        values[name] = {own.get(name) for own in choices.values()}
    return {
        folder: {name: value for name, value in own.items() if len(values[name] - {None}) > 1}
        for folder, own in choices.items()
    }


def _axis(points: Sequence[PointResult]) -> str:
    varying = sorted({name for item in points for name in item.choices})
    for name in (EPSILON, *(name for name in varying if name.lstrip("+") != "arm"), *varying):
        if name in varying:
            return name
    return EPSILON


def _read_audits(folders: Sequence[Path]) -> tuple[Mapping[str, Any], ...]:
    found = []
    for folder in folders:
        file = folder / _AUDIT_FILE
        if not file.is_file():
            raise ConfigurationError(
                f"Expected the folder of a finished audit, found no {_AUDIT_FILE} in {folder}. "
                "Name one that `rewardds-audit` made to its end."
            )
        values: dict[str, Any] = read_json(file)
        found.append({"name": folder.name, **values})
    return tuple(found)
