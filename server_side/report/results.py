"""Results, guarantees and settings as the report shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.artifacts import Certificate
from protocol.ledger import PrivacyUnit
from server_side.dataset_export import guarantees
from server_side.evaluation import LOWER_IS_BETTER, Metric
from server_side.measuring.intervals import Interval, judge
from server_side.report.formats import metric_change, metric_value
from server_side.report.inputs import ReportInputs
from server_side.report.journey import stage_title
from server_side.reward_scaling import LENGTH_CORRELATION

_VERDICTS: Final = {
    "better": "better",
    "worse": "worse",
    "unclear": "no clear difference",
}
_LEARNT: Final = {"better": "yes", "worse": "no, it has unlearnt", "unclear": "not clearly"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricResult:
    """One metric of a model before and after its tuning, written out."""

    key: str
    """Which one."""
    name: str
    """As it is written; the client's, of a generator."""
    direction: str
    """Which way is better."""
    untuned: str
    """Value of the untuned model."""
    untuned_range: str
    """Its interval."""
    tuned: str
    """Value of the tuned model."""
    tuned_range: str
    """Its interval."""
    change: str
    """Tuned minus untuned."""
    change_range: str
    """Its paired interval."""
    verdict: str
    """`better`, `worse` or `unclear`."""
    verdict_text: str
    """The verdict in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientLedger:
    """One client's guarantee and what it is made of."""

    certificate: Certificate
    """The certificate of the client that lists all events."""
    unit: str
    """Whose presence is hidden."""
    is_finite: bool
    """Whether there is a guarantee at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """What a reader in a hurry takes away."""

    sentence: str
    """Result and price in one sentence."""
    is_guarantee_real: bool
    """False where some client's noise was missing or can be reproduced."""
    warning: str
    """Why the guarantee is none; empty where it is one."""
    epsilon: float
    """Largest composed ε of a client."""
    delta: float
    """Its δ."""
    total_seconds: float
    """Time of all stages."""
    peak_rss_bytes: int
    """Most memory that the job held."""
    num_samples: int
    """Samples in the final pool."""


def metric_results(inputs: ReportInputs) -> list[MetricResult]:
    """Write out each metric of both arms, and judge the difference by its paired interval."""
    return [
        _result(
            comparison.key,
            name=comparison.name,
            untuned=comparison.untuned,
            tuned=comparison.tuned,
            difference=comparison.difference,
            verdicts=_VERDICTS,
        )
        for comparison in inputs.comparisons
    ]


def generator_results(inputs: ReportInputs) -> list[MetricResult]:
    """Write out what each client's generator has learnt, by name."""
    return [
        _result(
            Metric.PERPLEXITY,
            name=client_name,
            untuned=fit.untuned,
            tuned=fit.tuned,
            difference=fit.difference,
            verdicts=_LEARNT,
        )
        for client_name, fit in sorted(inputs.generators.items())
    ]


def headline(inputs: ReportInputs, results: list[MetricResult]) -> Headline:
    """Put result and price into one sentence, with the same care for good and bad news.

    Args:
        inputs: The run.
        results: What `metric_results` made of it, with ROUGE-L and perplexity among them.

    Returns:
        The headline; epsilon and delta are those of the client with the largest epsilon.
    """
    clients = guarantees(inputs.certificates)
    dearest = max(clients.values(), key=lambda certificate: certificate.privacy.epsilon)
    by_metric = {result.key: result for result in results}
    parts = [_clause(by_metric[metric]) for metric in (Metric.ROUGEL, Metric.PERPLEXITY)]
    is_infinite = not math.isfinite(dearest.privacy.epsilon)
    is_reproducible = any(c.privacy.reproducible_noise for c in clients.values())
    warning = ""
    if is_infinite:
        warning = "Some release was trained without noise: there is no privacy guarantee."
    elif is_reproducible:
        warning = (
            "Noise was drawn from a fixed seed, as simulations may: the figures of ε show what a "
            "deployment would cost, but these very releases protect nobody."
        )
    last_pool = inputs.pools[max(inputs.pools)]
    return Headline(
        sentence=f"After tuning on {len(last_pool):,} synthetic samples, {parts[0]}, and "
        f"{parts[1]}.",
        is_guarantee_real=not warning,
        warning=warning,
        epsilon=dearest.privacy.epsilon,
        delta=dearest.privacy.delta,
        total_seconds=sum(stage.seconds for stage in inputs.stages.values()),
        peak_rss_bytes=max((s.peak_rss_bytes for s in inputs.stages.values()), default=0),
        num_samples=len(last_pool),
    )


