"""The end of the job: both arms judged alike, and what a user takes away put in its place."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from lm.sampling import SampledModel, Sampler, SamplingEngine, open_sampler
from lm.tables import TextRow, drop_overlapping
from server_side.config import EvaluationConfig, ServerConfig
from server_side.dataset_export import export_dataset, guarantees
from server_side.evaluation import ArmScores, compare_arms, evaluate_target
from server_side.inputs import JobInputs
from server_side.metrics import build_metrics, write_metrics
from server_side.proxies import ModelWriter
from server_side.report import ReportInputs, write_report
from server_side.run_store import RunStore, StageRecord, clear_disk_errors, copy_folder
from server_side.samples import (
    CuratedSample,
    Feedback,
    OnProgress,
    Query,
    ScoredCandidate,
    StageResult,
)
from server_side.seeds import derive_seed
from server_side.target_adapter import merge_target

EXCHANGE_STAGE = "06_exchange"
"""Under what name the cost of the exchange stands beside the job's stages."""
_REPORTED_LIBRARIES = ("torch", "transformers", "peft", "trl", "flwr", "dp-accounting")


def target_writer(
    inputs: JobInputs, adapter: Path, *, round_index: int, config: ServerConfig
) -> ModelWriter:
    """Return the target as a round left it, to write with; it is merged when first needed.

    Args:
        inputs: The untuned target and the work folder.
        adapter: The round's adapter, a PEFT folder.
        round_index: The round.
        config: Number of threads.
    """
    folder = inputs.work_folder / f"target_r{round_index}"
    # A merged target is as large as the target; no stage asks for that of an earlier round.
    shutil.rmtree(inputs.work_folder / f"target_r{round_index - 1}", ignore_errors=True)
    return ModelWriter(
        _target_model(inputs, adapter, out_folder=folder / "merged", config=config),
        num_threads=config.num_threads,
        engine_cache=folder / "engines",
        made_of=(inputs.target_folder, adapter),
    )


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
        # The rows are stated by themselves; the place that they were read from decides nothing.
        settings: EvaluationConfig = replace(self.config.evaluation, path=None)
        inputs = self.inputs
        return (
            inputs.target_folder,
            inputs.test_instruction,
            self.rows,
            self.num_overlapping,
            settings,
            _evaluation_seed(self.config),
        )


def set_test(inputs: JobInputs, queries: Sequence[Query], *, config: ServerConfig) -> Examination:
    """Choose the test records that both arms are asked.

    Args:
        inputs: The untuned target and the test records.
        queries: The synthetic prompts; a test record with one of them is left out.
        config: The server's settings.

    Raises:
        TableError: No test record is left.
    """
    rows, num_overlapping = _judged_rows(inputs, queries)
    return Examination(inputs=inputs, rows=rows, num_overlapping=num_overlapping, config=config)


def judge_arm(
    test: Examination, adapter: Path | None, *, on_progress: OnProgress
) -> StageResult[ArmScores]:
    """Judge the target, untuned or tuned, on the public test records.

    Args:
        test: The untuned target and what it is asked.
        adapter: Adapter of the tuned target, a PEFT folder; None judges the untuned one.
        on_progress: Told how far it is.

    Returns:
        The scores of the arm.

    Raises:
        StageError: There is nothing to judge by.
    """
    inputs, config = test.inputs, test.config

    def open_engine(with_adapter: Path | None) -> Sampler:
        merged = inputs.work_folder / "evaluation" / "merged"
        return open_sampler(
            _target_model(inputs, with_adapter, out_folder=merged, config=config),
            engine=SamplingEngine(config.evaluation.engine),
            num_threads=config.num_threads,
            # What is converted from the target as it is serves the next run as well.
            cache_folder=with_adapter and inputs.work_folder / "evaluation" / "engines",
        )

    scores = evaluate_target(
        test.rows,
        target_folder=inputs.target_folder,
        adapter=adapter,
        config=config.evaluation,
        instruction=inputs.test_instruction,
        open_sampler=open_engine,
        seed=_evaluation_seed(config),
        on_progress=on_progress,
    )
    counts = {"num_rows": len(test.rows), "num_rows_overlapping": test.num_overlapping}
    return StageResult(values=(scores,), counts=counts)


