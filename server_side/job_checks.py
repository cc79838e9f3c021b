"""What would end a job late is found before clients spend budget on its exchange.

Everything here follows from settings, public files and the models' own descriptions; no weight is
loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lm.errors import LmError
from lm.model_folders import resolve_base_model
from lm.tables import TextRow, normalise_prompt
from protocol.artifacts import LoraShape
from protocol.errors import ConfigurationError
from server_side.config import FinetuningConfig, PublicPromptsUse, ServerConfig
from server_side.config.finetuning import Method
from server_side.config.refinement import FeedbackWriter
from server_side.public_prompts import draw_public, usable_examples
from server_side.public_texts import (
    read_public_prompts,
    read_test_rows,
    warn_of_references_beyond_rouge,
)
from server_side.tuning.packages import require_packages


def check_job(config: ServerConfig) -> None:
    """Refuse a job that could not come to its end.

    Args:
        config: The server's settings.

    Raises:
        TableError: Test records or public prompts cannot be used.
        StageError: There are too few public prompts to show, or none to answer is usable.
        ConfigurationError: A package is missing, or a setting does not fit a model.
        ModelFolderError: A model cannot be loaded.
    """
    check_texts(config, test_rows=read_test_rows(config.evaluation))
    require_packages(config.finetuning)
    check_models(config)


def check_texts(config: ServerConfig, *, test_rows: Sequence[TextRow]) -> None:
    """See whether the test can be judged, and enough public prompts used for what they are for.

    Args:
        config: The server's settings.
        test_rows: All test records; prompts of those that are judged are neither shown nor
            answered.

    Raises:
        TableError: The prompts cannot be read.
        StageError: There are too few to show, or none to answer.
    """
    judged, ranked = (test_rows[: own.max_rows] for own in (config.evaluation, config.ranking))
    warn_of_references_beyond_rouge(judged)
    synthesis = config.synthesis
    prompts = read_public_prompts(synthesis)
    tested = frozenset(normalise_prompt(row.prompt) for row in max(judged, ranked, key=len))
    if PublicPromptsUse(synthesis.public_prompts_use) is PublicPromptsUse.FEW_SHOT:
        usable_examples(prompts, synthesis, seen=set(), tested=tested, counts=Counter())
    else:
        # Which ones are drawn is for the job to say; how many there are hangs on no seed.
        draw_public(prompts, synthesis, seed=0, seen=set(), tested=tested, counts=Counter())


def check_models(config: ServerConfig) -> None:
    """Hold the settings of a job against the models that it names.

    Args:
        config: The server's settings.

    Raises:
        ConfigurationError: A setting does not fit a model.
        ModelFolderError: A model cannot be found or loaded.
    """
    from transformers import AutoConfig  # these take seconds to import

    from lm.context import max_positions
    from lm.loading import check_loadable

    folders = {name: resolve_base_model(name) for name in config.model_names}
    layers = {folder: check_loadable(folder) for folder in dict.fromkeys(folders.values())}
    target = folders[config.target_model]
    _check_adapter(config.finetuning, layers=layers[target], target=target)
    for model, name, num_tokens in _lengths(config):
        limit = max_positions(AutoConfig.from_pretrained(folders[model], trust_remote_code=False))
        if num_tokens > limit:
            raise ConfigurationError(
                f"Expected texts of at most {limit} tokens, which is what {folders[model]} holds, "
                f"found that {name} allow {num_tokens}. Lower them, or take another model."
            )


def _check_adapter(config: FinetuningConfig, *, layers: frozenset[str], target: Path) -> None:
    if Method(config.method) is Method.FULL:
        return
    if missing := sorted(set(config.target_modules) - layers):
        raise ConfigurationError(
            f"Expected server_side.finetuning.target_modules to name layers of {target}, got "
            f"{', '.join(missing)}. It has {', '.join(sorted(layers))}."
        )
    try:
        LoraShape(
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            target_modules=tuple(config.target_modules),
            num_upper_layers=config.num_upper_layers,
            use_rslora=config.use_rslora,
        )
    except (ConfigurationError, LmError) as error:
        raise ConfigurationError(f"In server_side.finetuning: {error}") from None


def _lengths(config: ServerConfig) -> Iterator[tuple[str, str, int]]:
    """Give model, settings, and how long the longest text is that they allow."""
    synthesis, refinement, evaluation = config.synthesis, config.refinement, config.evaluation
    asked = synthesis.prompt_sampling.max_new_tokens
    answered = synthesis.response_sampling.max_new_tokens
    base, target = config.base_model, config.target_model
    both = "synthesis.prompt_sampling and response_sampling"
    yield base, f"max_new_tokens of {both}", asked + answered
    if refinement.num_rounds > 1:
        writer = FeedbackWriter(refinement.feedback_writer)
        advised = refinement.feedback_sampling.max_new_tokens
        rewritten = refinement.rewrite_sampling.max_new_tokens
        if writer is FeedbackWriter.NONE:
            advised = 0
        else:
            name = f"max_new_tokens of {both} and refinement.feedback_sampling"
            model = target if writer is FeedbackWriter.TARGET else base
            yield model, name, asked + 2 * answered + advised
        name = f"max_new_tokens of {both} and refinement's samplings"
        yield target, name, asked + answered + advised + rewritten
    name = "evaluation.max_prompt_tokens and max_new_tokens"
    yield target, name, evaluation.max_prompt_tokens + evaluation.max_new_tokens
