import copy
import dataclasses
import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest

from protocol.errors import StageError
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from server_side.evaluation import ArmScores, Metric, RowScores
from server_side.exchange.outcome import ClientOutcome
from server_side.json_values import to_json
from server_side.measuring.generator_fit import FitQuality
from server_side.measuring.intervals import Interval
from server_side.measuring.metrics import (
    SCHEMA_PATH,
    TuningEffort,
    build_metrics,
    read_metrics,
    write_metrics,
)
from server_side.measuring.repetition import measure_diversity
from server_side.measuring.win_rate import WinRate
from server_side.notes import PrivateOverlap, RunNotes, TextOverlap
from server_side.ranking import RankingQuality, ScoreQuality


def _arm(mean: float) -> ArmScores:
    interval = Interval(mean=mean, low=mean - 0.1, high=mean + 0.1)
    row = RowScores(num_samples=1, rouge={}, bleu_statistics=(0,) * 10, nll_sum=1.0, num_tokens=1)
    return ArmScores(
        metrics=MappingProxyType(dict.fromkeys(Metric, interval)),
        distinct=MappingProxyType({1: 0.5, 2: 0.9}),
        unfinished_fraction=0.1,
        mean_answer_words=40.0,
        rows=(row, row),
        answers=(("a",), ("b",)),
    )


def _ledger(epsilon: float = 7.9) -> PrivacyLedger:
    event = DpSgdEvent(proxy=ProxyKind.GENERATOR, noise_multiplier=0.8, sample_rate=0.1, steps=10)
    return PrivacyLedger(
        unit=PrivacyUnit.RECORD,
        events=(event, event),
        epsilon=epsilon,
        delta=1e-5,
        accountant="pld",
        accountant_version="0.6",
        reproducible_noise=False,
    )


def _metrics(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "run_id": "run-1",
        "seed": 0,
        "untuned": _arm(0.2),
        "tuned": _arm(0.3),
        "difference": dict.fromkeys(Metric, Interval(mean=0.1, low=0.05, high=0.15)),
        "pass_differences": {},
        "confidence_level": 0.95,
        "privacy": {"north": _ledger()},
        "seconds": {"07_queries": 2.0, "08_candidates_r1": 3.0},
        "peak_rss_bytes": 10**9,
        "counts": {"07_queries": {"sampled": 12, "kept": 9}},
    }
    return build_metrics(**(arguments | changes))


def test_schema_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA_PATH.read_text()))


def test_metrics_come_back_as_they_were_written(tmp_path: Path) -> None:
    metrics = _metrics()

    write_metrics(tmp_path / "metrics.json", metrics)

    assert read_metrics(tmp_path / "metrics.json") == metrics
    assert metrics["seconds"]["total"] == 5.0
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_metrics_hold_what_a_reader_is_promised() -> None:
    metrics = _metrics()

    for arm in ("untuned", "tuned"):
        for name in ("rouge1", "rouge2", "rougeL", "bleu", "perplexity"):
            assert metrics[arm][name].keys() == {"mean", "low", "high"}
    assert metrics["privacy"]["north"]["epsilon"] == 7.9
    assert metrics["privacy"]["north"]["delta"] == 1e-5


def test_generators_ranking_and_figures_are_there_where_they_were_measured(tmp_path: Path) -> None:
    interval = Interval(mean=0.1, low=0.0, high=0.2)
    score = ScoreQuality(best=interval, gain=interval, rank_correlation=interval)
    quality = RankingQuality(
        num_prompts=2,
        num_candidates=12,
        mean=interval,
        oracle=interval,
        reward_accuracy=interval,
        scores={"reward": score},
    )
    fit = FitQuality(untuned=interval, tuned=interval, difference=interval)
    metrics = _metrics(
        generators={"north": fit},
        ranking=quality,
        figures={"09_scored_r1": {"reward_length_correlation": -0.3}},
    )

    write_metrics(tmp_path / "metrics.json", metrics)

    found = read_metrics(tmp_path / "metrics.json")
    assert found["ranking"]["scores"]["reward"]["gain"] == {"mean": 0.1, "low": 0.0, "high": 0.2}
    assert found["figures"]["09_scored_r1"]["reward_length_correlation"] == -0.3
    assert found["generators"]["north"]["tuned"] == {"mean": 0.1, "low": 0.0, "high": 0.2}
    assert not {"generators", "ranking"} & _metrics().keys()


