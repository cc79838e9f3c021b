"""How well the released proxies do, and what became of rewrites, as far as runs measured it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping

from simulations.sweeps.results import PointResult


def acceptance(item: PointResult) -> Mapping[int, float]:
    """Return by round, from 2, the share of samples whose best response became a rewrite."""
    shares = {}
    for stage, counts in _counts(item).items():
        match = re.fullmatch(r"10_best_r(\d+)", stage)
        if match and counts.get("num_pairs") and "num_replaced" in counts:
            shares[int(match[1])] = counts["num_replaced"] / counts["num_pairs"]
    return shares


def generator_perplexity(item: PointResult, *, arm: str = "tuned") -> float | None:
    """Return the perplexity of public test responses under the generators, mean over clients.

    Args:
        item: The point.
        arm: `untuned` is the base model below a generator, under its client's instruction.

    Returns:
        The mean; None where nobody measured it.
    """
    generators = (item.metrics or {}).get("generators")
    return generators and statistics.fmean(own[arm]["mean"] for own in generators.values())


def reward_ranking(item: PointResult) -> float | None:
    """Return how well rewards rank answers to public test prompts; None where nobody measured it.

    It is the mean rank correlation, within a prompt, of reward and ROUGE-L to the reference.
    """
    ranking = (item.metrics or {}).get("ranking")
    return ranking and float(ranking["scores"]["reward"]["rank_correlation"]["mean"])


def reward_accuracy(item: PointResult) -> float | None:
    """Return how often a reference gets more reward than an answer; None where nobody measured."""
    ranking = (item.metrics or {}).get("ranking")
    return ranking and float(ranking["reward_accuracy"]["mean"])


def _counts(item: PointResult) -> Mapping[str, Mapping[str, int]]:
    counts: Mapping[str, Mapping[str, int]] = (item.metrics or {}).get("counts", {})
    return counts
