"""Which kinds of pairs teach the reward proxy to rank candidates, not just to know a machine?

For each mix of pairs a reward proxy is trained, without noise and with its share of the composed ε,
on public or fictional records; each then judges the same candidates to the same test prompts. What
counts is agreement with ROUGE-L to the reference: the rank correlation within a prompt, and the
ROUGE-L of the candidate that the reward likes best, beside the mean of all (no selection), the best
of all (oracle), and the scores that cost no privacy: likelihood under the generator, consensus.
Intervals are bootstraps over prompts.

The generator proxy, always under DP, is trained once, candidates are sampled once and each mix is
trained once; all is kept in the work folder, so a run that was cut off goes on where it stood.

Run:  python benchmarks/reward_ranking.py --data TRAIN.jsonl --test-data TEST.jsonl
Time: an estimate, from a run of a tenth of the size: about four minutes of one idle core a mix,
privacy and seed with SmolLM2-135M and the default settings, so about four hours for the whole table
(11 mixes, two privacies, three seeds).

A long file, because it is a whole experiment that nothing else imports: from records to the table,
in the order in which it happens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from rouge_score.rouge_scorer import RougeScorer
from transformers import PreTrainedTokenizerBase

import simulations.run  # noqa: F401 - registers the schemas
from client_side.config import ClientConfig, PreferencesConfig
from client_side.dp_sgd import DpSgdPlan
from client_side.egress import load_signing_key, release
from client_side.generator import train_generator
from client_side.randomness import Purpose, Randomness
from client_side.records import PrivateRecord
from client_side.released_generator import ReleasedGenerator
from client_side.request_checks import training_settings
from client_side.reward_proxy import train_reward_proxy
from client_side.running_code import code_digest
from lm.adapter_shapes import expected_adapter_shapes
from lm.adapters import load_adapter, merge_adapter
from lm.devices import best_device, fastest_dtype
from lm.encoding import EncodedChat, encode_chat
from lm.likelihood import response_perplexities
from lm.loading import load_causal_lm, load_tokenizer
from lm.model_folders import base_model_digest, resolve_base_model
from lm.reward_head import load_reward_model, score_chats
from lm.sampling import SamplingEngine, SamplingParams, open_sampler
from lm.sentences import whole_sentences
from lm.settings import to_mapping, to_settings
from lm.tables import ColumnMap, TextRow, drop_overlapping, read_table, split_rows
from protocol.accounting import (
    ACCOUNTANT,
    ACCOUNTANT_VERSION,
    PlannedRun,
    calibrate,
    composed_epsilon,
)
from protocol.artifacts import Release
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from protocol.messages import ReleaseReply
from protocol.wire import decode_bytes, encode_bytes
from server_side.consensus import consensus_scores
from server_side.measuring.intervals import bootstrap_interval, ratio_of_sums
from server_side.ranking import best_of, rank_correlation, share_below
from server_side.samples import CandidateOrigin
from server_side.synthesis import number_candidates
from simulations.clinic import compose_messages
from simulations.tiny_models import build_tiny_model

CONF = Path(__file__).resolve().parents[1] / "conf"
RESULTS = Path(__file__).parent / "results"
NO_PAIRS = {name: 0.0 for name in to_mapping(PreferencesConfig()) if "_over_" in name}
MIXES: dict[str, dict[str, float]] = {
    "base": {"chosen_over_base": 1},
    "generator": {"chosen_over_generator": 1},
    "generator+base": {"chosen_over_generator": 1, "chosen_over_base": 1},
    "damaged": {"chosen_over_damaged": 1},
    "other_prompt": {"chosen_over_other_prompt": 1},
    "relevance": {"generator_over_other_prompt": 1},
    "generator_over_base": {"generator_over_base": 1},
    "generator+damaged": {"chosen_over_generator": 1, "chosen_over_damaged": 1},
    "generator+relevance": {"chosen_over_generator": 1, "generator_over_other_prompt": 1},
    "damaged+relevance": {"chosen_over_damaged": 1, "generator_over_other_prompt": 1},
    "all": dict.fromkeys(NO_PAIRS, 1.0),
}
"""Weights of the kinds of pairs; what a mix does not name has none."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One test prompt with its candidates, and what costs no privacy to know about them."""

    prompt: str
    reference: str
    responses: list[str]
    rouge_l: list[float]
    likelihood: list[float]
    consensus: list[float]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that a trained proxy depends on."""

    config: ClientConfig
    base_folder: Path
    tokenizer: PreTrainedTokenizerBase
    records: tuple[PrivateRecord, ...]
    tests: tuple[TextRow, ...]
    events: Mapping[ProxyKind, DpSgdEvent]
    work_folder: Path
    num_candidates: int
    candidates_from: str
    top_p: float
    seed: int


def main() -> None:
    arguments = parse()
    results = []
    for seed in arguments.seeds:
        setting = prepare(arguments, seed=seed)
        generator = cached_generator(setting)
        prompts = cached_candidates(setting, generator)
        results += [free_row(name, prompts, seed=seed) for name in ("likelihood", "consensus")]
        for mix in arguments.mixes:
            for privacy in arguments.privacies:
                results.append(cached_reward(setting, generator, prompts, mix=mix, privacy=privacy))
                print(f"seed {seed}, {mix}, {privacy}: done", flush=True)
        write(arguments, setting, results)
    show(results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="training records; the shipped ones by default")
    parser.add_argument("--test-data", help="test records; a part of --data by default")
    parser.add_argument("--prompt-column")
    parser.add_argument("--response-column")
    parser.add_argument("--num-records", type=int, default=4000)
    parser.add_argument("--num-prompts", type=int, default=100)
    parser.add_argument("--num-candidates", type=int, default=6)
    parser.add_argument(
        "--candidates-from", choices=("generator", "base", "both"), default="generator"
    )
    parser.add_argument("--top-p", type=float, default=1.0, help="how candidates are sampled")
    parser.add_argument("--mixes", nargs="+", choices=list(MIXES), default=list(MIXES))
    parser.add_argument(
        "--privacies", nargs="+", choices=("no_noise", "dp"), default=["no_noise", "dp"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--base-model", default="smollm2-135m", help="or `tiny`, to try it out")
    parser.add_argument("--work-folder", type=Path, default=Path("runs/reward_ranking"))
    parser.add_argument("--name", default="reward_ranking", help="name of the results file")
    parser.add_argument(
        "--set", nargs="*", default=[], help="such as client_side.reward_proxy.steps=8"
    )
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, *, seed: int) -> Setting:
    """Read the records and the client's settings, and find the noise for the composed ε."""
    training, tests = read_rows(arguments)
    records = tuple(
        PrivateRecord(prompt=row.prompt, response=row.response, unit_id=str(number))
        for number, row in enumerate(training)
    )
    model = arguments.base_model
    if model == "tiny":
        folder = arguments.work_folder / "tiny-model"
        if not (folder / "model.safetensors").is_file():
            build_tiny_model(folder)
    else:
        folder = resolve_base_model(model)
    overrides = [
        f"client_side.base_model='{folder}'",
        f"client_side.records.declared_size={len(records)}",
        *arguments.set,
    ]
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose("client_node", overrides=overrides)
    config = to_settings(ClientConfig, composed["client_side"])
    runs = [
        PlannedRun(
            proxy=kind,
            sample_rate=training_settings(config, kind).expected_batch_size / len(records),
            steps=training_settings(config, kind).steps,
            noise_ratio=config.budget.reward_noise_ratio if kind is ProxyKind.REWARD else 1.0,
        )
        for kind in ProxyKind
    ]
    budget = config.budget
    events = calibrate(
        runs, target_epsilon=budget.target_epsilon, target_delta=budget.target_delta
    ).events
    # What is kept is found again only where all that it depends on is the same.
    fixed = json.dumps(
        [
            to_mapping(replace(config, preferences=PreferencesConfig(), num_threads=None)),
            [[r.prompt, r.response] for r in records],
            [[row.prompt, row.response] for row in tests],
            [arguments.num_candidates, arguments.candidates_from, arguments.top_p, seed],
            code_digest(),
        ]
    )
    work_folder = arguments.work_folder / hashlib.sha256(fixed.encode()).hexdigest()[:16]
    work_folder.mkdir(parents=True, exist_ok=True)
    return Setting(
        config=config,
        base_folder=folder,
        tokenizer=load_tokenizer(folder),
        records=records,
        tests=tests,
        events={event.proxy: event for event in events},
        work_folder=work_folder,
        num_candidates=arguments.num_candidates,
        candidates_from=arguments.candidates_from,
        top_p=arguments.top_p,
        seed=seed,
    )