def write_outputs(
    store: RunStore,
    inputs: JobInputs,
    adapter: Path,
    *,
    untuned: ArmScores,
    tuned: ArmScores,
    config: ServerConfig,
    exchange: StageRecord | None,
    output_folder: Path,
) -> None:
    """Write metrics, data set, adapter and report from a run whose stages are whole.

    Args:
        store: The run folder.
        inputs: What the job started from.
        adapter: The last round's adapter, a PEFT folder.
        untuned: Scores of the target as it is.
        tuned: Scores of the tuned target.
        config: The server's settings.
        exchange: What it cost to get the releases; None where nobody measured it.
        output_folder: Where a user looks for results; what is there is replaced.

    Raises:
        StageError: The disk is full or refuses.
    """
    rounds = range(1, config.refinement.num_rounds + 1)
    pools = {n: store.read(f"10_pool_r{n}", CuratedSample) for n in rounds}
    difference = compare_arms(
        untuned, tuned, config=config.evaluation, seed=_evaluation_seed(config)
    )
    stages = {**({EXCHANGE_STAGE: exchange} if exchange else {}), **store.stages}
    metrics = build_metrics(
        run_id=inputs.run_id,
        seed=config.seed,
        untuned=untuned,
        tuned=tuned,
        difference=difference,
        confidence_level=config.evaluation.confidence_level,
        privacy={
            name: certificate.privacy
            for name, certificate in guarantees(inputs.certificates).items()
        },
        seconds={name: stage.seconds for name, stage in stages.items()},
        peak_rss_bytes=max(stage.peak_rss_bytes for stage in stages.values()),
        counts={name: stage.counts for name, stage in stages.items()},
    )
    report = ReportInputs(
        run_id=inputs.run_id,
        certificates=inputs.certificates,
        stages=stages,
        queries=store.read("07_queries", Query),
        scored={n: store.read(f"09_scored_r{n}", ScoredCandidate) for n in rounds},
        pools=pools,
        feedback={n: store.read(f"12_feedback_r{n}", Feedback) for n in rounds[1:]},
        losses={n: _read_losses(store.folder / f"11_target_r{n}") for n in rounds},
        test_rows=_judged_rows(inputs, store.read("07_queries", Query))[0],
        untuned=untuned,
        tuned=tuned,
        difference=difference,
        confidence_level=config.evaluation.confidence_level,
        settings=inputs.settings,
        versions=_versions(),
    )
    with clear_disk_errors(output_folder):
        output_folder.mkdir(parents=True, exist_ok=True)
        export_dataset(
            pools[rounds[-1]],
            folder=output_folder / "dataset",
            run_id=inputs.run_id,
            certificates=inputs.certificates,
            settings=inputs.settings,
        )
        copy_folder(adapter, output_folder / "target_adapter")
        write_metrics(output_folder / "metrics.json", metrics)
        write_report(report, output_folder / "report.html")


def _target_model(
    inputs: JobInputs, adapter: Path | None, *, out_folder: Path, config: ServerConfig
) -> SampledModel:
    """Return the target for a sampling engine; an engine that wants it merged gets `out_folder`."""
    if adapter is None:
        return SampledModel(base_folder=inputs.target_folder, vllm_url=config.target_model_vllm_url)
    return SampledModel(
        base_folder=inputs.target_folder,
        write_merged=lambda: merge_target(inputs.target_folder, adapter, out_folder=out_folder),
        write_adapter=lambda: adapter,
        vllm_url=config.target_model_vllm_url,
    )


def _judged_rows(inputs: JobInputs, queries: Sequence[Query]) -> tuple[tuple[TextRow, ...], int]:
    """Return the test records that no synthetic prompt repeats, and how many were left out."""
    return drop_overlapping(inputs.test_rows, training_prompts=[query.prompt for query in queries])


def _read_losses(folder: Path) -> tuple[float, ...]:
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    return tuple(history["losses"])


def _versions() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in _REPORTED_LIBRARIES}
    return {"python": platform.python_version(), **versions}


def _evaluation_seed(config: ServerConfig) -> int:
    # One for both arms: they are sampled and resampled alike, so that their difference is paired.
    return derive_seed(config.seed, "13_evaluation")
