"""The lifetime ledger on the disk: nothing tears it, reveals a unit, or spends past the cap."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_side.budget import BudgetLedger
from client_side.ledger_file import LedgerFile, write_whole
from protocol.accounting import composed_epsilon
from protocol.documents import Json, dump_canonical
from protocol.errors import BudgetError
from protocol.ledger import DpSgdEvent, PrivacyUnit, ProxyKind
from tests.support.budgets import (
    CANARY,
    DELTA,
    UNITS,
    digest,
    reserve,
    start,
)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bytes | list[str]]]:
    """What reached the disk, in order: a file's path and content, a folder's path and names."""
    seen: list[tuple[Path, bytes | list[str]]] = []
    fsync = os.fsync

    def note(file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        fsync(file)
        names = sorted(item.name for item in path.iterdir()) if path.is_dir() else None
        seen.append((path, path.read_bytes() if names is None else names))

    monkeypatch.setattr(os, "fsync", note)
    return seen


def test_a_line_is_on_the_disk_before_its_append_returns(
    tmp_path: Path, synced: list[tuple[Path, bytes | list[str]]]
) -> None:
    """A kill spares what the kernel holds; a cut of power does not, and the cost would be free."""
    path = tmp_path / "ledger.jsonl"
    file = LedgerFile(path, key=b"k" * 32)

    file.append({"a": 1})
    # The first line makes the file, whose name stands in the folder.
    assert synced == [(path, path.read_bytes()), (tmp_path, ["ledger.jsonl"])]

    file.append({"a": 2})
    assert synced[2:] == [(path, path.read_bytes())]


def test_a_whole_file_is_on_the_disk_before_it_takes_its_name_and_its_name_thereafter(
    tmp_path: Path, synced: list[tuple[Path, bytes | list[str]]]
) -> None:
    path = tmp_path / "release"
    path.write_bytes(b"before")

    write_whole(path, b"after")

    (partial, content), folder = synced
    assert (partial.parent, content) == (tmp_path, b"after")
    assert partial != path
    assert folder == (tmp_path, ["release"])


def test_what_a_reservation_names_is_on_the_disk_before_its_line(
    tmp_path: Path, synced: list[tuple[Path, bytes | list[str]]]
) -> None:
    """A line whose list of units is lost would have to count for every record."""
    ledger = BudgetLedger(tmp_path)
    synced.clear()

    reserve(ledger)

    line = (tmp_path / "ledger.jsonl", (tmp_path / "ledger.jsonl").read_bytes())
    (units,) = (tmp_path / "units").iterdir()
    assert synced.index((units.parent, [units.name])) < synced.index(line)


def test_folder_reveals_no_unit_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    reserve(BudgetLedger(folder))

    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        if path.is_file():
            content = path.read_bytes()
            assert CANARY.encode() not in content
            # Nor a hash that anybody could compute, in figures or, as hashes are kept, in bytes.
            assert digest(CANARY).encode() not in content
            assert bytes.fromhex(digest(CANARY))[:16] not in content
        assert CANARY not in path.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_same_records_have_other_names_in_another_folder(tmp_path: Path) -> None:
    """The key differs, so nobody can compare two clients' ledgers."""
    one = reserve(BudgetLedger(tmp_path / "one"))
    other = reserve(BudgetLedger(tmp_path / "other"))

    assert one.data_key != other.data_key
    hashes, others = (_unit_hashes(tmp_path / name) for name in ("one", "other"))
    assert len(hashes) == len(others) == len(UNITS)
    assert hashes.isdisjoint(others)


def _unit_hashes(folder: Path) -> set[bytes]:
    (path,) = (folder / "units").iterdir()
    data = path.read_bytes()
    return {data[start : start + 16] for start in range(0, len(data), 16)}


UNREADABLE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "empty": lambda data: b"",
    "one entry is gone": lambda data: data[16:],
    "one byte is another": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "cut off inside an entry": lambda data: data[:-1],
    "a byte too many": lambda data: data + b"x",
}


@pytest.mark.parametrize("damage", [None, *UNREADABLE])
def test_a_list_of_units_that_is_not_as_it_was_written_counts_as_overlap(
    tmp_path: Path, damage: str | None
) -> None:
    """Whose hash it lacks would otherwise start at zero again."""
    ledger = BudgetLedger(tmp_path)
    reserve(ledger, unit_keys=["a", "b"])
    (path,) = (tmp_path / "units").iterdir()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(UNREADABLE[damage](path.read_bytes()))

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


def test_a_line_of_another_ledger_under_the_same_key_stops_everything(tmp_path: Path) -> None:
    """A restored copy of the folder goes on under the same key; each line names the one before."""
    one, other = (tmp_path / name for name in ("one", "other"))
    for path in (one, other):
        file = LedgerFile(path, key=b"k" * 32)
        for number in range(3):
            file.append({"of": path.name, "count": number})
    kept, foreign = (path.read_bytes().splitlines(keepends=True) for path in (one, other))
    one.write_bytes(b"".join([*kept[:2], foreign[2]]))

    with pytest.raises(BudgetError, match="line 3"):
        LedgerFile(one, key=b"k" * 32).read()


def test_a_line_that_was_written_without_the_key_stops_everything(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    file = LedgerFile(path, key=b"k" * 32)
    file.append({"kind": "first"})
    entry: dict[str, Json] = {"kind": "second"}
    previous = json.loads(path.read_bytes())["hash"]
    forged = hashlib.sha256(dump_canonical([previous, 1, entry])).hexdigest()
    line = dump_canonical({"entry": entry, "hash": forged, "number": 1})
    path.write_bytes(path.read_bytes() + line + b"\n")

    with pytest.raises(BudgetError, match="line 2"):
        file.read()


def test_a_ledger_that_was_written_under_another_key_stops_everything(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    LedgerFile(path, key=b"k" * 32).append({"kind": "first"})

    with pytest.raises(BudgetError, match="line 1"):
        LedgerFile(path, key=b"j" * 32).read()


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
    with pytest.raises(BudgetError, match=r"No space left on device.* Nothing was charged\."):
        reserve(ledger, run_id="run-2")

    assert (tmp_path / "ledger.jsonl").read_bytes() == before


def test_a_start_that_finds_no_room_does_not_say_that_nothing_was_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reservation was, and asking again uses that one."""
    ledger = BudgetLedger(tmp_path)
    reservation = reserve(ledger)

    def full(file: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(BudgetError, match="this line was not written") as caught:
        start(ledger, reservation, ProxyKind.GENERATOR)

    assert "charged" not in str(caught.value)
    (found,) = ledger.reservations()
    assert not found.started


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
        if number:  # a slow machine may reserve nothing within the pause
            told.append(process.stdout.readline().strip())
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