def read_rows(arguments: argparse.Namespace) -> tuple[Sequence[TextRow], tuple[TextRow, ...]]:
    """Return training rows and test rows without a prompt in common; the same for all seeds."""
    columns = ColumnMap(prompt=arguments.prompt_column, response=arguments.response_column)
    training: Sequence[TextRow]
    tests: Sequence[TextRow] = ()
    if arguments.data:
        training = read_table(arguments.data, columns=columns, drop_unusable=True).rows
    else:
        training, tests = (
            [
                TextRow(prompt=m.prompt, response=m.response)
                for m in compose_messages(count, seed=0, split=split)
            ]
            for split, count in (("train", arguments.num_records), ("test", arguments.num_prompts))
        )
    if arguments.test_data:
        tests = read_table(arguments.test_data, columns=columns, drop_unusable=True).rows
    if not tests:
        tests, *parts = split_rows(training, 10, seed=0)
        training = [row for part in parts for row in part]
    training = training[: arguments.num_records]
    kept, _ = drop_overlapping(tests, training_prompts=(row.prompt for row in training))
    return training, kept[: arguments.num_prompts]


def cached_generator(setting: Setting) -> ReleasedGenerator:
    """Train the generator proxy under DP, or read it, as a release that may write negatives."""
    file = setting.work_folder / "generator.release"
    key = load_signing_key(setting.work_folder / "key")
    if not file.is_file():
        config, kind = setting.config, ProxyKind.GENERATOR
        print("training the generator proxy", flush=True)
        trained = train_generator(
            setting.records,
            base_folder=setting.base_folder,
            config=config.generator,
            records_config=config.records,
            plan=plan_of(setting, kind, noise_multiplier=setting.events[kind].noise_multiplier),
            randomness=Randomness(seed=setting.seed).child(Purpose.GENERATOR),
        )
        reply = release(
            tensors=trained.tensors,
            expected_shapes=expected_adapter_shapes(
                setting.base_folder, trained.lora, has_reward_head=False
            ),
            proxy=kind,
            ledger=ledger_of(setting),
            client_name=config.name,
            run_id="reward-ranking",
            declared_size=config.records.declared_size,
            lora=trained.lora,
            base_model_digest=base_model_digest(setting.base_folder),
            code_digest=code_digest(),
            instruction=config.records.instruction,
            max_prompt_tokens=config.records.max_prompt_tokens,
            max_response_tokens=config.records.max_response_tokens,
            signing_key=key,
        )
        write_whole(file, encode_bytes(reply))
    found: Release = decode_bytes(file.read_bytes(), ReleaseReply).release
    return ReleasedGenerator(release=found, public_key=key.public_key().public_bytes_raw())


