"""How numbers and texts are written in the report."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from server_side.evaluation import Metric

METRIC_NAMES: Final = {
    Metric.ROUGE1: "ROUGE-1",
    Metric.ROUGE2: "ROUGE-2",
    Metric.ROUGEL: "ROUGE-L",
    Metric.BLEU: "BLEU",
    Metric.PERPLEXITY: "Perplexity",
}
"""Each metric as it is written."""

_DECIMALS: Final[dict[str, int]] = {Metric.BLEU: 2, Metric.PERPLEXITY: 2}
_MAX_CHARS: Final = 1500


def count(value: int) -> str:
    """Write a number of things.

    >>> count(12345)
    '12,345'
    """
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Write a duration in its two largest units.

    >>> duration(0.04), duration(0.34), duration(75), duration(7260)
    ('< 0.1 s', '0.3 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 0.05:
        return "< 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(num_bytes: int) -> str:
    """Write an amount of memory.

    >>> size(3_400_000_000), size(52_000_000)
    ('3.4 GB', '52 MB')
    """
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def metric_value(value: float, key: str) -> str:
    """Write a metric with as many digits as it deserves.

    Args:
        value: The metric.
        key: Its name in `metrics.json`, which decides the digits.

    Returns:
        Two decimals for BLEU and perplexity, three for all others.

    >>> metric_value(0.12345, Metric.ROUGEL), metric_value(23.456, Metric.PERPLEXITY)
    ('0.123', '23.46')
    """
    return f"{value:,.{_DECIMALS.get(key, 3)}f}"


def metric_change(value: float, key: str) -> str:
    """Write a difference of metrics with its sign, a true minus for a fall.

    Args:
        value: The difference.
        key: The metric's name in `metrics.json`, which decides the digits.

    Returns:
        As many decimals as `metric_value` gives the metric.
    """
    return f"{value:+,.{_DECIMALS.get(key, 3)}f}".replace("-", "−")


def epsilon(value: float) -> str:
    """Write ε with enough digits that it is never shown smaller than it is.

    >>> epsilon(7.99961), epsilon(math.inf)
    ('8.000', '∞')
    """
    return f"{math.ceil(value * 1000) / 1000:.3f}" if math.isfinite(value) else "∞"


def probability(value: float) -> str:
    """Write δ or a sample rate."""
    return f"{value:.3g}".replace("e-0", "e-")


def clipped(text: str) -> str:
    """Cut a text that would make the page heavy."""
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}…"


def percent(fraction: float) -> str:
    """Write a share.

    >>> percent(0.1234), percent(0.004)
    ('12 %', '0.4 %')
    """
    return f"{100 * fraction:.{1 if fraction < 0.01 else 0}f} %"


def exact_percent(fraction: float) -> str:
    """Write a share that somebody chose, with all its digits.

    >>> exact_percent(0.95), exact_percent(0.975), exact_percent(0.999)
    ('95 %', '97.5 %', '99.9 %')
    """
    return f"{100 * fraction:.10g} %"


def score(value: float) -> str:
    """Write a score or a correlation, a true minus below zero.

    >>> score(0.12345), score(-0.2)
    ('0.123', '−0.200')
    """
    return f"{value:.3f}".replace("-", "−")


# The functions differ in what they take; Jinja calls them with what the template has.
FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "count": count,
    "duration": duration,
    "size": size,
    "epsilon": epsilon,
    "probability": probability,
    "clipped": clipped,
    "percent": percent,
    "exact_percent": exact_percent,
    "score": score,
}
"""Filters of the template."""
