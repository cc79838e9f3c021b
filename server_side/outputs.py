"""The end of the job: both arms judged alike, and what a user takes away put in its place."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

from lm.disk import clear_disk_errors
from lm.errors import LmError
from lm.sampling import SampledModel, Sampler, SamplingEngine, open_sampler
from lm.tables import TextRow, drop_overlapping
from protocol.errors import RewardDSError, StageError
from server_side.config import JudgeConfig, ServerConfig
from server_side.dataset_export import export_dataset, guarantees
from server_side.evaluation import ArmScores, compare_arms, evaluate_target
from server_side.exchange.outcome import clients_without_releases
from server_side.exchange.starts import start_counts
from server_side.filtering import best_first
from server_side.inputs import JobInputs
from server_side.measuring.generator_fit import FitQuality
from server_side.measuring.judges import measure_win_rate
from server_side.measuring.metrics import build_metrics, write_metrics
from server_side.measuring.pass_rates import pass_rate_differences
from server_side.measuring.repetition import measure_diversity
from server_side.notes import RunNotes
from server_side.proxies import ModelWriter
from server_side.ranking import RANKING_STAGE, RankedPrompt, RankingQuality, ranking_quality
from server_side.report import ReportInputs, write_report
from server_side.run_store import RunStore, StageRecord
from server_side.samples import (
    CuratedSample,
    Feedback,
    OnProgress,
    Query,
    ScoredCandidate,
    StageResult,
)
from server_side.seeds import derive_seed
from server_side.tuning.history import read_losses, tuning_effort
from server_side.tuning.tuned_target import is_adapter, merge_tuned_target, tuned_digest
from server_side.whole_files import copy_folder

Annotate = Callable[[Sequence[CuratedSample]], RunNotes]
"""Says what a simulation knows about a run, from its final pool."""

EXCHANGE_STAGE = "06_exchange"
"""Under what name the cost of the exchange stands beside the job's stages."""
_REPORTED_LIBRARIES = ("torch", "transformers", "peft", "trl", "flwr", "dp-accounting")


