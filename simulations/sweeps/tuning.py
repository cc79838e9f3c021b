"""Tune settings on public stand-in data with Optuna, so that real records are trained on once.

    python -m simulations.sweeps.tuning --trials 8 experiment=smoke

Every trial is an ordinary run of `rewardds-simulate` with settings of Optuna's choice, in a folder
of its own; the study is kept in a file, so that the same command goes on where it stopped. Trials
of one seed share what does not depend on the choice. What is minimised is the tuned target's
perplexity on public test records.

Hydra's own plugin for Optuna wants an Optuna below 3, which does not install beside this project;
Optuna itself needs no plugin.

Privacy: the shipped records are fictional. On real records every trial is a release of its own, and
the best of them costs what `rewardds-report` says; use `sweep=private_selection` there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lm.settings import to_settings
from protocol.errors import ConfigurationError, RewardDSError
from server_side.measuring.metrics import read_metrics
from simulations.command_line import CONF, quoted
from simulations.config import SimulateConfig

if TYPE_CHECKING:
    import optuna

STUDY_FILE: Final = "study.log"
"""Journal of the study, in its folder."""

# Whatever holds or names the path of records.
_PRIVATE: Final = (
    "client_side", "client_side.records", "client_side.records.path", "client_side/records",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes those of this process.
    """
    options = _parser().parse_args(arguments)
    try:
        _tune(options)
    except RewardDSError as error:
        sys.exit(f"Error: {error}")


def suggest(trial: optuna.trial.BaseTrial) -> list[str]:
    """Let Optuna choose settings.

    Args:
        trial: One trial.

    Returns:
        Words for `rewardds-simulate`.
    """
    choices = {
        "client_side.generator.learning_rate": trial.suggest_float("rate", 1e-3, 1e-1, log=True),
        "client_side.generator.max_grad_norm": trial.suggest_float("clip", 0.02, 1.0, log=True),
        "server_side.filtering.alpha": trial.suggest_float("alpha", 0.0, 1.0),
    }
    return [f"{name}={value:.4g}" for name, value in choices.items()]


def _require_public_records(words: Sequence[str]) -> None:
    # Privacy: `+` and `++` before a name set it as well.
    named = [word for word in words if word.partition("=")[0].lstrip("+") in _PRIVATE]
    # Privacy: an experiment may name records too, and so may `domains`.
    if not named and _composed(words).has_own_records:
        named = list(words)
    if named:
        raise ConfigurationError(
            f"Expected public stand-in records, got {' '.join(named)}. Every trial trains on them "
            "and is a release of its own; say --records-are-public if nobody's secret is in them."
        )


def _composed(words: Sequence[str]) -> SimulateConfig:
    import simulations.run  # noqa: F401 - registers the schemas

    try:
        with initialize_config_dir(str(CONF), version_base=None):
            return to_settings(SimulateConfig, compose("simulate", overrides=list(words)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(
            f"Expected settings of rewardds-simulate, got {' '.join(words)}: {error}"
        ) from None


def _tune(options: argparse.Namespace) -> None:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise ConfigurationError(
            "Expected Optuna to be installed, found it missing. Install the project with its "
            "extra: pip install -e '.[sweeping]'."
        ) from None
    if not options.records_are_public:
        _require_public_records(options.settings)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)

    def run(trial: optuna.Trial) -> float:
        run_folder = folder / str(trial.number)
        words = [
            *options.settings,
            *suggest(trial),
            f"run_folder={quoted(str(run_folder))}",
            f"shared_folder={quoted(str(folder / 'shared'))}",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "simulations.run", *words],
            check=False,
            stdout=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise optuna.TrialPruned("The run failed; its own error is above.")
        return float(read_metrics(run_folder / "metrics.json")["tuned"]["perplexity"]["mean"])

    study = optuna.create_study(
        study_name="rewardds",
        storage=JournalStorage(JournalFileBackend(str(folder / STUDY_FILE))),
        load_if_exists=True,
    )
    begun_with = study.user_attrs.get("settings", options.settings)
    if begun_with != options.settings:
        raise ConfigurationError(
            f"Expected the settings that the study in {folder} was begun with, "
            f"{' '.join(begun_with) or 'none'}, got {' '.join(options.settings) or 'none'}: scores "
            "under unlike settings say nothing of one another. Name another --folder."
        )
    study.set_user_attr("settings", options.settings)
    # A sampler begins anew with each process; under the same seed it would repeat its first trials.
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials))
    # A trial that failed is made up for: what was wrong may have been mended.
    done = [trial for trial in study.trials if trial.value is not None]
    study.optimize(run, n_trials=max(0, options.trials - len(done)))
    if not any(trial.value is not None for trial in study.trials):
        raise ConfigurationError(
            f"Expected a trial in {folder} that ran to its end, found none. See the errors above."
        )
    best = study.best_trial
    done = [trial for trial in study.trials if trial.value is not None]
    print(f"Best of {len(done)} trials: perplexity {best.value:.3f}")
    print(f"Run:      {folder / str(best.number)}")
    print(f"Settings: {' '.join(suggest(optuna.trial.FixedTrial(best.params)))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulations.sweeps.tuning",
        description="Tune settings on public stand-in data with Optuna.",
    )
    parser.add_argument("--trials", type=int, default=8, help="trials in all (8)")
    parser.add_argument("--seed", type=int, default=1, help="seed of Optuna's choices (1)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/tuning"), help="where trials are kept"
    )
    parser.add_argument(
        "--records-are-public",
        action="store_true",
        help="allow records other than the shipped ones",
    )
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="settings of every trial")
    return parser


if __name__ == "__main__":
    main()