def ledger_of(setting: Setting) -> PrivacyLedger:
    """Return what both trainings of one client would cost together."""
    events, delta = tuple(setting.events.values()), setting.config.budget.target_delta
    return PrivacyLedger(
        unit=PrivacyUnit.RECORD,
        events=events,
        epsilon=composed_epsilon(events, delta=delta),
        delta=delta,
        accountant=ACCOUNTANT,
        accountant_version=ACCOUNTANT_VERSION,
        reproducible_noise=True,
    )


def plan_of(setting: Setting, kind: ProxyKind, *, noise_multiplier: float) -> DpSgdPlan:
    """Return a training run with the noise given."""
    settings = training_settings(setting.config, kind)
    return DpSgdPlan(
        noise_multiplier=noise_multiplier,
        sample_rate=setting.events[kind].sample_rate,
        expected_batch_size=settings.expected_batch_size,
        steps=settings.steps,
        max_grad_norm=settings.max_grad_norm,
    )


def cached_candidates(setting: Setting, generator: ReleasedGenerator) -> list[Prompt]:
    """Sample the candidates and score them without the reward, or read them."""
    file = setting.work_folder / "candidates.json"
    if not file.is_file():
        prompts = sample_candidates(setting, generator)
        write_whole(file, json.dumps([asdict(prompt) for prompt in prompts]).encode())
    return [Prompt(**values) for values in json.loads(file.read_text(encoding="utf-8"))]


