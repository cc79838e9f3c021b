"""The lifetime ledger: what it charges, what it refuses, and that nothing can tear it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_side.budget import BudgetLedger, BudgetPolicy, Reservation
from client_side.ledger_file import LedgerFile
from protocol.accounting import composed_epsilon
from protocol.errors import (
    BudgetError,
    BudgetExceededError,
    ConfigurationError,
    UnaccountedReleaseError,
)
from protocol.ledger import DpSgdEvent, PrivacyUnit, ProxyKind

DELTA = 1e-5
EVENTS = tuple(
    DpSgdEvent(proxy=proxy, noise_multiplier=1.0, sample_rate=0.05, steps=10) for proxy in ProxyKind
)
EPSILON = composed_epsilon(EVENTS, delta=DELTA)
ROOMY = BudgetPolicy(lifetime_epsilon_cap=100.0, delta=DELTA)
CANARY = "canary-patient-7f3a"
UNITS = ("unit-1", "unit-2", CANARY)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def reserve(
    ledger: BudgetLedger,
    *,
    run_id: str = "run-1",
    unit_keys: Iterable[str] = UNITS,
    policy: BudgetPolicy = ROOMY,
    **others: Any,
) -> Reservation:
    given: dict[str, Any] = {
        "request_digest": digest(run_id),
        "events": EVENTS,
        "unit": PrivacyUnit.RECORD,
    }
    return ledger.reserve(run_id=run_id, unit_keys=unit_keys, policy=policy, **{**given, **others})


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


def hand_out(
    ledger: BudgetLedger, reservation: Reservation, *, request: str = "run-1", data: bytes
) -> None:
    ledger.record_release(
        reservation.reservation_id,
        proxy=ProxyKind.GENERATOR,
        request_digest=digest(request),
        release_bytes=data,
    )


def reserve_and_start(ledger: BudgetLedger) -> Reservation:
    reservation = reserve(ledger)
    ledger.start(reservation.reservation_id, proxy=ProxyKind.GENERATOR)
    return reservation


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
    ledger.start(crashed.reservation_id, proxy=ProxyKind.GENERATOR)

    again = reserve(ledger)

    assert again.reservation_id != crashed.reservation_id
    statement = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=UNITS, delta=DELTA)
    assert statement.events == EVENTS * 2


def test_a_process_killed_between_paying_and_training_does_not_pay_twice(tmp_path: Path) -> None:
    first = reserve(BudgetLedger(tmp_path))

    assert reserve(BudgetLedger(tmp_path)) == first
    assert len(BudgetLedger(tmp_path).reservations()) == 1


def test_one_event_pays_for_one_training(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reservation = reserve(ledger)
    ledger.start(reservation.reservation_id, proxy=ProxyKind.GENERATOR)

    ledger.start(reservation.reservation_id, proxy=ProxyKind.REWARD)
    with pytest.raises(UnaccountedReleaseError, match="begun"):
        ledger.start(reservation.reservation_id, proxy=ProxyKind.GENERATOR)

    (seen,) = ledger.reservations()
    assert seen.started == (ProxyKind.GENERATOR, ProxyKind.REWARD)


def test_training_without_reservation_cannot_start(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reservation = reserve(ledger, events=EVENTS[:1])

    with pytest.raises(UnaccountedReleaseError):
        ledger.start("no-such-reservation", proxy=ProxyKind.GENERATOR)
    with pytest.raises(UnaccountedReleaseError):
        ledger.start(reservation.reservation_id, proxy=ProxyKind.REWARD)


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


def test_fixed_seed_marks_all_later_statements_of_these_records(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, run_id="run-1", reproducible_noise=True)
    reserve(ledger, run_id="run-2")

    assert ledger.statement(
        unit=PrivacyUnit.RECORD, unit_keys=UNITS, delta=DELTA
    ).reproducible_noise


def test_records_counted_singly_cannot_be_called_persons_later(tmp_path: Path) -> None:
    """A person may own many records, so per-record events say too little about a person."""
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, unit=PrivacyUnit.RECORD, unit_keys=["record-1"])

    with pytest.raises(BudgetError, match="privacy_unit=record"):
        reserve(ledger, run_id="run-2", unit=PrivacyUnit.GROUP, unit_keys=["person-1"])


def test_releases_for_persons_count_for_their_records(tmp_path: Path) -> None:
    """Keys of persons and of records cannot be compared, so they are taken to overlap."""
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, unit=PrivacyUnit.GROUP, unit_keys=["person-1"])
    reserve(ledger, run_id="run-2", unit=PrivacyUnit.RECORD, unit_keys=["record-1"])

    statement = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=["record-1"], delta=DELTA)

    assert len(statement.events) == 4


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


def test_folder_reveals_no_unit_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    reserve(BudgetLedger(folder))

    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes()
            assert digest(CANARY).encode() not in path.read_bytes()
        assert CANARY not in path.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_same_records_have_other_names_in_another_folder(tmp_path: Path) -> None:
    """The key differs, so nobody can compare two clients' ledgers."""
    one = reserve(BudgetLedger(tmp_path / "one"))
    other = reserve(BudgetLedger(tmp_path / "other"))

    assert one.data_key != other.data_key


