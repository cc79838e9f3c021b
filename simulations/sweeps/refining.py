"""How well the released proxies do, and what became of rewrites, as far as runs measured it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping

from simulations.sweeps.results import PointResult


def acceptance(item: PointResult) -> Mapping[int, float]:
    """Return by round, from 2, how many of its rewritten samples got a rewrite as their best.

    A round may rewrite some of the samples alone (`refinement.max_queries`); the others do not
    count.
    """
    shares = {}
    stages = _counts(item)
    for stage, counts in stages.items():
        match = re.fullmatch(r"10_best_(r(\d+))", stage)
        if match is None:
            continue
        num_rewritten = stages.get(f"08_candidates_{match[1]}", {}).get("num_samples")
        if num_rewritten and "num_replaced" in counts:
            shares[int(match[2])] = counts["num_replaced"] / num_rewritten
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
