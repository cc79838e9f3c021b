"""What a simulation adds to a run: the overlap looks at who took part, and costs no output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from protocol.ledger import ProxyKind
from server_side.admission import AdmittedRelease
from server_side.config import EvaluationConfig
from server_side.notes import RunNotes, SelectionPrice
from simulations import annotating
from simulations.annotating import annotate_run, not_covered
from simulations.config import DomainConfig, SimulateConfig, TunedOn
from simulations.prepare import World, prepare_world
from tests.support.curated import curated
from tests.support.laid_out import rows_of, simulation, with_records

CONFIG = simulation()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return prepare_world(CONFIG, tmp_path)


def released(*names: str, proxies: Sequence[ProxyKind] = tuple(ProxyKind)) -> list[AdmittedRelease]:
    found = [SimpleNamespace(client_name=name, proxy=proxy) for name in names for proxy in proxies]
    return cast(list[AdmittedRelease], found)


def annotate(
    world: World,
    releases: Sequence[AdmittedRelease],
    *,
    config: SimulateConfig = CONFIG,
    selection: SelectionPrice | None = None,
) -> RunNotes:
    return annotate_run(
        [curated("q1", 1.0)], config=config, world=world, releases=releases, selection=selection
    )


def test_records_of_a_run_that_stands_to_be_selected_are_not_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The price is of what was released, and no ledger pays for an overlap."""
    read = Mock(side_effect=AssertionError("records were read"))
    monkeypatch.setattr(annotating, "read_owned_records", read)
    price = SelectionPrice(epsilon=4.0, delta=1e-5)

    notes = annotate(world, released("client-1", "client-2"), selection=price)

    assert notes == RunNotes(arm=CONFIG.arm, tuned_on=CONFIG.tuned_on.value, selection=price)


def num_distinct(rows: Sequence[dict[str, str]]) -> int:
    return len({(row["prompt"], row["response"]) for row in rows})


def test_the_overlap_is_that_with_the_records_of_all_who_took_part(world: World) -> None:
    first, second = rows_of(world)

    notes = annotate(world, released("client-1", "client-2"))

    assert notes.private_overlap is not None
    assert notes.private_overlap.num_records == num_distinct([*first, *second])


@pytest.mark.parametrize("flaw", ["removed", "grown", "torn"])
def test_records_of_a_client_that_took_no_part_are_not_looked_at(world: World, flaw: str) -> None:
    first, _ = rows_of(world)
    spoil(world, flaw)
    releases = released("client-1") + released("client-2", proxies=[ProxyKind.GENERATOR])

    notes = annotate(world, releases)

    assert notes.private_overlap is not None
    assert notes.private_overlap.num_records == num_distinct(first)
    assert notes.clients_without_records == ()


@pytest.mark.parametrize("flaw", ["removed", "grown", "torn"])
def test_records_that_cannot_be_read_any_more_cost_the_overlap_and_a_warning_alone(
    world: World, flaw: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(world, flaw)

    notes = annotate(world, released("client-1", "client-2"))

    assert notes.private_overlap is None
    assert notes.clients_without_records == ("client-2",)
    assert notes.arm == CONFIG.arm
    assert "those of client-2 cannot be read any more: Expected" in caplog.text


def spoil(world: World, flaw: str) -> None:
    file = world.clients[1].path / "records.jsonl"
    match flaw:
        case "removed":
            file.unlink()
        case "grown":  # beyond what its declared_size allows
            rows = (f'{{"prompt": "Why {i}?", "response": "So."}}\n' for i in range(300))
            file.write_text("".join(rows), encoding="utf-8")
        case "torn":
            file.write_bytes(file.read_bytes()[:-20])


def test_fiction_has_nothing_that_a_ledger_does_not_cover(world: World) -> None:
    assert not_covered(CONFIG) == ()
    assert annotate(world, released("client-1", "client-2")).not_covered == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ["was counted", "among 2 clients", "split off", "private_overlap"]),
        ({"declare_sizes": False}, ["among 2 clients", "split off", "private_overlap"]),
        ({"num_clients": 1}, ["was counted", "split off", "private_overlap"]),
        ({"tuned_on": TunedOn.PRIVATE_RECORDS_DP}, ["was counted", "among 2 clients", "split off"]),
    ],
)
def test_what_depends_on_own_records_beside_the_releases_is_said(
    changes: dict[str, Any], told: list[str]
) -> None:
    start = with_records(simulation(**{"num_clients": 2} | changes), path="mine.jsonl")

    sentences = not_covered(start)

    assert len(sentences) == len(told)
    assert all(word in text for word, text in zip(told, sentences, strict=True))


def test_a_named_test_file_still_loses_what_stands_among_the_records() -> None:
    own = DomainConfig(path="mine.jsonl", instruction="Answer.")
    server = replace(CONFIG.server_side, evaluation=EvaluationConfig(instruction="Answer."))

    sentences = not_covered(
        simulation(num_clients=2, domains={"client-2": own}, server_side=server)
    )

    assert "prompt stands among the records were left out" in sentences[1]
    assert not [text for text in sentences if "dealt out" in text]
