"""One test for both arms: which public records are asked, and how the target answers them.

How answers are judged stands in `server_side/evaluation.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lm.sampling import Sampler, SamplingEngine, open_sampler
from lm.tables import TextRow, drop_overlapping
from server_side.config import JudgeConfig, ServerConfig
from server_side.evaluation import ArmScores, evaluate_target
from server_side.inputs import JobInputs
from server_side.samples import OnProgress, Query, StageResult
from server_side.seeds import derive_seed
from server_side.target_sampling import sampled_target
from server_side.tuning.tuned_target import tuned_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """One test for both arms: who sits it, what is asked, and how it is judged."""

    inputs: JobInputs
    """The untuned target, and where its forms are kept."""
    rows: tuple[TextRow, ...]
    """The public test records that are asked."""
    num_overlapping: int
    """Test records left out, because a synthetic prompt repeats theirs."""
    config: ServerConfig
    """The server's settings."""

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """All that decides the scores (`server_side/shared_stages.py`)."""
        # The rows are stated by themselves; the place that they were read from decides nothing,
        # and whoever judges the answers does not write them.
        settings = replace(self.config.evaluation, path=None, judge=JudgeConfig())
        inputs = self.inputs
        return (
            inputs.target_folder,
            inputs.test_instruction,
            self.rows,
            self.num_overlapping,
            settings,
            evaluation_seed(self.config),
        )


def set_test(inputs: JobInputs, queries: Sequence[Query], *, config: ServerConfig) -> Examination:
    """Choose the test records that both arms are asked.

    Args:
        inputs: The untuned target and the test records.
        queries: The synthetic prompts; a test record with one of them is left out.
        config: The server's settings.

    Returns:
        The test, of at least one record.

    Raises:
        TableError: No test record is left.
    """
    rows, num_overlapping = judged_rows(inputs, queries)
    return Examination(inputs=inputs, rows=rows, num_overlapping=num_overlapping, config=config)


def judge_arm(
    test: Examination, adapter: Path | None, *, on_progress: OnProgress
) -> StageResult[ArmScores]:
    """Judge the target, untuned or tuned, on the public test records.

    Args:
        test: The untuned target and what it is asked.
        adapter: Folder of the tuned target; None judges the untuned one.
        on_progress: Told how far it is.

    Returns:
        The scores of the arm.

    Raises:
        StageError: There is nothing to judge by.
    """
    inputs, config = test.inputs, test.config

    def open_engine(tuned: Path | None) -> Sampler:
        name = "evaluation" if tuned is None else f"evaluation-{tuned_digest(tuned)[:16]}"
        folder = inputs.work_folder / name
        return open_sampler(
            sampled_target(inputs, tuned, out_folder=folder / "merged", config=config),
            engine=SamplingEngine(config.evaluation.engine),
            num_threads=config.num_threads,
            # What is converted from the target as it is serves the next run as well.
            cache_folder=tuned and folder / "engines",
        )

    scores = evaluate_target(
        test.rows,
        target_folder=inputs.target_folder,
        adapter=adapter,
        config=config.evaluation,
        instruction=inputs.test_instruction,
        open_sampler=open_engine,
        seed=evaluation_seed(config),
        on_progress=on_progress,
    )
    counts = {"num_rows": len(test.rows), "num_rows_overlapping": test.num_overlapping}
    return StageResult(values=(scores,), counts=counts)


def judged_rows(inputs: JobInputs, queries: Sequence[Query]) -> tuple[tuple[TextRow, ...], int]:
    """Choose the test records that no synthetic prompt repeats.

    Args:
        inputs: The test records.
        queries: The synthetic prompts.

    Returns:
        The records, and how many were left out.

    Raises:
        TableError: No test record is left.
    """
    return drop_overlapping(inputs.test_rows, training_prompts=[query.prompt for query in queries])


def evaluation_seed(config: ServerConfig) -> int:
    """Return the seed of judging, sampling and resampling alike."""
    # One for both arms: they are sampled and resampled alike, so that their difference is paired.
    return derive_seed(config.seed, "13_evaluation")
