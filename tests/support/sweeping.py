"""A made-up sweep: folders as `rewardds-simulate -m` leaves them, without a run behind them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from lm.settings import save_settings
from simulations.config import SimulateConfig
from simulations.sweeps.points import begin_sweep

BUDGETS = {"eps_1": 1.0, "eps_8": 8.0, "infinite": None}
NOISE = {"eps_1": 2.2, "eps_8": 0.8, "infinite": 0.0}
METRICS = {"rouge1": 0.3, "rouge2": 0.1, "rougeL": 0.2, "bleu": 3.0, "perplexity": 20.0}
METRIC = {"mean": 0.2, "low": 0.1, "high": 0.3}


def arm(shift: float) -> dict[str, object]:
    """Give the scores of one arm as `metrics.json` has them."""
    scores = {
        name: {"mean": value + shift, "low": value + shift - 0.01, "high": value + shift + 0.01}
        for name, value in METRICS.items()
    }
    plain = {"distinct1": 0.5, "distinct2": 0.6, "unfinished_fraction": 0.0, "mean_answer_words": 9}
    return {**scores, **plain}


def counts_of_round_2(*, num_rewritten: int, num_replaced: int) -> dict[str, dict[str, int]]:
    """Give what a round counts that rewrites a quarter of the samples, as `metrics.json` has it."""
    return {
        "08_candidates_r2": {"num_samples": num_rewritten},
        "10_best_r2": {"num_pairs": 4 * num_rewritten, "num_replaced": num_replaced},
    }


def ledger(noise: float, *, rate: float = 0.1) -> dict[str, object]:
    """Give one client's ledger as `provenance.json` has it."""
    event = {"noise_multiplier": noise, "sample_rate": rate, "steps": 10}
    return {
        "unit": "record",
        "relation": "add_or_remove_one",
        "epsilon": None if noise == 0 else 8.0,
        "delta": 1e-5,
        "accountant": "made up",
        "reproducible_noise": False,
        "events": [{"proxy": "generator", **event}, {"proxy": "reward", **event}],
    }


def write_point(
    folder: Path, *, budget: str, seed: int, arm_name: str = "rewardds", releases: str | None = None
) -> None:
    """Write one point that is done."""
    overrides = [f"client_side/budget={budget}", f"seed={seed}", f"arm={arm_name}"]
    folder.mkdir(parents=True)
    default = SimulateConfig(seed=seed, arm=arm_name)
    target = BUDGETS[budget]
    own = default.client_side.budget
    own = (
        replace(own, unsafe_non_private=True)
        if target is None
        else replace(own, target_epsilon=target)
    )
    admission = replace(default.server_side.admission, accept_unsafe_non_private=target is None)
    config = replace(
        default,
        client_side=replace(default.client_side, budget=own),
        server_side=replace(default.server_side, admission=admission),
    )
    save_settings(config, folder / "simulate.yaml")
    shift = 0.002 * (len(arm_name) + seed + list(BUDGETS).index(budget))
    ledgers = {"client-1": ledger(NOISE[budget]), "client-2": ledger(NOISE[budget], rate=0.12)}
    metrics = {
        "format_version": 1,
        "run_id": "made-up",
        "software_version": "0",
        "seed": seed,
        "num_rows": 9,
        "confidence_level": 0.95,
        "untuned": arm(0.0),
        "tuned": arm(shift),
        "difference": {
            name: {"mean": shift, "low": shift - 0.01, "high": shift + 0.01} for name in METRICS
        },
        "privacy": {
            name: {
                "epsilon": values["epsilon"],
                "delta": 1e-5,
                "unit": "record",
                "relation": "add_or_remove_one",
                "num_events": 2,
                "reproducible_noise": False,
            }
            for name, values in ledgers.items()
        },
        "seconds": {"total": 60.0},
        "peak_rss_bytes": 10**9,
        "counts": counts_of_round_2(num_rewritten=10, num_replaced=4),
        "generators": {
            name: {"untuned": {**METRIC, "mean": 30.0}, "tuned": METRIC, "difference": METRIC}
            for name in ledgers
        },
        "ranking": {
            "num_prompts": 9,
            "num_candidates": 54,
            "mean": METRIC,
            "oracle": METRIC,
            "reward_accuracy": {"mean": 0.7 + shift, "low": 0.6, "high": 0.8},
            "scores": {"reward": {"best": METRIC, "gain": METRIC, "rank_correlation": METRIC}},
        },
    }
    provenance = {
        "command": ["rewardds-simulate", *overrides],
        "libraries": {"torch": "2"},
        "ledgers": ledgers,
        "digests": {"releases": {"client-1/generator": releases or f"{budget} {seed} {arm_name}"}},
    }
    point = {
        "overrides": overrides, "status": "done", "error": None, "ended": 1.0, "seconds": 60.0,
    }  # fmt: skip
    for name, values in (
        ("metrics.json", metrics),
        ("provenance.json", provenance),
        ("point.json", point),
    ):
        (folder / name).write_text(json.dumps(values), encoding="utf-8")


def write_sweep(folder: Path, *, arms: tuple[str, ...] = ("rewardds", "dp_generate")) -> Path:
    """Write a sweep over three budgets, two seeds and some arms that share releases; one fails."""
    begin_sweep(
        folder,
        overrides=["client_side/budget=eps_1,eps_8,infinite", "seed=1,2"],
        num_points=6 * len(arms) + 1,
        command=["rewardds-simulate", "-m", "seed=1,2"],
    )
    number = 0
    for budget in BUDGETS:
        for seed in (1, 2):
            for name in arms:
                write_point(
                    folder / str(number),
                    budget=budget, seed=seed, arm_name=name, releases=f"{budget} {seed}",
                )  # fmt: skip
                number += 1
    failed = folder / str(number)
    failed.mkdir()
    point = {
        "overrides": ["client_side/budget=eps_1", "seed=3", "arm=<b>odd</b>"],
        "status": "failed",
        "error": "Expected <i>more</i>, got less. Do it.",
        "ended": 2.0,
        "seconds": 1.0,
    }
    (failed / "point.json").write_text(json.dumps(point), encoding="utf-8")
    return folder
