"""The lifetime ledger as its operator sees it: the figures that decide about the next request."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from client_side import reservations
from client_side.budget import BudgetLedger, BudgetPolicy, Reservation
from client_side.folder import ClientFolder
from client_side.spending import Progress, read_spending
from lm.errors import LmError
from lm.settings import save_settings
from protocol.accounting import PlannedRun, calibrate, composed_epsilon
from protocol.errors import BudgetError
from protocol.ledger import DpSgdEvent, PrivacyUnit, ProxyKind
from tests.support.budgets import start
from tests.support.clients import NUM_RECORDS, client_config, make_client

DELTA = 1e-5
EVENTS = tuple(
    DpSgdEvent(proxy=proxy, noise_multiplier=1.0, sample_rate=0.05, steps=10) for proxy in ProxyKind
)
ONCE, TWICE = (composed_epsilon(EVENTS * times, delta=DELTA) for times in (1, 2))
CAP = 8.0


@pytest.fixture
def folder(tmp_path: Path) -> ClientFolder:
    return make_client(tmp_path / "node", client_config(tmp_path))


def reserve(
    folder: ClientFolder,
    run_id: str,
    *,
    units: Iterable[str] = ("unit-1", "unit-2"),
    events: Sequence[DpSgdEvent] = EVENTS,
    unit: PrivacyUnit = PrivacyUnit.RECORD,
) -> Reservation:
    return BudgetLedger(folder.ledger_folder).reserve(
        run_id=run_id,
        request_digest=hashlib.sha256(run_id.encode()).hexdigest(),
        events=events,
        unit=unit,
        unit_keys=units,
        policy=BudgetPolicy(lifetime_epsilon_cap=1e6, delta=DELTA, unsafe_non_private=True),
        requested_by="clinic board",
    )


def test_a_new_client_has_spent_nothing_and_looking_leaves_no_trace(folder: ClientFolder) -> None:
    before = sorted(folder.path.rglob("*"))

    spending = read_spending(folder)

    assert spending.spendings == ()
    assert spending.lifetime_epsilon_cap == CAP
    assert sorted(folder.path.rglob("*")) == before


def test_a_folder_without_settings_is_no_client(tmp_path: Path) -> None:
    with pytest.raises(LmError, match=r"client_node\.yaml"):
        read_spending(ClientFolder(path=tmp_path))


def test_runs_on_the_same_records_are_composed_in_their_order(folder: ClientFolder) -> None:
    reserve(folder, "run-1")
    reserve(folder, "run-2")

    first, second = read_spending(folder).spendings

    assert (first.reservation.run_id, second.reservation.run_id) == ("run-1", "run-2")
    assert first.reservation.requested_by == "clinic board"
    assert (first.epsilon, second.epsilon) == (ONCE, ONCE)
    assert (first.epsilon_so_far, second.epsilon_so_far) == (ONCE, TWICE)
    assert second.left == pytest.approx(CAP - TWICE)


@pytest.mark.parametrize("target_epsilon", [8.0, 2.0])
def test_what_one_more_run_at_the_present_settings_would_make_is_told(
    folder: ClientFolder, target_epsilon: float
) -> None:
    reserve(folder, "run-1")
    reserve(folder, "run-2")
    config = folder.load_config()
    config = replace(config, budget=replace(config.budget, target_epsilon=target_epsilon))
    save_settings(config, folder.settings_file)

    (data_set,) = read_spending(folder).data_sets

    planned = calibrate(
        [
            PlannedRun(proxy=proxy, sample_rate=6 / NUM_RECORDS, steps=2, noise_ratio=1.0)
            for proxy in ProxyKind
        ],
        target_epsilon=target_epsilon,
        target_delta=DELTA,
    ).events
    assert data_set.num_events == 4
    assert data_set.epsilon == TWICE
    assert data_set.next_epsilon == composed_epsilon((*EVENTS, *EVENTS, *planned), delta=DELTA)
    assert data_set.left == pytest.approx(CAP - TWICE)


def test_the_sum_is_the_one_that_certificates_state(folder: ClientFolder) -> None:
    reserve(folder, "run-1", units=("unit-1", "unit-2"))
    reserve(folder, "run-2", units=("unit-2", "unit-3"))

    statement = BudgetLedger(folder.ledger_folder).statement(
        unit=PrivacyUnit.RECORD, unit_keys=("unit-2", "unit-3"), delta=DELTA
    )

    assert read_spending(folder).spendings[-1].epsilon_so_far == statement.epsilon == TWICE


def test_data_sets_that_share_no_unit_do_not_add_up(folder: ClientFolder) -> None:
    reserve(folder, "run-1", units=("unit-1",))
    reserve(folder, "run-2", units=("unit-2",))

    spending = read_spending(folder)

    assert [item.data_set for item in spending.spendings] == [1, 2]
    assert [item.epsilon_so_far for item in spending.spendings] == [ONCE, ONCE]
    assert [item.epsilon for item in spending.data_sets] == [ONCE, ONCE]


def test_a_data_set_whose_units_are_lost_counts_with_everything(folder: ClientFolder) -> None:
    reserve(folder, "run-1", units=("unit-1",))
    second = reserve(folder, "run-2", units=("unit-2",))
    (folder.ledger_folder / "units" / f"{second.data_key}.keys").unlink()

    spending = read_spending(folder)

    assert spending.spendings[1].epsilon_so_far == TWICE
    assert [item.epsilon for item in spending.data_sets] == [TWICE, TWICE]


def test_what_was_never_released_is_charged_and_shown_as_such(folder: ClientFolder) -> None:
    reservation = reserve(folder, "run-1")
    ledger = BudgetLedger(folder.ledger_folder)
    for proxy in ProxyKind:
        start(ledger, reservation, proxy)
    ledger.record_release(
        reservation.reservation_id,
        proxy=ProxyKind.GENERATOR,
        request_digest=reservation.request_digest,
        release_bytes=b"bytes",
    )
    reserve(folder, "run-2", units=("unit-9",))

    begun, waiting = read_spending(folder).spendings

    assert begun.progress == {
        ProxyKind.GENERATOR: Progress.RELEASED,
        ProxyKind.REWARD: Progress.STARTED,
    }
    assert set(waiting.progress.values()) == {Progress.RESERVED}
    assert begun.epsilon == ONCE


def test_a_release_without_noise_leaves_nothing(folder: ClientFolder) -> None:
    reserve(folder, "run-1", events=[replace(event, noise_multiplier=0.0) for event in EVENTS])

    (item,) = read_spending(folder).spendings

    assert item.epsilon_so_far == math.inf
    assert item.left == 0.0


def test_a_ledger_that_counts_in_two_units_is_not_summed_up(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version let one through; its sum would say too little about a record."""
    with monkeypatch.context() as patch:
        patch.setattr(reservations, "check_units", lambda *_, **__: None)
        reserve(folder, "run-1", unit=PrivacyUnit.GROUP)
        reserve(folder, "run-2", unit=PrivacyUnit.RECORD)

    with pytest.raises(BudgetError, match="do not add up"):
        read_spending(folder)


def test_a_ledger_that_was_edited_is_not_summed_up(folder: ClientFolder) -> None:
    reserve(folder, "run-1")
    file = folder.ledger_folder / "ledger.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"steps":10', b'"steps":1'))

    with pytest.raises(BudgetError, match="found it changed"):
        read_spending(folder)
