"""Rows for every attack and kind, bounds for one row and for all of them, and what is shown."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from protocol.ledger import DpSgdEvent, ProxyKind
from simulations.audit.auditing import AuditResult
from simulations.audit.config import CanaryKind
from simulations.audit.judging import AttackScores, AuditRow, judge_scores
from simulations.audit.views import PLOT_FILE, RESULT_FILE, show_result, verdict, write_result

KINDS = [CanaryKind.NEW_TOKEN, CanaryKind.RANDOM_SUFFIX] * 100
COINS = np.random.default_rng(0).random(200) < 0.5
TELLING = AttackScores(
    release="generator", attack="gradient", values=COINS.astype(float).tolist(), claimed_epsilon=1.0
)
BLIND = AttackScores(
    release="text",
    attack="bigrams",
    values=np.random.default_rng(1).random(200).tolist(),
    claimed_epsilon=1.0,
)


def judged(*scores: AttackScores, kinds: list[CanaryKind] = KINDS) -> tuple[AuditRow, ...]:
    return judge_scores(scores, kinds=kinds, coins=COINS, delta=1e-5, confidence_level=0.95)


def result(*scores: AttackScores) -> AuditResult:
    event = DpSgdEvent(proxy=ProxyKind.GENERATOR, noise_multiplier=1.0, sample_rate=0.1, steps=2)
    return AuditResult(
        rows=judged(*scores),
        events=(event,),
        epsilon=1.0,
        delta=1e-5,
        num_included=int(COINS.sum()),
        confidence_level=0.95,
    )


def test_every_attack_is_judged_over_all_and_over_each_kind() -> None:
    rows = judged(TELLING, BLIND)

    assert [(row.attack, row.kind, row.num_canaries) for row in rows] == [
        (attack, kind, number)
        for attack in ("gradient", "bigrams")
        for kind, number in (("all", 200), ("new_token", 100), ("random_suffix", 100))
    ]


def test_one_kind_alone_has_no_row_for_all() -> None:
    rows = judged(TELLING, kinds=[CanaryKind.NEW_TOKEN] * 200)

    assert [row.kind for row in rows] == ["new_token"]


def test_a_bound_that_holds_for_all_rows_is_no_larger_than_one_that_holds_alone() -> None:
    rows = judged(TELLING, BLIND)

    assert all(row.joint_epsilon <= row.epsilon for row in rows)
    assert rows[0].joint_epsilon < rows[0].epsilon


@pytest.mark.parametrize(("scores", "is_broken"), [(TELLING, True), (BLIND, False)])
def test_the_verdict_follows_the_bound_that_holds_for_all_rows(
    scores: AttackScores, is_broken: bool
) -> None:
    found = result(scores)

    assert found.exceeds_claim is is_broken
    assert ("FALSE" in verdict(found)) is is_broken


def test_the_table_fits_80_columns_and_names_every_attack() -> None:
    output = io.StringIO()

    show_result(result(TELLING, BLIND), console=Console(file=output, width=80))

    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "gradient" in output.getvalue()
    assert "bigrams" in output.getvalue()


def test_a_confidence_level_is_not_rounded_up_to_certainty(tmp_path: Path) -> None:
    output = io.StringIO()
    strict = replace(result(BLIND), confidence_level=0.999)

    show_result(strict, console=Console(file=output, width=80))
    write_result(strict, tmp_path)

    assert "99.9% confidence" in output.getvalue()
    assert "99.9% confidence" in (tmp_path / PLOT_FILE).read_text(encoding="utf-8")


def test_json_and_plot_are_written_and_hold_the_rows(tmp_path: Path) -> None:
    write_result(result(TELLING, BLIND), tmp_path)

    document = json.loads((tmp_path / RESULT_FILE).read_text(encoding="utf-8"))
    assert len(document["rows"]) == 6
    assert document["exceeds_claim"] is True
    assert document["events"][0]["proxy"] == "generator"
    assert "text: bigrams" in (tmp_path / PLOT_FILE).read_text(encoding="utf-8")


def test_an_audit_without_noise_and_with_coins_that_are_alike_can_be_written_and_shown(
    tmp_path: Path,
) -> None:
    """The first is the control that must be broken; the second comes with few canaries."""
    (row, *others) = judged(replace(TELLING, claimed_epsilon=math.inf))
    found = replace(
        result(TELLING), rows=(replace(row, area_under_curve=None), *others), epsilon=math.inf
    )
    output = io.StringIO()

    write_result(found, tmp_path)
    show_result(found, console=Console(file=output, width=80))

    document = json.loads((tmp_path / RESULT_FILE).read_text(encoding="utf-8"))
    assert (document["epsilon"], document["rows"][0]["claimed_epsilon"]) == (None, None)
    assert document["rows"][0]["area_under_curve"] is None
    assert "inf" in output.getvalue()