def test_missing_list_of_units_counts_as_overlap(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, unit_keys=["a"])
    (path,) = (tmp_path / "units").iterdir()
    path.unlink()

    statement = ledger.statement(unit=PrivacyUnit.RECORD, unit_keys=["z"], delta=DELTA)

    assert len(statement.events) == 2


def test_lost_key_stops_everything(tmp_path: Path) -> None:
    reserve(BudgetLedger(tmp_path))
    (tmp_path / "key").unlink()

    with pytest.raises(BudgetError, match="key"):
        BudgetLedger(tmp_path)


@pytest.mark.parametrize("position", [0, 40, -40])
def test_a_changed_ledger_line_stops_everything(tmp_path: Path, position: int) -> None:
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, run_id="run-1")
    reserve(ledger, run_id="run-2")
    path = tmp_path / "ledger.jsonl"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)

    with pytest.raises(BudgetError, match="found it changed"):
        ledger.reservations()


def test_a_removed_ledger_line_stops_everything(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    for run_id in ("run-1", "run-2", "run-3"):
        reserve(ledger, run_id=run_id)
    path = tmp_path / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])

    with pytest.raises(BudgetError, match="line 2"):
        ledger.reservations()


@given(fraction=st.floats(0.0, 1.0))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_append_cut_off_at_any_byte_leaves_the_state_before_it(
    tmp_path_factory: pytest.TempPathFactory, fraction: float
) -> None:
    """Whatever part of a line reached the disk, earlier entries stand and work goes on."""
    path = tmp_path_factory.mktemp("torn") / "ledger.jsonl"
    file = LedgerFile(path, key=b"k" * 32)
    file.append({"kind": "first"})
    whole = len(path.read_bytes())
    file.append({"kind": "second", "padding": "longer than what comes next " * 5})
    data = path.read_bytes()
    cut = whole + int(fraction * (len(data) - whole - 1))
    path.write_bytes(data[:cut])

    seen_after_the_crash = file.read()
    file.append({"kind": "third"})

    assert seen_after_the_crash == ({"kind": "first"},)
    assert file.read() == ({"kind": "first"}, {"kind": "third"})


def test_full_disk_takes_the_line_back_and_charges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, run_id="run-1")
    before = (tmp_path / "ledger.jsonl").read_bytes()
    really_write = os.pwrite

    def write_a_little(file: int, data: bytes, offset: int) -> int:
        if b'"reserve"' not in data:
            return really_write(file, data, offset)
        really_write(file, data[:20], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", write_a_little)
    with pytest.raises(BudgetError, match="No space left on device"):
        reserve(ledger, run_id="run-2")

    assert (tmp_path / "ledger.jsonl").read_bytes() == before


_RESERVING = """
import sys
from pathlib import Path
from client_side.budget import BudgetLedger, BudgetPolicy
from protocol.errors import BudgetExceededError
from protocol.ledger import DpSgdEvent, PrivacyUnit, ProxyKind
folder, name, cap = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
event = DpSgdEvent(
    proxy=ProxyKind.GENERATOR, noise_multiplier=4.0, sample_rate=0.05, steps=1
)
ledger = BudgetLedger(folder)
print("ready", flush=True)
for number in range(10_000):
    try:
        done = ledger.reserve(
            run_id=f"{name}-{number}", request_digest=f"{number:062x}{name}", events=[event],
            unit=PrivacyUnit.RECORD, unit_keys=["a", "b"],
            policy=BudgetPolicy(lifetime_epsilon_cap=cap, delta=1e-5),
        )
    except BudgetExceededError:
        break
    print(done.reservation_id, flush=True)
"""


def _start_reserving(folder: Path, name: str, cap: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _RESERVING, str(folder), name, str(cap)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def test_two_processes_at_once_stay_under_the_cap_and_lose_nothing(tmp_path: Path) -> None:
    one_event = DpSgdEvent(
        proxy=ProxyKind.GENERATOR, noise_multiplier=4.0, sample_rate=0.05, steps=1
    )
    cap = composed_epsilon([one_event] * 40, delta=DELTA)

    processes = [_start_reserving(tmp_path, name, cap) for name in ("aa", "bb")]
    printed = [process.communicate(timeout=120)[0].split() for process in processes]

    told = [line for lines in printed for line in lines if line != "ready"]
    kept = BudgetLedger(tmp_path).reservations()
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(item.reservation_id for item in kept) == sorted(told)
    events = [event for item in kept for event in item.events]
    assert composed_epsilon(events, delta=DELTA) <= cap
    assert len(kept) >= 39


def test_kill_at_any_moment_loses_no_reservation_that_was_told(tmp_path: Path) -> None:
    told: list[str] = []
    for number in range(4):
        process = _start_reserving(tmp_path, f"{number:02d}", 1000.0)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.037 * number)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        told += [line for line in rest.splitlines() if len(line) == 16]

    kept = [item.reservation_id for item in BudgetLedger(tmp_path).reservations()]

    assert set(told) <= set(kept)
    assert len(kept) == len(set(kept))
    assert len(kept) - len(told) <= 4
    assert told


def test_ledger_lines_are_json_that_people_can_read(tmp_path: Path) -> None:
    reserve(BudgetLedger(tmp_path), requested_by="node 7")

    (line,) = (tmp_path / "ledger.jsonl").read_text().splitlines()

    entry = json.loads(line)["entry"]
    assert entry["kind"] == "reserve"
    assert entry["reservation"]["requested_by"] == "node 7"
