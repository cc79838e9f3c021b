"""Arms that exist in simulation only: the target tuned on the private records themselves.

`private_records` is the ceiling: stage 11's own trainer and settings on records in the place of
synthetic samples, without privacy. `private_records_dp` is what DP-SGD of the target would give,
could all clients pool their records and run it: the settings of the generators' training, the whole
budget for this one model, and each step as many records as all generators' steps together.

Both are judged by the same stage on the same test records with the same seed as every other arm.
No proxy is trained, nothing is released, and nothing that is written here is fit to be handed out:
a target tuned without privacy has read the records.

Covers: composed ε of the pooled training, by the same accountant, over all clients' units.
Does not cover: how parties that do not trust each other could pool their records.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from client_side.config import ClientConfig
from client_side.dp_sgd import DpSgdPlan
from client_side.generator import train_generator
from client_side.randomness import Randomness
from client_side.records import PrivateRecord
from lm.adapters import write_peft_folder
from lm.threads import torch_threads
from protocol.accounting import ACCOUNTANT, ACCOUNTANT_VERSION, PlannedRun, calibrate
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from server_side.evaluation import ArmScores, compare_arms
from server_side.examination import evaluation_seed, judge_arm, set_test
from server_side.finetuning import finetune_target
from server_side.inputs import inputs_without_releases
from server_side.measuring.metrics import TuningEffort, build_metrics, write_metrics
from server_side.measuring.pass_rates import pass_rate_differences
from server_side.notes import RunNotes
from server_side.progress import Progress
from server_side.run_store import FolderStage, RunStore
from server_side.samples import CuratedSample, OnProgress
from server_side.seeds import derive_seed
from server_side.shared_stages import SharedStages
from server_side.tuning.history import tuning_effort
from server_side.tuning.tuned_target import TUNED
from simulations.annotating import not_covered
from simulations.config import SimulateConfig, TunedOn
from simulations.owned_records import read_owned_records
from simulations.prepare import World

STAGE = "11_target_private"
"""Name of the tuning in the run folder."""

POOLED = "all clients, pooled"
"""Under what name the records' guarantee stands in the metrics."""


def price_of_private_arm(config: SimulateConfig, world: World) -> dict[str, PrivacyLedger]:
    """Return what an arm costs that reads the records, under the name that stands in the metrics.

    Args:
        config: The simulation; `tuned_on` says which of the two arms.
        world: The parties.

    Returns:
        One ledger, for all clients' records together; known from settings alone.
    """
    clients = [client.load_config() for client in world.clients]
    is_private = config.tuned_on is TunedOn.PRIVATE_RECORDS_DP
    return {POOLED: pooled_ledger(clients, is_private=is_private)}


def run_private_arm(
    config: SimulateConfig,
    world: World,
    *,
    run_folder: Path,
    progress: Progress,
    shared: SharedStages | None = None,
) -> None:
    """Tune the target on the private records, judge it, and write `metrics.json`.

    Args:
        config: The simulation; `tuned_on` says which of the two arms.
        world: The parties, whose records are read.
        run_folder: Where the run is kept.
        progress: Told about each stage.
        shared: Where other runs' judgement of the untuned target lies; None shares nothing.

    Raises:
        RewardDSError: Records or settings do not allow it.
        LmError: A model or table cannot be used.
    """
    clients = [client.load_config() for client in world.clients]
    records = [read_owned_records(client) for client in world.clients]
    server = world.server
    job = inputs_without_releases(
        config=server,
        run_folder=world.server_folder,
        run_id=run_folder.name,
        instruction=clients[0].records.instruction,
    )
    settings = {
        **job.settings,
        "tuned_on": config.tuned_on.value,
        "num_private_records": config.num_private_records,
    }
    is_private = config.tuned_on is TunedOn.PRIVATE_RECORDS_DP
    ledgers = price_of_private_arm(config, world)
    pool = records_as_samples(
        records, clients=clients, limit=config.num_private_records, seed=config.seed
    )
    fill: FolderStage
    if is_private:
        fill = partial(
            _tune_with_dp, records, clients=clients, target_folder=job.target_folder,
            event=ledgers[POOLED].events[0],
        )  # fmt: skip
    else:
        fill = partial(
            finetune_target, pool, config=server.finetuning, target_folder=job.target_folder,
            previous=None, round_index=1,
        )  # fmt: skip
    open_store = partial(
        RunStore, world.server_folder, settings=settings, seed=server.seed, progress=progress
    )
    judge = partial(judge_arm, set_test(job, (), config=server))
    with open_store(shared=shared) as store, torch_threads(server.num_threads):
        judge_untuned = partial(judge, None, on_progress=store.advance)
        (untuned,) = store.values("13_untuned", ArmScores, judge_untuned)
    # Privacy: what follows has read the records, so it stays in this run's folder.
    with open_store() as store, torch_threads(server.num_threads):
        judge = partial(judge, on_progress=store.advance)
        folder = store.subfolder(STAGE, fill)
        (tuned,) = store.values("13_tuned", ArmScores, partial(judge, folder / TUNED))
        if is_private:
            effort = _dp_effort(clients, num_records=sum(map(len, records)))
        else:
            effort = tuning_effort([folder], pool_sizes=[len(pool)], config=server.finetuning)
        stages = store.stages
    difference = compare_arms(
        untuned=untuned, tuned=tuned, config=server.evaluation, seed=evaluation_seed(server)
    )
    write_metrics(
        run_folder / "metrics.json",
        build_metrics(
            run_id=job.run_id,
            seed=server.seed,
            untuned=untuned,
            tuned=tuned,
            difference=difference,
            pass_differences=pass_rate_differences(
                untuned=untuned.pass_counts,
                tuned=tuned.pass_counts,
                config=server.evaluation,
                seed=evaluation_seed(server),
            ),
            confidence_level=server.evaluation.confidence_level,
            privacy=ledgers,
            seconds={name: stage.seconds for name, stage in stages.items()},
            peak_rss_bytes=max(stage.peak_rss_bytes for stage in stages.values()),
            counts={name: stage.counts for name, stage in stages.items()},
            tuning=effort,
            notes=RunNotes(
                arm=config.arm, tuned_on=config.tuned_on.value, not_covered=not_covered(config)
            ),
        ),
    )
    shutil.rmtree(job.work_folder, ignore_errors=True)


