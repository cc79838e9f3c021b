"""Of which runs a comparison is, and under which names, as its command says.

A folder is that of a run or of a sweep; LABEL=FOLDER makes LABEL the arm of all runs in it, so that
runs which differ in something else than their arm can be compared as well.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lm.settings import load_settings
from protocol.errors import ConfigurationError, StageError
from server_side.evaluation import ArmScores
from server_side.json_values import from_json
from server_side.measuring.comparing import UNTUNED, ArmRun
from server_side.measuring.metrics import read_metrics
from simulations.compare_checks import RunOrigin
from simulations.config import ARM_NAME, SimulateConfig
from simulations.run_folder import SELECTED_FOLDER, SETTINGS_FILE
from simulations.sweeps.points import read_point

_METRICS_FILE: Final = "metrics.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedFolder:
    """A folder of a run or of a sweep, as it was named."""

    folder: Path
    """The folder."""
    label: str | None = None
    """Arm of all its runs; None leaves them their own."""


def named_folder(text: str) -> NamedFolder:
    """Read one word of the command, FOLDER or LABEL=FOLDER.

    Args:
        text: The word. What exists under the whole of it is a folder, whatever stands in its name.

    Returns:
        The folder, which need not be there, and its label if it has one.

    Raises:
        ArgumentTypeError: The label cannot name an arm, or no folder follows it.

    >>> named_folder("sft=runs/a")
    NamedFolder(folder=PosixPath('runs/a'), label='sft')
    """
    label, sign, folder = text.partition("=")
    if not sign or "/" in label or Path(text).exists():
        return NamedFolder(folder=Path(text))
    if not _is_label(label) or not folder:
        raise argparse.ArgumentTypeError(
            "expected FOLDER or LABEL=FOLDER, with a label of 1 to 40 small letters, digits and _ "
            f"other than {UNTUNED}, got {text}"
        )
    return NamedFolder(folder=Path(folder), label=label)


def find_runs(named: Sequence[NamedFolder]) -> tuple[dict[Path, str | None], int]:
    """Find the finished runs in some folders.

    Args:
        named: Folders of runs, or folders that hold folders of runs, as a sweep's does.

    Returns:
        By the folder of each finished run its label, and how many of sweeps are not finished.

    Raises:
        ConfigurationError: A folder is neither, or is a run that is not finished; or a run has two
            labels.
    """
    found: dict[Path, str | None] = {}
    num_unfinished = 0
    for item in named:
        runs, num_others = _runs_in(item.folder)
        num_unfinished += num_others
        for run in runs:
            # A run may be named twice, by its sweep and by itself.
            label = found.setdefault(run, item.label)
            if None not in (label, item.label) and label != item.label:
                raise ConfigurationError(
                    f"Expected one label for each run, found {label} and {item.label} for "
                    f"{_shown(run)}. Name it once."
                )
            found[run] = label or item.label
    return found, num_unfinished


def read_run(folder: Path, *, label: str | None = None) -> ArmRun:
    """Read what a finished run adds to a comparison.

    Args:
        folder: The run's folder.
        label: Its arm; None takes what its settings say.

    Returns:
        Its arm, its seed and the scores of its rows.

    Raises:
        StageError: Its scores cannot be read.
        SettingsError: Its settings cannot be read.
    """
    config = load_settings(SimulateConfig, folder / SETTINGS_FILE)
    metrics = read_metrics(folder / _METRICS_FILE)
    return ArmRun(
        arm=label or config.arm,
        seed=config.seed,
        tuned_on=config.tuned_on.value,
        untuned=_read_scores(folder / "server" / "13_untuned.jsonl"),
        tuned=_read_scores(folder / "server" / "13_tuned.jsonl"),
        num_samples_seen=metrics.get("tuning", {}).get("num_samples_seen"),
    )


def require_one_each(origins: Sequence[RunOrigin]) -> None:
    """Refuse two runs of one arm and seed, and say how labels tell them apart.

    Args:
        origins: All runs that are to be compared.

    Raises:
        StageError: It names two; where all differ in one setting, also the command that goes on.
    """
    first: dict[tuple[str, int], RunOrigin] = {}
    for origin in origins:
        other = first.setdefault((origin.arm, origin.seed), origin)
        if other is not origin:
            raise StageError(
                f"Expected one run for each arm and seed, found two of arm={origin.arm} with "
                f"seed={origin.seed}: {_shown(other.folder)} and {_shown(origin.folder)}. Name one "
                "of them, or say LABEL=FOLDER, which makes LABEL the arm of all runs in FOLDER."
                f"{_way_out([origin.folder for origin in origins])}"
            )


def _runs_in(folder: Path) -> tuple[list[Path], int]:
    """Return the finished runs in a folder, and how many are not."""
    if (folder / SETTINGS_FILE).is_file():
        if (folder / SELECTED_FOLDER / _METRICS_FILE).is_file():
            folder /= SELECTED_FOLDER  # the one run that a private selection shows
        if not (folder / _METRICS_FILE).is_file():
            raise ConfigurationError(
                f"Expected a finished run in {folder}, found no {_METRICS_FILE}. Go on with "
                f"rewardds-simulate resume={folder}."
            )
        return [folder.resolve()], 0
    inside = sorted(file.parent for file in folder.glob(f"*/{SETTINGS_FILE}"))
    if not inside:
        raise ConfigurationError(
            f"Expected the folder of a run or of a sweep, found no {SETTINGS_FILE} in {folder} "
            "or one folder below. Name another."
        )
    finished = [run.resolve() for run in inside if (run / _METRICS_FILE).is_file()]
    return finished, len(inside) - len(finished)


def _read_scores(path: Path) -> ArmScores:
    try:
        return from_json(ArmScores, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise StageError(
            f"Expected the scores of one arm in {path}, found none that can be read "
            f"({type(error).__name__}). Run it again with this version."
        ) from None


def _way_out(folders: Sequence[Path]) -> str:
    """Say which command compares points that differ in one setting; nothing where they do not."""
    points = {folder: read_point(folder) for folder in folders}
    choices = {
        folder: dict(word.split("=", 1) for word in point.overrides if "=" in word)
        for folder, point in points.items()
        if point is not None
    }
    names = {name for own in choices.values() for name in own} - {"seed"}
    varying = [name for name in names if len({own.get(name) for own in choices.values()}) > 1]
    if len(choices) < len(folders) or len(varying) != 1:
        return ""
    (name,) = varying
    labels = _labels(name, {folder: own.get(name, "") for folder, own in choices.items()})
    if labels is None:
        return ""
    words = [f"{label}={_shown(folder)}" for folder, label in labels.items()]
    command = ["rewardds-compare", *words, "--reference", next(iter(labels.values()))]
    return f" These differ in {name}: {shlex.join(command)}"


def _labels(name: str, values: Mapping[Path, str]) -> dict[Path, str] | None:
    """Make a label of each value of a setting; None where that names none, or two alike."""
    labels = {}
    for folder, value in values.items():
        label = re.sub(r"[^a-z0-9]+", "_", value.lower()).strip("_")
        is_word = label[:1].isalpha()
        labels[folder] = label if is_word else f"{re.split(r'[./]', name)[-1]}_{label}"
    are_distinct = len(set(labels.values())) == len(set(values.values()))
    return labels if are_distinct and all(map(_is_label, labels.values())) else None


def _is_label(text: str) -> bool:
    return ARM_NAME.fullmatch(text) is not None and text != UNTUNED


def _shown(folder: Path) -> Path:
    """Return a folder as it is called from here."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