def test_what_only_some_runs_know_fits_the_schema_as_well(tmp_path: Path) -> None:
    side = TextOverlap(
        num_texts=3, found_ngram_fraction=0.1, texts_with_found_fraction=1.0,
        longest_common_words=14, longest_common_chars=80, num_identifiers_found=1,
    )  # fmt: skip
    overlap = PrivateOverlap(
        ngram_size=13, num_records=9, num_identifiers=4, synthetic=side, public=side
    )
    wins = WinRate(
        judge="judge-1", rate=Interval(mean=0.5, low=0.4, high=0.6), num_wins=1, num_ties=2,
        num_losses=1, num_contradictions=1, num_unanswered=0,
    )  # fmt: skip
    metrics = _metrics(
        tuning=TuningEffort(num_samples=8, num_steps=2, batch_size=4, num_samples_seen=8),
        synthetic=measure_diversity(["a b", "a c"]),
        win_rate=wins,
        notes=RunNotes(arm="dp_generate", tuned_on="synthetic", private_overlap=overlap),
    )

    write_metrics(tmp_path / "metrics.json", metrics)

    assert read_metrics(tmp_path / "metrics.json")["private_overlap"]["public"] == to_json(side)


def test_an_overlap_that_could_not_be_measured_is_null_and_says_whose_records_are_gone(
    tmp_path: Path,
) -> None:
    notes = RunNotes(arm="rewardds", tuned_on="synthetic", clients_without_records=("east",))

    write_metrics(tmp_path / "metrics.json", _metrics(notes=notes))

    found = read_metrics(tmp_path / "metrics.json")
    assert (found["private_overlap"], found["clients_without_records"]) == (None, ["east"])


def test_what_no_ledger_counts_is_written(tmp_path: Path) -> None:
    notes = RunNotes(arm="rewardds", tuned_on="synthetic", not_covered=("Sizes were counted.",))

    write_metrics(tmp_path / "metrics.json", _metrics(notes=notes))

    assert read_metrics(tmp_path / "metrics.json")["not_covered"] == ["Sizes were counted."]
    assert "not_covered" not in _metrics(notes=dataclasses.replace(notes, not_covered=()))


def test_clients_without_releases_are_named_with_their_answers(tmp_path: Path) -> None:
    lost = ClientOutcome(name="east", answers={"hello": "admitted", "generator": "no answer"})
    metrics = _metrics(without_releases=[lost])

    write_metrics(tmp_path / "metrics.json", metrics)

    assert read_metrics(tmp_path / "metrics.json")["clients_without_releases"] == [
        {"name": "east", "answers": {"hello": "admitted", "generator": "no answer"}}
    ]
    assert "clients_without_releases" not in _metrics()


def test_pass_rates_are_written_by_k_where_tests_were_run(tmp_path: Path) -> None:
    rates = {1: Interval(mean=0.2, low=0.1, high=0.3), 5: Interval(mean=0.5, low=0.4, high=0.6)}
    arm = dataclasses.replace(_arm(0.3), pass_at_k=rates)

    metrics = _metrics(tuned=arm, untuned=arm, pass_differences=rates)

    write_metrics(tmp_path / "metrics.json", metrics)
    found = read_metrics(tmp_path / "metrics.json")
    for part in ("untuned", "tuned", "difference"):
        assert found[part]["pass_at_k"].keys() == {"1", "5"}
        assert found[part]["pass_at_k"]["5"] == {"mean": 0.5, "low": 0.4, "high": 0.6}


def test_pass_rates_are_absent_where_no_tests_were_run() -> None:
    metrics = _metrics()

    assert all("pass_at_k" not in metrics[part] for part in ("untuned", "tuned", "difference"))


def test_infinite_epsilon_is_written_as_null(tmp_path: Path) -> None:
    """JSON has no infinity, and a large number in its place would look like a guarantee."""
    metrics = _metrics(privacy={"north": _ledger(math.inf)})

    write_metrics(tmp_path / "metrics.json", metrics)

    assert read_metrics(tmp_path / "metrics.json")["privacy"]["north"]["epsilon"] is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("untuned", "rougeL", "mean"), "high"),
        (("untuned", "rougeL", "mean"), math.nan),
        (("tuned", "perplexity", "high"), math.inf),
        (("privacy",), {}),
        (("privacy", "north", "delta"), 1.0),
        (("privacy", "north", "unit"), "token"),
        (("seconds", "total"), -1.0),
        (("peak_rss_bytes",), 1.5),
        (("surprise",), 1),
        (("format_version",), 2),
    ],
)
def test_metrics_that_do_not_fit_are_not_written(
    tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    metrics = copy.deepcopy(_metrics())
    inner = metrics
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value

    with pytest.raises(StageError, match=r"metrics\.schema\.json"):
        write_metrics(tmp_path / "metrics.json", metrics)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["untuned", "tuned", "privacy", "seconds", "peak_rss_bytes"])
def test_metrics_without_a_promised_part_are_refused(tmp_path: Path, name: str) -> None:
    metrics = _metrics()
    del metrics[name]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))

    with pytest.raises(StageError, match=name):
        read_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize("content", [None, b"", b'{"untuned": ', b"\xff\xfe"])
def test_metrics_that_cannot_be_read_are_one_clear_error(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(StageError, match="Run the job to its end"):
        read_metrics(path)