def records_as_samples(
    records: Sequence[Sequence[PrivateRecord]],
    *,
    clients: Sequence[ClientConfig],
    limit: int | None,
    seed: int,
) -> tuple[CuratedSample, ...]:
    """Give records the form in which the target's trainer takes samples.

    Args:
        records: Each client's records.
        clients: Each client's settings, for its instruction.
        limit: At most so many records, drawn without a look; None takes all.
        seed: Seed of the draw.

    Returns:
        One sample a record, its response as `chosen`. Scores mean nothing in them.
    """
    samples = [
        CuratedSample(
            query_id=f"{config.name}-{number}",
            client_name=config.name,
            instruction=config.records.instruction,
            prompt=record.prompt,
            chosen=record.response,
            rejected="",
            chosen_candidate_id="",
            rejected_candidate_id="",
            chosen_reward=0.0,
            rejected_reward=0.0,
            chosen_perplexity=0.0,
            round_index=1,
        )
        for config, own in zip(clients, records, strict=True)
        for number, record in enumerate(own)
    ]
    if limit is not None and limit < len(samples):
        rng = np.random.default_rng(derive_seed(seed, "private records"))
        places = sorted(rng.choice(len(samples), size=limit, replace=False).tolist())
        samples = [samples[place] for place in places]
    return tuple(samples)


def pooled_ledger(clients: Sequence[ClientConfig], *, is_private: bool) -> PrivacyLedger:
    """Return what a training of the target on all clients' records costs.

    Args:
        clients: Each client's settings; budget and training are those of the first.
        is_private: Whether it is DP-SGD; otherwise there is no bound.

    Returns:
        One event and its ε, infinite without privacy.
    """
    budget, records = clients[0].budget, clients[0].records
    run = PlannedRun(
        # The event's kind says which of a client's two proxies; a target is a language model too.
        proxy=ProxyKind.GENERATOR,
        sample_rate=_expected_batch_size(clients) / _declared_size(clients),
        steps=clients[0].generator.steps,
    )
    if is_private and not budget.unsafe_non_private:
        found = calibrate(
            [run], target_epsilon=budget.target_epsilon, target_delta=budget.target_delta
        )
        events, epsilon = found.events, found.epsilon
    else:
        epsilon = math.inf
        events = (
            DpSgdEvent(
                proxy=run.proxy, noise_multiplier=0.0, sample_rate=run.sample_rate, steps=run.steps
            ),
        )
    return PrivacyLedger(
        unit=PrivacyUnit(records.privacy_unit.value),
        events=events,
        epsilon=epsilon,
        delta=budget.target_delta,
        accountant=ACCOUNTANT,
        accountant_version=ACCOUNTANT_VERSION,
        reproducible_noise=is_private and budget.noise_seed is not None,
    )


def _tune_with_dp(
    records: Sequence[Sequence[PrivateRecord]],
    *,
    clients: Sequence[ClientConfig],
    target_folder: Path,
    event: DpSgdEvent,
    output_folder: Path,
    seed: int,
    on_progress: OnProgress,
) -> None:
    first = clients[0]
    # Judged are responses, so the budget goes to them alone; the generators learn prompts as well.
    settings = replace(
        first.generator,
        prompt_loss_weight=0.0,
        expected_batch_size=_expected_batch_size(clients),
    )
    trained = train_generator(
        [record for own in records for record in own],
        base_folder=target_folder,
        config=settings,
        records_config=first.records,
        plan=DpSgdPlan(
            noise_multiplier=event.noise_multiplier,
            sample_rate=event.sample_rate,
            expected_batch_size=settings.expected_batch_size,
            steps=event.steps,
            max_grad_norm=settings.max_grad_norm,
        ),
        # Privacy: keyed by the operating system unless the simulation asks for a fixed seed; the
        # stage's own seed decides nothing here.
        randomness=Randomness(seed=first.budget.noise_seed),
        on_progress=on_progress,
    )
    write_peft_folder(
        target_folder, trained.tensors, trained.lora, out_folder=output_folder / TUNED
    )
    history = {"num_steps": event.steps, "losses": []}
    (output_folder / "history.json").write_text(json.dumps(history), encoding="utf-8")


def _dp_effort(clients: Sequence[ClientConfig], *, num_records: int) -> TuningEffort:
    steps, batch = clients[0].generator.steps, _expected_batch_size(clients)
    return TuningEffort(
        num_samples=num_records, num_steps=steps, batch_size=batch, num_samples_seen=steps * batch
    )


def _expected_batch_size(clients: Sequence[ClientConfig]) -> int:
    return sum(config.generator.expected_batch_size for config in clients)


def _declared_size(clients: Sequence[ClientConfig]) -> int:
    return sum(config.records.declared_size for config in clients)