def sample_candidates(setting: Setting, generator: ReleasedGenerator) -> list[Prompt]:
    """Let the generator, the base model or both answer the test prompts."""
    merged = merge_adapter(
        setting.base_folder,
        generator.release.weights.tensors,
        generator.lora,
        out_folder=setting.work_folder / f"generator-{generator.digest[:16]}",
    )
    writers = {"generator": [merged], "base": [setting.base_folder]}
    folders = writers.get(setting.candidates_from, [merged, setting.base_folder])
    prefixes = [chat_of(setting, row.prompt, "").response_prefix for row in setting.tests]
    texts: list[list[str]] = [[] for _ in setting.tests]
    for number, folder in enumerate(folders):
        print(f"sampling candidates, model {number + 1} of {len(folders)}", flush=True)
        sampler = open_sampler(
            folder,
            engine=SamplingEngine(setting.config.preferences.engine),
            num_threads=setting.config.num_threads,
            cache_folder=setting.work_folder,
        )
        completions = sampler.sample(
            prefixes,
            SamplingParams(
                max_new_tokens=setting.config.records.max_response_tokens,
                num_candidates=math.ceil(setting.num_candidates / len(folders)),
                top_p=setting.top_p,
            ),
            seed=setting.seed + number,
        )
        sampler.close()
        for own, drawn in zip(texts, completions, strict=True):
            # One that broke off would be told by that alone.
            ended = [c.text.strip() if c.is_finished else whole_sentences(c.text) for c in drawn]
            own += [text for text in ended if text]
    base = load_causal_lm(
        setting.base_folder, dtype=fastest_dtype(best_device()), device=best_device()
    )
    model = load_adapter(base, generator.release.weights.tensors, generator.lora)
    prompts = []
    for row, responses in zip(setting.tests, texts, strict=True):
        if len(set(responses)) < 2:
            continue  # nothing to rank
        chats = [chat_of(setting, row.prompt, response) for response in responses]
        prompts.append(
            Prompt(
                prompt=row.prompt,
                reference=row.response,
                responses=responses,
                rouge_l=rouge_l_of(responses, row.response),
                likelihood=[-math.log(p) for p in response_perplexities(model, chats)],
                consensus=consensus_of(responses),
            )
        )
    if not prompts:
        raise SystemExit("Expected two different candidates to some test prompt, found none.")
    return prompts


def cached_reward(
    setting: Setting,
    generator: ReleasedGenerator,
    prompts: Sequence[Prompt],
    *,
    mix: str,
    privacy: str,
) -> dict[str, Any]:
    """Train a reward proxy on a mix of pairs and judge the candidates, or read what it judged."""
    weights: dict[str, Any] = {**NO_PAIRS, **MIXES[mix]}
    preferences = replace(setting.config.preferences, **weights)
    digest = hashlib.sha256(json.dumps(to_mapping(preferences)).encode()).hexdigest()[:8]
    file = setting.work_folder / f"rewards-{mix}-{privacy}-{digest}.json"
    if not file.is_file():
        kind = ProxyKind.REWARD
        noise = setting.events[kind].noise_multiplier if privacy == "dp" else 0.0
        trained = train_reward_proxy(
            setting.records,
            base_folder=setting.base_folder,
            generator=generator,
            work_folder=setting.work_folder,
            num_threads=setting.config.num_threads,
            config=setting.config.reward_proxy,
            preferences_config=preferences,
            records_config=setting.config.records,
            plan=plan_of(setting, kind, noise_multiplier=noise),
            randomness=Randomness(seed=setting.seed).child(Purpose.REWARD),
        )
        device = best_device()
        model = load_reward_model(
            setting.base_folder,
            trained.tensors,
            trained.lora,
            dtype=fastest_dtype(device),
            device=device,
        )
        rewards = []
        for prompt in prompts:
            texts = [*prompt.responses, prompt.reference]
            rewards.append(score_chats(model, [chat_of(setting, prompt.prompt, t) for t in texts]))
        kept = {"rewards": rewards, "losses": trained.private_losses, "noise_multiplier": noise}
        write_whole(file, json.dumps(kept).encode())
    kept = json.loads(file.read_text(encoding="utf-8"))
    judged = [row[:-1] for row in kept["rewards"]]
    accuracies = [share_below(row[:-1], row[-1]) for row in kept["rewards"]]
    return {
        "score": "reward",
        "mix": mix,
        "privacy": privacy,
        "seed": setting.seed,
        "noise_multiplier": kept["noise_multiplier"],
        "accuracy_person_over_machine": interval(accuracies),
        **ranking(prompts, judged),
    }