def target_writer(
    inputs: JobInputs, tuned: Path, *, round_index: int, config: ServerConfig
) -> ModelWriter:
    """Return the target as a round left it, to write with; it is merged when first needed.

    Args:
        inputs: The untuned target and the work folder.
        tuned: The tuned target as the round left it.
        round_index: The round.
        config: Number of threads, and the address of a vLLM server if one holds the target.

    Returns:
        The writer. What the round before, or another outcome of this one, had merged is removed.
    """
    work = inputs.work_folder
    # By its weights: a round that is tuned again need not end in the very same ones.
    folder = work / f"target_r{round_index}-{tuned_digest(tuned)[:16]}"
    # A merged target is as large as the target; no stage asks for that of an earlier round.
    unwanted = (f"target_r{round_index - 1}-", f"target_r{round_index}-")
    for other in work.glob("target_r*"):
        if other != folder and other.name.startswith(unwanted):
            shutil.rmtree(other)
    return ModelWriter(
        _target_model(inputs, tuned, out_folder=folder / "merged", config=config),
        num_threads=config.num_threads,
        engine_cache=folder / "engines",
        made_of=(inputs.target_folder, tuned),
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
    rows, num_overlapping = _judged_rows(inputs, queries)
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
            _target_model(inputs, tuned, out_folder=folder / "merged", config=config),
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
    rounds = range(1, config.refinement.num_rounds + 1)
    pools = {n: store.read(f"10_pool_r{n}", CuratedSample) for n in rounds}
    difference = compare_arms(
        untuned=untuned, tuned=tuned, config=config.evaluation, seed=evaluation_seed(config)
    )
    test_rows = _judged_rows(inputs, store.read("07_queries", Query))[0]
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
    final_pool = pools[rounds[-1]]
    kept = {sample.query_id for sample in final_pool}
    best = store.read(f"10_best_r{rounds[-1]}", CuratedSample)
    fallen = [sample for sample in best if sample.query_id not in kept]
    synthetic = measure_diversity([sample.chosen for sample in final_pool])
    notes = annotate(final_pool) if annotate else None
    settings = {**config.shown_models, **inputs.settings}
    pass_differences = pass_rate_differences(
        untuned=untuned.pass_counts,
        tuned=tuned.pass_counts,
        config=config.evaluation,
        seed=evaluation_seed(config),
    )
    ranking = _ranking(store, config)
    stages = {**({EXCHANGE_STAGE: exchange} if exchange else {}), **store.stages}
    selection = notes.selection if notes else None
    if selection:
        # Privacy: how long and how large a training was follows from what was drawn; no price of a
        # selection covers it.
        stages = {n: replace(s, seconds=0.0, peak_rss_bytes=0) for n, s in stages.items()}
    # Privacy: whether a client could deliver may follow from its records; as above.
    without_releases = () if selection else clients_without_releases(store.folder)
    counts = {name: stage.counts for name, stage in stages.items()}
    counts = {**start_counts(store.folder), **counts}
    metrics = build_metrics(
        run_id=inputs.run_id,
        seed=config.seed,
        untuned=untuned,
        tuned=tuned,
        difference=difference,
        pass_differences=pass_differences,
        confidence_level=config.evaluation.confidence_level,
        privacy={
            name: certificate.privacy
            for name, certificate in guarantees(inputs.certificates).items()
        },
        seconds={name: stage.seconds for name, stage in stages.items()},
        peak_rss_bytes=max(stage.peak_rss_bytes for stage in stages.values()),
        counts=counts,
        tuning=tuning_effort(
            [store.folder / f"11_target_r{n}" for n in rounds],
            pool_sizes=[len(pools[n]) for n in rounds],
            config=config.finetuning,
        ),
        synthetic=synthetic,
        win_rate=win_rate,
        notes=notes,
        figures={name: stage.figures for name, stage in stages.items() if stage.figures},
        generators=generators,
        ranking=ranking,
        without_releases=without_releases,
    )
    report = ReportInputs(
        run_id=inputs.run_id,
        certificates=inputs.certificates,
        stages=stages,
        counts=counts,
        queries=store.read("07_queries", Query),
        scored={n: store.read(f"09_scored_r{n}", ScoredCandidate) for n in rounds},
        pools=pools,
        feedback={n: store.read(f"12_feedback_r{n}", Feedback) for n in rounds[1:]},
        fallen=next(iter(best_first(fallen, config=config.filtering)), None),
        losses={n: read_losses(store.folder / f"11_target_r{n}") for n in rounds},
        test_rows=test_rows,
        untuned=untuned,
        tuned=tuned,
        difference=difference,
        pass_differences=pass_differences,
        confidence_level=config.evaluation.confidence_level,
        settings=settings,
        versions=_versions(),
        synthetic=synthetic,
        generators=generators,
        ranking=ranking,
        without_releases=without_releases,
        win_rate=win_rate,
        notes=notes,
    )
    with clear_disk_errors(output_folder):
        output_folder.mkdir(parents=True, exist_ok=True)
        export_dataset(
            final_pool,
            folder=output_folder / "dataset",
            run_id=inputs.run_id,
            # Nothing was sampled from a client whose generator is broken; its records paid all the
            # same, as metrics and report say.
            certificates=[item for item in inputs.certificates if item.client_name in generators],
            settings=settings,
            notes=notes,
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


def _in_words(error: Exception) -> str:
    if isinstance(error, (RewardDSError, LmError)):
        return str(error)
    # Such as memory that ran out, or a proxy setting for which httpx lacks a package.
    return f"Expected the judge to answer, got {type(error).__name__}: {str(error).rstrip('.')}."


def _target_model(
    inputs: JobInputs, tuned: Path | None, *, out_folder: Path, config: ServerConfig
) -> SampledModel:
    """Return the target for a sampling engine; an engine that wants it merged gets `out_folder`."""
    if tuned is None or not is_adapter(tuned):
        return SampledModel(
            base_folder=tuned or inputs.target_folder, vllm_url=config.target_model_vllm_url
        )
    return SampledModel(
        base_folder=inputs.target_folder,
        write_merged=partial(
            merge_tuned_target,
            target_folder=inputs.target_folder,
            tuned=tuned,
            out_folder=out_folder,
        ),
        write_adapter=lambda: tuned,
        vllm_url=config.target_model_vllm_url,
    )


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


def _judged_rows(inputs: JobInputs, queries: Sequence[Query]) -> tuple[tuple[TextRow, ...], int]:
    """Return the test records that no synthetic prompt repeats, and how many were left out."""
    return drop_overlapping(inputs.test_rows, training_prompts=[query.prompt for query in queries])


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


def evaluation_seed(config: ServerConfig) -> int:
    """Return the seed of judging, sampling and resampling alike."""
    # One for both arms: they are sampled and resampled alike, so that their difference is paired.
    return derive_seed(config.seed, "13_evaluation")
