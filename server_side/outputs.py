"""The end of the job: what a user takes away is put in its place."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from lm.disk import clear_disk_errors
from lm.errors import LmError
from lm.tables import TextRow
from protocol.errors import RewardDSError, StageError
from server_side.config import ServerConfig
from server_side.dataset_export import export_dataset, guarantees
from server_side.evaluation import ArmScores, compare_arms
from server_side.examination import evaluation_seed, judged_rows
from server_side.exchange.outcome import clients_without_releases
from server_side.exchange.starts import start_counts
from server_side.filtering import best_first
from server_side.inputs import JobInputs
from server_side.measuring.generator_fit import FitQuality
from server_side.measuring.judges import measure_win_rate
from server_side.measuring.metrics import build_metrics, write_metrics
from server_side.measuring.pass_rates import pass_rate_differences
from server_side.measuring.repetition import measure_diversity
from server_side.measuring.win_rate import WinRate
from server_side.notes import RunNotes
from server_side.ranking import RANKING_STAGE, RankedPrompt, RankingQuality, ranking_quality
from server_side.report import ReportInputs, write_report
from server_side.run_store import RunStore, StageRecord
from server_side.samples import CuratedSample, Feedback, Query, ScoredCandidate
from server_side.tuning.history import read_losses, tuning_effort
from server_side.tuning.tuned_target import is_adapter, merge_tuned_target
from server_side.whole_files import copy_folder

Annotate = Callable[[Sequence[CuratedSample]], RunNotes]
"""Says what a simulation knows about a run, from its final pool."""

EXCHANGE_STAGE = "06_exchange"
"""Under what name the cost of the exchange stands beside the job's stages."""
_REPORTED_LIBRARIES = ("torch", "transformers", "peft", "trl", "flwr", "dp-accounting")


def write_outputs(
    store: RunStore,
    inputs: JobInputs,
    tuned_folder: Path,
    *,
    untuned: ArmScores,
    tuned: ArmScores,
    generators: Mapping[str, FitQuality],
    config: ServerConfig,
    exchange: StageRecord | None,
    output_folder: Path,
    annotate: Annotate | None = None,
) -> None:
    """Write metrics, data set, tuned target and report from a run whose stages are whole.

    Args:
        store: The run folder.
        inputs: What the job started from.
        tuned_folder: The tuned target as the last round left it.
        untuned: Scores of the target as it is.
        tuned: Scores of the tuned target.
        generators: By client, what its generator has learnt.
        config: The server's settings.
        exchange: What it cost to get the releases; None where nobody measured it.
        output_folder: Where a user looks for results; what is there is replaced.
        annotate: Says what a simulation knows about the final pool; None in a deployment.

    Raises:
        DiskError: The disk is full or refuses.
        StageError: A judge cannot be asked; all else is written.
    """
    test_rows = judged_rows(inputs, store.read("07_queries", Query))[0]
    win_rate, problem = None, None
    try:
        win_rate = measure_win_rate(
            store,
            test_rows,
            untuned=untuned,
            tuned=tuned,
            config=config.evaluation,
            seed=evaluation_seed(config),
        )
    except Exception as error:  # told below; a tuned target waits for no judge
        problem = error
    report = _whole_run(
        store,
        inputs,
        test_rows=test_rows,
        untuned=untuned,
        tuned=tuned,
        generators=generators,
        win_rate=win_rate,
        exchange=exchange,
        annotate=annotate,
        config=config,
    )
    metrics = _metrics_of(report, store, config=config)
    with clear_disk_errors(output_folder):
        output_folder.mkdir(parents=True, exist_ok=True)
        export_dataset(
            report.pools[config.refinement.num_rounds],
            folder=output_folder / "dataset",
            run_id=inputs.run_id,
            # Nothing was sampled from a client whose generator is broken; its records paid all the
            # same, as metrics and report say.
            certificates=[item for item in inputs.certificates if item.client_name in generators],
            settings=report.settings,
            notes=report.notes,
        )
        _hand_over_target(inputs, tuned_folder, config=config, output_folder=output_folder)
        write_metrics(output_folder / "metrics.json", metrics)
        write_report(report, output_folder / "report.html")
    if problem is not None:
        raise StageError(
            f"{_in_words(problem)} Everything but the win rate is written to {output_folder}. Mend "
            "evaluation.judge in the settings that this run folder keeps, or set its kind to none, "
            "and start the same again: nobody but the judge is asked anew."
        ) from problem


