"""The server's job from admitted releases to the report: the only place that knows the order.

Each stage is kept in the run folder as soon as it is whole (`server_side/run_store.py`), and draws
from a seed of its own. Start the same job again after a crash: it goes on from the last whole stage
and ends with the same pool.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lm.threads import torch_threads
from server_side.config import ServerConfig
from server_side.evaluation import ArmScores
from server_side.examination import evaluation_seed, judge_arm, set_test
from server_side.filtering import choose_pairs, select_samples
from server_side.finetuning import finetune_target
from server_side.inputs import gather_inputs
from server_side.measuring.generator_fit import (
    GENERATORS_STAGE,
    GeneratorFit,
    fit_qualities,
    judge_generators,
    warn_of_idle_generators,
    with_sound_generator,
)
from server_side.outputs import Annotate, write_outputs
from server_side.progress import Progress
from server_side.ranking import RANKING_STAGE, RankedPrompt, judge_ranking
from server_side.refinement import (
    choose_again,
    grow_pool,
    refine_samples,
    samples_to_refine,
    write_feedback,
)
from server_side.reward_scaling import reward_scales
from server_side.run_store import RunStore, StageRecord
from server_side.samples import Candidate, CuratedSample, Feedback, Query, ScoredCandidate
from server_side.scoring import score_candidates
from server_side.seeds import derive_seed
from server_side.shared_stages import SharedStages
from server_side.synthesis import propose_candidates, synthesize_queries
from server_side.target_sampling import target_writer
from server_side.tuning.tuned_target import TUNED

if TYPE_CHECKING:  # Flower takes a second to import, and no stage needs it
    from server_side.admission import AdmittedRelease


def run_pipeline(
    releases: Sequence[AdmittedRelease],
    *,
    config: ServerConfig,
    run_folder: Path,
    output_folder: Path | None = None,
    exchange: StageRecord | None = None,
    progress: Progress | None = None,
    shared: SharedStages | None = None,
    annotate: Annotate | None = None,
) -> None:
    """Turn admitted releases into a tuned target, a synthetic data set and a report.

    Args:
        releases: What was admitted; a client counts when both of its proxies are there.
        config: The server's settings.
        run_folder: Where every stage is kept; may hold an earlier start of the same job.
        output_folder: Where metrics, report, tuned target and data set go; None takes `run_folder`.
        exchange: What it cost to get the releases, where that is known, for the metrics.
        progress: Told about each stage.
        shared: Where stages lie that other runs have done; None shares nothing.
        annotate: Says what a simulation knows about the final pool, for metrics and report.

    Raises:
        RewardDSError: Something is missing, or a stage has nothing to hand on.
        LmError: A model or table cannot be used.
    """
    job = gather_inputs(releases, config=config, run_folder=run_folder)
    store_of_run = RunStore(
        run_folder, settings=job.settings, seed=config.seed, progress=progress, shared=shared
    )
    with store_of_run as store, torch_threads(config.num_threads):
        num_rounds = config.refinement.num_rounds
        in_round = partial(config.finetuning.in_round, num_rounds=num_rounds)
        tune = partial(finetune_target, target_folder=job.target_folder)

        # What the generators have learnt bounds all that follows: better told before hours of it.
        fit = partial(judge_generators, job.test_rows, generators=job.clients)
        fit = partial(fit, max_batch_tokens=config.scoring.max_batch_tokens)
        fits = store.values(GENERATORS_STAGE, GeneratorFit, partial(fit, on_progress=store.advance))
        generators = fit_qualities(fits, config=config.evaluation, seed=evaluation_seed(config))
        warn_of_idle_generators(generators)
        clients = with_sound_generator(job.clients, fits, min_clients=config.min_clients)

        # The generators write prompts and answer them.
        synthesize = partial(
            synthesize_queries,
            clients,
            test_prompts=job.test_prompts,
            public_prompts=job.public_prompts,
        )
        queries = store.drawn("07_queries", Query, partial(synthesize, config=config.synthesis))
        propose = partial(propose_candidates, queries, clients, config=config.synthesis)
        candidates = store.drawn("08_candidates_r1", Candidate, propose)

        # The proxies judge every answer; the best prompts and answers make the pool.
        score = partial(
            score_candidates,
            panel=candidates,
            queries=queries,
            generators=clients,
            reward_proxies=clients,
            config=config.scoring,
            on_progress=store.advance,
        )
        score_first = partial(score, candidates, scales=None)
        scored = store.values("09_scored_r1", ScoredCandidate, score_first)
        scales = reward_scales(scored, config=config.scoring, filtering=config.filtering)
        pair_up = partial(choose_pairs, scored, queries=queries, instructions=job.instructions)
        best = store.values("10_best_r1", CuratedSample, partial(pair_up, config=config.filtering))
        select = partial(select_samples, best, config=config.filtering)
        pool = store.values("10_pool_r1", CuratedSample, select)
        tune_first = partial(tune, pool, previous=None, config=in_round(1), round_index=1)
        target = store.subfolder("11_target_r1", tune_first)

        # Feedback on the best answers, rewriting by the target, and judging again.
        for number in range(2, num_rounds + 1):
            writer = target_writer(job, target / TUNED, round_index=number - 1, config=config)
            edge = partial(samples_to_refine, best, pool=pool, filtering=config.filtering)
            samples = edge(
                config=config.refinement, seed=derive_seed(config.seed, f"edge_r{number}")
            )
            advise = partial(write_feedback, samples, generators=clients, target=writer)
            feedback = store.drawn(
                f"12_feedback_r{number}", Feedback, partial(advise, config=config.refinement)
            )
            rewrite = partial(refine_samples, samples, feedback, target=writer, round_index=number)
            rewrites = store.drawn(
                f"08_candidates_r{number}", Candidate, partial(rewrite, config=config.refinement)
            )
            rescored = store.values(
                f"09_scored_r{number}", ScoredCandidate, partial(score, rewrites, scales=scales)
            )
            choose = partial(choose_again, best, rescored, queries=queries)
            best = store.values(
                f"10_best_r{number}", CuratedSample, partial(choose, config=config.filtering)
            )
            grow = partial(grow_pool, pool=pool, best=best, filtering=config.filtering)
            grow = partial(grow, config=config.refinement, round_index=number)
            pool = store.values(f"10_pool_r{number}", CuratedSample, grow)
            tune_on = partial(
                tune, pool, previous=target / TUNED, config=in_round(number), round_index=number
            )
            target = store.subfolder(f"11_target_r{number}", tune_on)

        # How well the scores rank, and the target before and after, on public test records.
        if job.ranked_rows:
            rank = partial(judge_ranking, job.ranked_rows, generators=clients)
            rank = partial(rank, reward_proxies=clients, scales=scales)
            rank = partial(rank, synthesis=config.synthesis, scoring=config.scoring)
            store.drawn(RANKING_STAGE, RankedPrompt, rank)
        test = set_test(job, queries, config=config)
        judge = partial(judge_arm, test, on_progress=store.advance)
        (untuned,) = store.values("13_untuned", ArmScores, partial(judge, None))
        (tuned,) = store.values("13_tuned", ArmScores, partial(judge, target / TUNED))
        write_outputs(
            store,
            job,
            target / TUNED,
            untuned=untuned,
            tuned=tuned,
            generators=generators,
            config=config,
            exchange=exchange,
            output_folder=output_folder or run_folder,
            annotate=annotate,
        )
        shutil.rmtree(job.work_folder, ignore_errors=True)
