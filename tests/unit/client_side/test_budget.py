"""The lifetime ledger: what it charges and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_side.budget import BudgetLedger, BudgetPolicy, Reservation
from protocol.errors import (
    BudgetError,
    BudgetExceededError,
    ConfigurationError,
    UnaccountedReleaseError,
)
from protocol.ledger import DpSgdEvent, PrivacyUnit, ProxyKind
from tests.support.budgets import (
    DELTA,
    EPSILON,
    EVENTS,
    UNITS,
    digest,
    hand_out,
    reserve,
    reserve_and_start,
    start,
)


def test_statement_lists_both_reserved_events_with_their_composed_price(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reserve(ledger)

    statement = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=UNITS, delta=DELTA)

    assert statement.events == EVENTS
    assert statement.epsilon == EPSILON
    assert not statement.reproducible_noise


def test_second_run_on_the_same_records_is_added_to_the_first(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, run_id="run-1")
    reserve(ledger, run_id="run-2")

    statement = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=UNITS, delta=DELTA)

    assert statement.events == EVENTS * 2
    assert statement.epsilon > EPSILON


def test_one_shared_unit_makes_data_sets_count_together(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, run_id="run-1", unit_keys=["a", "b"])
    reserve(ledger, run_id="run-2", unit_keys=["b", "c"])

    statement = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=["c", "d"], delta=DELTA)
    both = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=["b"], delta=DELTA)

    assert len(statement.events) == 2
    assert len(both.events) == 4


def test_other_records_do_not_count(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, run_id="run-1", unit_keys=["a"])
    reserve(ledger, run_id="run-2", unit_keys=["z"])

    statement = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=["z"], delta=DELTA)

    assert len(statement.events) == 2


def test_order_and_repetition_of_units_do_not_matter(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    first = reserve(ledger, unit_keys=["a", "b"])

    again = ledger.find_reservation("run-1", unit_keys=["b", "a", "b"])

    assert again == first


def test_request_over_the_cap_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    policy = BudgetPolicy(lifetime_epsilon_cap=EPSILON * 1.05, delta=DELTA)
    reserve(ledger, run_id="run-1", policy=policy)
    before = (tmp_path / "ledger.jsonl").read_bytes()

    with pytest.raises(BudgetExceededError, match="lifetime_epsilon_cap"):
        reserve(ledger, run_id="run-2", policy=policy)

    assert (tmp_path / "ledger.jsonl").read_bytes() == before


def test_cap_holds_for_what_an_earlier_process_spent(tmp_path: Path) -> None:
    policy = BudgetPolicy(lifetime_epsilon_cap=EPSILON, delta=DELTA)
    reserve(BudgetLedger(tmp_path), run_id="run-1", policy=policy)

    with pytest.raises(BudgetExceededError):
        reserve(BudgetLedger(tmp_path), run_id="run-2", policy=policy)


def test_a_reservation_that_was_never_finished_stays_charged(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    crashed = reserve(ledger)
    start(ledger, crashed, ProxyKind.GENERATOR)

    again = reserve(ledger)

    assert again.reservation_id != crashed.reservation_id
    statement = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=UNITS, delta=DELTA)
    assert statement.events == EVENTS * 2


def test_only_a_training_that_was_begun_and_not_released_is_unfinished(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)

    def unfinished(proxy: ProxyKind = ProxyKind.GENERATOR, **others: Any) -> Reservation | None:
        given = {"run_id": "run-1", "unit_keys": UNITS, **others}
        return ledger.find_reservation(
            given["run_id"], unit_keys=given["unit_keys"], unfinished=proxy
        )

    reservation = reserve(ledger)
    before = unfinished()
    start(ledger, reservation, ProxyKind.GENERATOR)
    found = unfinished()
    others = [unfinished(ProxyKind.REWARD), unfinished(run_id="run-2"), unfinished(unit_keys=["z"])]
    hand_out(ledger, reservation, data=b"one")

    assert found is not None
    assert found.reservation_id == reservation.reservation_id
    assert [before, *others, unfinished()] == [None] * 5


def test_a_process_killed_between_paying_and_training_does_not_pay_twice(tmp_path: Path) -> None:
    first = reserve(BudgetLedger(tmp_path))

    assert reserve(BudgetLedger(tmp_path)) == first
    assert len(BudgetLedger(tmp_path).reservations()) == 1


def test_a_reservation_of_other_records_pays_for_nothing_of_these(tmp_path: Path) -> None:
    """The same run asks again after a record was exchanged; the new one must be charged too."""
    ledger = BudgetLedger(tmp_path)
    first = reserve(ledger, unit_keys=["a", "b"])

    second = reserve(ledger, unit_keys=["a", "c"])

    assert second.reservation_id != first.reservation_id
    of_the_new = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=["c"], delta=DELTA)
    of_both = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=["a"], delta=DELTA)
    assert of_the_new.events == EVENTS
    assert of_both.events == EVENTS * 2


def test_a_reservation_of_other_events_pays_for_none_of_these(tmp_path: Path) -> None:
    """The operator changed a setting that a request does not name, before anything was begun."""
    ledger = BudgetLedger(tmp_path)
    dearer = tuple(replace(event, noise_multiplier=0.8) for event in EVENTS)
    reserve(ledger)

    second = reserve(ledger, events=dearer)

    statement = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=UNITS, delta=DELTA)
    assert second.events == dearer
    assert statement.events == EVENTS + dearer


def test_one_event_pays_for_one_training(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reservation = reserve(ledger)
    start(ledger, reservation, ProxyKind.GENERATOR)

    start(ledger, reservation, ProxyKind.REWARD)
    with pytest.raises(UnaccountedReleaseError, match="begun"):
        start(ledger, reservation, ProxyKind.GENERATOR)

    (seen,) = ledger.reservations()
    assert seen.started == (ProxyKind.GENERATOR, ProxyKind.REWARD)


def test_training_without_reservation_cannot_start(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reservation = reserve(ledger, events=EVENTS[:1])

    with pytest.raises(UnaccountedReleaseError):
        ledger.start("none", proxy=ProxyKind.GENERATOR, request_digest=digest("run-1"))
    with pytest.raises(UnaccountedReleaseError):
        start(ledger, reservation, ProxyKind.REWARD)


@pytest.mark.parametrize("events", [(), (EVENTS[0], EVENTS[0])])
def test_reservation_needs_one_event_for_each_proxy(
    tmp_path: Path, events: tuple[DpSgdEvent, ...]
) -> None:
    with pytest.raises(UnaccountedReleaseError):
        reserve(BudgetLedger(tmp_path), events=events)


def test_repeated_request_gets_the_stored_bytes(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    hand_out(ledger, reserve_and_start(ledger), data=b"the release")

    assert BudgetLedger(tmp_path).find_release(digest("run-1")) == b"the release"
    assert BudgetLedger(tmp_path).find_release(digest("run-2")) is None


def test_answered_request_is_not_charged_again(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    hand_out(ledger, reserve_and_start(ledger), data=b"the release")

    with pytest.raises(BudgetError, match="find_release"):
        reserve(ledger)

    assert len(ledger.reservations()) == 1


def test_one_event_pays_for_one_release(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reservation = reserve_and_start(ledger)
    hand_out(ledger, reservation, data=b"one")

    with pytest.raises(UnaccountedReleaseError, match="first release"):
        hand_out(ledger, reservation, request="another", data=b"two")


def test_a_release_whose_training_was_not_noted_is_refused(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reservation = reserve(ledger)

    with pytest.raises(UnaccountedReleaseError, match="start"):
        hand_out(ledger, reservation, data=b"one")


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_stored_release_that_was_changed_is_not_sent(tmp_path: Path, damage: str) -> None:
    ledger = BudgetLedger(tmp_path)
    hand_out(ledger, reserve_and_start(ledger), data=b"the release")
    (path,) = (tmp_path / "releases").iterdir()
    if damage == "change":
        path.write_bytes(b"another one")
    else:
        path.unlink()

    with pytest.raises(BudgetError, match="gone or changed"):
        ledger.find_release(digest("run-1"))


@pytest.mark.parametrize("seeded", ["run-1", "run-2"])
def test_fixed_seed_marks_all_later_statements_of_these_records(
    tmp_path: Path, seeded: str
) -> None:
    ledger = BudgetLedger(tmp_path)
    for run_id in ("run-1", "run-2"):
        reserve(ledger, run_id=run_id, reproducible_noise=run_id == seeded)

    assert ledger.statement(
        unit=PrivacyUnit.RECORD, unit_keys=UNITS, delta=DELTA
    ).reproducible_noise


UNIT_CHANGES = [(PrivacyUnit.RECORD, PrivacyUnit.GROUP), (PrivacyUnit.GROUP, PrivacyUnit.RECORD)]


@pytest.mark.parametrize(("before", "after"), UNIT_CHANGES)
def test_what_was_counted_in_one_unit_is_never_added_up_in_the_other(
    tmp_path: Path, before: PrivacyUnit, after: PrivacyUnit
) -> None:
    """A person may own many records, so events for records say too little about a person.

    And one record less of a person who has several changes what he adds to a step from g to g',
    both of norm C at most: by up to 2 C, where an event for persons counts C.
    """
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, unit=before, unit_keys=["first"])
    kept = (tmp_path / "ledger.jsonl").read_bytes()

    with pytest.raises(BudgetError, match=f"privacy_unit={before.value}"):
        reserve(ledger, run_id="run-2", unit=after, unit_keys=["second"])
    with pytest.raises(BudgetError, match=f"found privacy_unit={after.value}"):
        ledger.statement(unit=after, unit_keys=["second"], delta=DELTA)

    assert (tmp_path / "ledger.jsonl").read_bytes() == kept


def test_no_protection_needs_the_unsafe_policy_and_spoils_the_records(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    naked = (DpSgdEvent(proxy=ProxyKind.GENERATOR, noise_multiplier=0.0, sample_rate=0.1, steps=1),)
    unsafe = BudgetPolicy(lifetime_epsilon_cap=8.0, delta=DELTA, unsafe_non_private=True)

    with pytest.raises(BudgetExceededError):
        reserve(ledger, events=naked)
    reserve(ledger, events=naked, policy=unsafe)
    with pytest.raises(BudgetExceededError):
        reserve(ledger, run_id="run-2")


def test_no_units_and_unknown_records_have_no_statement(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)

    with pytest.raises(UnaccountedReleaseError):
        reserve(ledger, unit_keys=[])
    with pytest.raises(UnaccountedReleaseError):
        ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=UNITS, delta=DELTA)


@pytest.mark.parametrize("change", [{"lifetime_epsilon_cap": 0.0}, {"delta": 1.0}])
def test_policy_refuses_a_value_out_of_range(change: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        BudgetPolicy(**{"lifetime_epsilon_cap": 8.0, "delta": DELTA, **change})  # type: ignore[arg-type]