def _whole_run(
    store: RunStore,
    inputs: JobInputs,
    *,
    test_rows: tuple[TextRow, ...],
    untuned: ArmScores,
    tuned: ArmScores,
    generators: Mapping[str, FitQuality],
    win_rate: WinRate | None,
    exchange: StageRecord | None,
    annotate: Annotate | None,
    config: ServerConfig,
) -> ReportInputs:
    """Gather what the stages wrote, and what it comes to."""
    rounds = range(1, config.refinement.num_rounds + 1)
    pools = {n: store.read(f"10_pool_r{n}", CuratedSample) for n in rounds}
    final_pool = pools[rounds[-1]]
    notes = annotate(final_pool) if annotate else None
    kept = {sample.query_id for sample in final_pool}
    best = store.read(f"10_best_r{rounds[-1]}", CuratedSample)
    fallen = [sample for sample in best if sample.query_id not in kept]
    stages = {**({EXCHANGE_STAGE: exchange} if exchange else {}), **store.stages}
    is_selected = notes is not None and notes.selection is not None
    if is_selected:
        # Privacy: how long and how large a training was follows from what was drawn; no price of a
        # selection covers it.
        stages = {n: replace(s, seconds=0.0, peak_rss_bytes=0) for n, s in stages.items()}
    counts = {name: stage.counts for name, stage in stages.items()}
    return ReportInputs(
        run_id=inputs.run_id,
        certificates=inputs.certificates,
        stages=stages,
        counts={**start_counts(store.folder), **counts},
        queries=store.read("07_queries", Query),
        scored={n: store.read(f"09_scored_r{n}", ScoredCandidate) for n in rounds},
        pools=pools,
        feedback={n: store.read(f"12_feedback_r{n}", Feedback) for n in rounds[1:]},
        fallen=next(iter(best_first(fallen, config=config.filtering)), None),
        losses={n: read_losses(store.folder / f"11_target_r{n}") for n in rounds},
        test_rows=test_rows,
        untuned=untuned,
        tuned=tuned,
        difference=compare_arms(
            untuned=untuned, tuned=tuned, config=config.evaluation, seed=evaluation_seed(config)
        ),
        pass_differences=pass_rate_differences(
            untuned=untuned.pass_counts,
            tuned=tuned.pass_counts,
            config=config.evaluation,
            seed=evaluation_seed(config),
        ),
        confidence_level=config.evaluation.confidence_level,
        settings={**config.shown_models, **inputs.settings},
        versions=_versions(),
        synthetic=measure_diversity([sample.chosen for sample in final_pool]),
        generators=generators,
        ranking=_ranking(store, config),
        # Privacy: whether a client could deliver may follow from its records; as above.
        without_releases=() if is_selected else clients_without_releases(store.folder),
        win_rate=win_rate,
        notes=notes,
    )


def _metrics_of(run: ReportInputs, store: RunStore, *, config: ServerConfig) -> dict[str, Any]:
    """Put the same findings together for programs."""
    return build_metrics(
        run_id=run.run_id,
        seed=config.seed,
        untuned=run.untuned,
        tuned=run.tuned,
        difference=run.difference,
        pass_differences=run.pass_differences,
        confidence_level=run.confidence_level,
        privacy={
            name: certificate.privacy for name, certificate in guarantees(run.certificates).items()
        },
        seconds={name: stage.seconds for name, stage in run.stages.items()},
        peak_rss_bytes=max(stage.peak_rss_bytes for stage in run.stages.values()),
        counts=run.counts,
        tuning=tuning_effort(
            [store.folder / f"11_target_r{n}" for n in run.pools],
            pool_sizes=[len(pool) for pool in run.pools.values()],
            config=config.finetuning,
        ),
        synthetic=run.synthetic,
        win_rate=run.win_rate,
        notes=run.notes,
        figures={name: stage.figures for name, stage in run.stages.items() if stage.figures},
        generators=run.generators,
        ranking=run.ranking,
        without_releases=run.without_releases,
    )


def _in_words(error: Exception) -> str:
    if isinstance(error, (RewardDSError, LmError)):
        return str(error)
    # Such as memory that ran out, or a proxy setting for which httpx lacks a package.
    return f"Expected the judge to answer, got {type(error).__name__}: {str(error).rstrip('.')}."


def _hand_over_target(
    inputs: JobInputs, tuned: Path, *, config: ServerConfig, output_folder: Path
) -> None:
    """Put the adapter, and the target as a model of its own where it is one or is wanted."""
    folders = {"target_adapter": is_adapter(tuned), "target_model": not is_adapter(tuned)}
    for name, is_wanted in folders.items():
        shutil.rmtree(output_folder / name, ignore_errors=True)
        if is_wanted:
            copy_folder(tuned, output_folder / name)
    if config.finetuning.export_merged:
        merge_tuned_target(
            target_folder=inputs.target_folder,
            tuned=tuned,
            out_folder=output_folder / "target_model",
        )


def _ranking(store: RunStore, config: ServerConfig) -> RankingQuality | None:
    if RANKING_STAGE not in store.stages:
        return None
    prompts = store.read(RANKING_STAGE, RankedPrompt)
    if not prompts:
        return None
    return ranking_quality(
        prompts,
        filtering=config.filtering,
        config=config.evaluation,
        seed=evaluation_seed(config),
    )


def _versions() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in _REPORTED_LIBRARIES}
    return {"python": platform.python_version(), **versions}