def free_row(name: str, prompts: Sequence[Prompt], *, seed: int) -> dict[str, Any]:
    """Judge a score that costs no privacy, beside what any choice of candidates lies between."""
    means = [float(np.mean(prompt.rouge_l)) for prompt in prompts]
    return {
        "score": name,
        "seed": seed,
        "num_prompts": len(prompts),
        "rouge_l_mean_of_candidates": interval(means),
        "rouge_l_oracle": interval([max(prompt.rouge_l) for prompt in prompts]),
        **ranking(prompts, [getattr(prompt, name) for prompt in prompts]),
    }


def ranking(prompts: Sequence[Prompt], scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Say how well scores rank the candidates of each prompt by ROUGE-L."""
    best = [best_of(scores=s, worth=p.rouge_l) for p, s in zip(prompts, scores, strict=True)]
    means = [float(np.mean(p.rouge_l)) for p in prompts]
    lengths = [[float(len(r.split())) for r in p.responses] for p in prompts]
    with_rouge_l = map(rank_correlation, scores, [p.rouge_l for p in prompts])
    return {
        "rank_correlation_with_rouge_l": interval(list(with_rouge_l)),
        "rank_correlation_with_length": interval(list(map(rank_correlation, scores, lengths))),
        "rouge_l_of_best": interval(best),
        "rouge_l_of_best_minus_mean": interval([b - m for b, m in zip(best, means, strict=True)]),
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """Return the mean over prompts with its 95 % bootstrap interval."""
    columns = np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1)
    found = bootstrap_interval(
        columns, ratio_of_sums, num_resamples=2000, confidence_level=0.95, seed=0
    )
    return {name: round(value, 5) for name, value in asdict(found).items()}


def consensus_of(responses: Sequence[str]) -> list[float]:
    """Return each response's agreement with the others, as the server's stage measures it."""
    candidates = number_candidates(
        responses, query_id="q", round_index=1, origin=CandidateOrigin.GENERATOR
    )
    return consensus_scores(candidates, panel=candidates)


def rouge_l_of(responses: Sequence[str], reference: str) -> list[float]:
    """Return ROUGE-L of each response to a reference."""
    scorer = RougeScorer(["rougeL"])
    return [scorer.score(reference, response)["rougeL"].fmeasure for response in responses]


def chat_of(setting: Setting, prompt: str, response: str) -> EncodedChat:
    """Encode a chat as the server does."""
    records = setting.config.records
    return encode_chat(
        setting.tokenizer,
        instruction=records.instruction,
        prompt=prompt,
        response=response,
        max_prompt_tokens=records.max_prompt_tokens,
        max_response_tokens=records.max_response_tokens,
    )


def write(
    arguments: argparse.Namespace,
    setting: Setting,
    results: Sequence[Mapping[str, Any]],
) -> None:
    """Write what is known so far."""
    content = {
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(arguments).items()
        },
        "composed_epsilon": setting.config.budget.target_epsilon,
        "rows": list(results),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    write_whole(RESULTS / f"{arguments.name}.json", text.encode())


def show(results: Sequence[Mapping[str, Any]]) -> None:
    """Print accuracy, correlation, and what selection is worth."""
    table = Table("seed", "score", "noise", "accuracy", "correlation", "with length", "best by it")
    for row in results:
        accuracy = row.get("accuracy_person_over_machine")
        if row["score"] == "likelihood":
            for name in ("rouge_l_mean_of_candidates", "rouge_l_oracle"):
                spread = spelled(row[name])
                table.add_row(str(row["seed"]), name.removeprefix("rouge_l_"), *[""] * 4, spread)
        table.add_row(
            str(row["seed"]),
            row.get("mix", row["score"]),
            row.get("privacy", ""),
            f"{accuracy['mean']:.3f}" if accuracy else "",
            spelled(row["rank_correlation_with_rouge_l"]),
            f"{row['rank_correlation_with_length']['mean']:.2f}",
            spelled(row["rouge_l_of_best"]),
        )
    Console(width=130).print(table)


def spelled(found: Mapping[str, float]) -> str:
    """Write a mean with its interval."""
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a killed process leaves it complete or absent."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(data)
    part.replace(path)


if __name__ == "__main__":
    main()
