"""What stands against a run before it has a folder: its settings, and what this machine lacks.

Asked by a run before it begins, and by a sweep for all of its points; no library of training is
imported for it.
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from lm.settings import to_settings
from protocol.errors import ConfigurationError
from server_side.config.finetuning import Objective
from server_side.tuning.packages import require_packages
from simulations.config import SimulateConfig, TunedOn


def settings_of(values: DictConfig) -> SimulateConfig:
    """Turn what Hydra composed for a run into its settings, which check themselves.

    Args:
        values: What was composed, without Hydra's own part.

    Returns:
        The settings.

    Raises:
        SettingsError: A choice is none of those that exist, or a value has the wrong type.
        ConfigurationError: Values are out of range, or do not go together.
    """
    # A launcher hands settings to another process, where the types they were checked by are others.
    plain = OmegaConf.create(OmegaConf.to_container(values, resolve=True, enum_to_str=True))
    assert isinstance(plain, DictConfig)
    return to_settings(SimulateConfig, plain)


def require_beforehand(config: SimulateConfig) -> None:
    """Refuse a run that lacks a package, a client's weight, or what its arm lives on.

    What stands here and not in the settings themselves is asked of a run that begins: one that was
    begun, or is over, under an earlier version is still gone on with, compared and reported.

    Args:
        config: The simulation.

    Raises:
        ConfigurationError: A package that the target's tuning needs is not installed, weights of
            the clients pass over one, an arm on public text has none, or one on private records
            is asked to learn preferences.
    """
    require_packages(config.server_side.finetuning)
    config.server_side.synthesis.check_weights(config.client_names)
    objective = config.server_side.finetuning.objective
    # The arm with DP-SGD takes nothing from finetuning, so its objective says nothing there.
    if config.tuned_on is TunedOn.PRIVATE_RECORDS and objective != Objective.SFT:
        raise ConfigurationError(
            f"Expected server_side.finetuning.objective=sft, because tuned_on="
            f"{config.tuned_on.value} takes records, which give no pairs, got {objective}. Set "
            "objective=sft with a learning_rate for it, and compare with runs of another "
            "objective by `rewardds-compare LABEL=FOLDER`."
        )
    # Without its text such an arm would be the method under another name.
    needed = {
        "public_prompts": (
            "synthesis.public_prompts_path",
            config.server_side.synthesis.public_prompts_path,
        ),
        "public_warm_start": ("warm_start.path", config.server_side.warm_start.path),
    }
    setting, path = needed.get(config.arm, ("", ""))
    if path is None:
        raise ConfigurationError(
            f"Expected server_side.{setting} to name public text, because arm={config.arm}, got "
            "nothing. Name a file, or choose another arm."
        )


def require_no_selection(config: SimulateConfig) -> None:
    """Refuse a point of a sweep that selects privately.

    Args:
        config: The point's settings.

    Raises:
        ConfigurationError: It names candidates.
    """
    if config.selection.candidates:
        raise ConfigurationError(
            "Expected no selection.candidates in a sweep, got some: a sweep shows every point. "
            "Select without -m."
        )
