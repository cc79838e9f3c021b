"""One server's settings, every stage's among them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from lm.model_folders import shown_model_name
from server_side.config.admission import AdmissionConfig
from server_side.config.checks import (
    require,
    require_counts,
    require_vllm_url,
)
from server_side.config.evaluation import EvaluationConfig
from server_side.config.filtering import ChooseBy, FilteringConfig
from server_side.config.finetuning import FinetuningConfig, Method, Objective
from server_side.config.ranking import RankingConfig
from server_side.config.refinement import FeedbackWriter, RefinementConfig
from server_side.config.scoring import ScoringConfig
from server_side.config.synthesis import SynthesisConfig
from server_side.config.warm_start import WarmStartConfig


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """One server: its models and its own settings for every stage."""

    base_model: str = "smollm2-135m"
    """Base of both proxies, the same as the clients': a folder, a hub name, `smollm2-135m`."""
    target_model: str = "smollm2-135m"
    """Model to be tuned: a folder, a hub name, or `smollm2-135m`."""
    num_threads: int | None = None
    """CPU threads for sampling, scoring and tuning; None leaves it to the libraries."""
    base_model_vllm_url: str | None = None
    """Address of a vLLM server that holds the base model, for stages with `engine: vllm`."""
    target_model_vllm_url: str | None = None
    """Address of a vLLM server that holds the target model, for stages with `engine: vllm`."""
    seed: int = 0
    """Seed of everything that the server draws; it protects nothing."""
    min_clients: int = 1
    """Clients of which both releases must be admitted before the server goes on."""
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    """Which releases may be used."""
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    """Public text that the proxies' starting weights are tuned on."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """Prompts and responses."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    """Rewards and perplexities."""
    filtering: FilteringConfig = field(default_factory=FilteringConfig)
    """What is kept."""
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    """Rounds of rewriting."""
    finetuning: FinetuningConfig = field(default_factory=FinetuningConfig)
    """Tuning of the target."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Judgement of the target."""
    ranking: RankingConfig = field(default_factory=RankingConfig)
    """Judgement of the scores by which responses are chosen."""

    def __post_init__(self) -> None:
        for name in ("base_model", "target_model"):
            require(bool(getattr(self, name)), f"server_side.{name}", "a model", "nothing")
        if self.num_threads is not None:
            require_counts("server_side", self, "num_threads")
            require(
                self.num_threads <= 4096,
                "server_side.num_threads",
                "a whole number from 1 to 4096",
                self.num_threads,
            )
        require_counts("server_side", self, "min_clients")
        refines = self.refinement.engine == "vllm" and self.refinement.num_rounds > 1
        advises = refines and self.refinement.feedback_writer == FeedbackWriter.GENERATOR
        asks_base = self.synthesis.engine == "vllm" or advises
        asks_target = self.evaluation.engine == "vllm" or refines
        require_vllm_url("base_model_vllm_url", self.base_model_vllm_url, is_needed=asks_base)
        require_vllm_url("target_model_vllm_url", self.target_model_vllm_url, is_needed=asks_target)
        is_whole_model = self.finetuning.method == Method.FULL
        require(
            not (is_whole_model and asks_target),
            "server_side.finetuning.method",
            "lora or qlora, because a vLLM server takes adapters only while it runs",
            self.finetuning.method,
        )
        num_rounds, num_steps = self.refinement.num_rounds, self.finetuning.num_steps
        require(
            num_steps is None or num_steps >= num_rounds,
            "server_side.finetuning.num_steps",
            f"at least one in each of refinement.num_rounds={num_rounds} rounds",
            num_steps,
        )
        prefers = self.finetuning.objective != Objective.SFT
        require(
            not (prefers and self.filtering.choose_by == ChooseBy.FIRST),
            "server_side.finetuning.objective",
            "sft, because filtering.choose_by=first prefers no response to another",
            self.finetuning.objective,
        )
        require(0 <= self.seed < 2**63, "server_side.seed", "0 <= seed < 2**63", self.seed)

    @property
    def model_names(self) -> tuple[str, ...]:
        """All models that the job loads on this machine; a judge behind an address is not one."""
        judge = self.evaluation.judge
        of_judge = (judge.model,) if judge.kind == "local" else ()
        return (self.base_model, self.target_model, *of_judge)

    @property
    def shown_models(self) -> dict[str, str]:
        """Names of base model and target for the job's readers, who have no use for its paths."""
        names = {"base_model": self.base_model, "target_model": self.target_model}
        return {role: shown_model_name(name) for role, name in names.items()}

    @property
    def fingerprint(self) -> dict[str, object]:
        """All settings that decide an outcome, as JSON values (`server_side/shared_stages.py`)."""
        settings = dataclasses.asdict(self)
        # A resumed job may have another number of cores, and its folders may have moved, as may
        # the servers that it asks.
        for name in (
            "num_threads",
            "base_model",
            "target_model",
            "base_model_vllm_url",
            "target_model_vllm_url",
        ):
            del settings[name]
        del settings["evaluation"]["path"]
        # What it said lives in the releases, which are stated by their digests.
        del settings["warm_start"]["path"]
        del settings["synthesis"]["public_prompts_path"]
        # Whoever judges does so last, and each verdict says whose it is
        # (`server_side/measuring/judges.py`).
        del settings["evaluation"]["judge"]
        return settings
