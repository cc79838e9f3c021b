"""Schemas for `conf/server_side/`: everything that the server's operator decides.

Each group `conf/server_side/<module>/` fills `<Module>Config`, which stands in the file of that
name here; a stage takes its own config and no other. Values are checked when a dataclass is made,
before any model is loaded.

`lm/settings.py` turns composed values into these dataclasses. Choices are plain text checked
against the enum that names them.
"""

from __future__ import annotations

from server_side.config.admission import AdmissionConfig
from server_side.config.choices import WhenCut
from server_side.config.evaluation import MIN_TEST_ROWS, EvaluationConfig, JudgeConfig
from server_side.config.filtering import ChooseBy, FilteringConfig, SelectBy
from server_side.config.finetuning import FinetuningConfig
from server_side.config.ranking import RankingConfig
from server_side.config.refinement import (
    FeedbackWriter,
    PoolGrowth,
    RefinementConfig,
    ThresholdRule,
)
from server_side.config.sampling import SamplingConfig
from server_side.config.scoring import Ensemble, ScoringConfig
from server_side.config.server import ServerConfig
from server_side.config.synthesis import PublicPromptsUse, SynthesisConfig
from server_side.config.warm_start import WarmStartConfig

__all__ = [
    "MIN_TEST_ROWS",
    "AdmissionConfig",
    "ChooseBy",
    "Ensemble",
    "EvaluationConfig",
    "FeedbackWriter",
    "FilteringConfig",
    "FinetuningConfig",
    "JudgeConfig",
    "PoolGrowth",
    "PublicPromptsUse",
    "RankingConfig",
    "RefinementConfig",
    "SamplingConfig",
    "ScoringConfig",
    "SelectBy",
    "ServerConfig",
    "SynthesisConfig",
    "ThresholdRule",
    "WarmStartConfig",
    "WhenCut",
]