def client_ledgers(inputs: ReportInputs) -> list[ClientLedger]:
    """Return each client's guarantee, by name."""
    return [
        ClientLedger(
            certificate=certificate,
            unit="one record"
            if certificate.privacy.unit is PrivacyUnit.RECORD
            else "all records of one person",
            is_finite=math.isfinite(certificate.privacy.epsilon),
        )
        for name, certificate in guarantees(inputs.certificates).items()
    ]


def length_correlations(inputs: ReportInputs) -> list[tuple[str, float]]:
    """Return how reward and length correlate within a prompt, by stage that scored something."""
    return [
        (stage_title(name), stage.figures[LENGTH_CORRELATION])
        for name, stage in inputs.stages.items()
        if LENGTH_CORRELATION in stage.figures
    ]


def setting_groups(settings: Mapping[str, object]) -> dict[str, list[tuple[str, str]]]:
    """Flatten settings into dotted names, grouped by their first part.

    >>> setting_groups({"seed": 1, "scoring": {"alpha": 0.5}})
    {'general': [('seed', '1')], 'scoring': [('alpha', '0.5')]}
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    top = dict(settings)
    nested = top.pop("config", None)
    if isinstance(nested, Mapping):  # one level that says nothing
        top |= nested
    for name, value in top.items():
        if isinstance(value, Mapping) and value:
            groups[name] = _flatten(value)
        else:
            groups.setdefault("general", []).append((name, _written(value)))
    return dict(sorted(groups.items()))


def _flatten(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", _written(value)))
    return rows


def _written(value: object) -> str:
    match value:
        case None:
            return "not set"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(_written, value)) or "none"
    return str(value)


def _clause(result: MetricResult) -> str:
    values = f"({result.untuned}\u00a0→\u00a0{result.tuned})"
    # A headline that breaks inside a name reads badly: the hyphen does not break.
    name = "perplexity" if result.key == Metric.PERPLEXITY else result.name.replace("-", "\u2011")
    match result.verdict:
        case "unclear":
            return f"{name} does not clearly differ {values}"
        case verdict:
            rises = (verdict == "better") != (result.key in LOWER_IS_BETTER)
            return f"{name} {'rises' if rises else 'falls'} {values}"


def _result(
    key: str,
    *,
    name: str,
    untuned: Interval,
    tuned: Interval,
    difference: Interval,
    verdicts: Mapping[str, str],
) -> MetricResult:
    is_lower_better = key in LOWER_IS_BETTER
    verdict = judge(difference, is_lower_better=is_lower_better)
    low, high = (metric_change(end, key) for end in (difference.low, difference.high))
    return MetricResult(
        key=key,
        name=name,
        direction="lower is better" if is_lower_better else "higher is better",
        untuned=metric_value(untuned.mean, key),
        untuned_range=_range(untuned, key),
        tuned=metric_value(tuned.mean, key),
        tuned_range=_range(tuned, key),
        change=metric_change(difference.mean, key),
        change_range=f"{low} to {high}",
        verdict=verdict,
        verdict_text=verdicts[verdict],
    )


def _range(interval: Interval, key: str) -> str:
    return f"{metric_value(interval.low, key)} to {metric_value(interval.high, key)}"
