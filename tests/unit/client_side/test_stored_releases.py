"""A log that lost what the releases beside it were trained under is refused; a crash never is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.app import answer_bytes
from client_side.budget import BudgetLedger, BudgetPolicy, Reservation
from client_side.folder import ClientFolder
from client_side.ledger_file import LedgerFile, write_whole
from client_side.spending import read_spending
from protocol.documents import Json
from protocol.errors import BudgetError, BudgetExceededError, RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import Refusal, ReleaseReply, TrainingRequest
from protocol.wire import decode_bytes, encode_bytes
from tests.support.budgets import (
    DELTA,
    EPSILON,
    digest,
    hand_out,
    request_of,
    reserve,
    reserve_and_start,
    start,
)
from tests.support.clients import client_config, make_client, training_request

REFUSED = "Expected .*ledger.jsonl to hold the start of every training"
TIGHT = BudgetPolicy(lifetime_epsilon_cap=EPSILON * 1.01, delta=DELTA)


def train(ledger: BudgetLedger, run_id: str, *, proxies: tuple[ProxyKind, ...]) -> Reservation:
    """Pay for a run's two proxies and hand some out, each for a request of its own."""
    reservation = reserve(ledger, run_id=run_id)
    for proxy in proxies:
        start(ledger, reservation, proxy)
        note_release(ledger, reservation, proxy)
    return reservation


def note_release(ledger: BudgetLedger, reservation: Reservation, proxy: ProxyKind) -> None:
    ledger.record_release(
        reservation.reservation_id,
        proxy=proxy,
        request_digest=request_of(reservation, proxy),
        release_bytes=f"{reservation.run_id} {proxy.value}".encode(),
    )


def cut(folder: Path, *, num_lines: int) -> None:
    """Keep the first lines of the log, as an older copy of it holds them."""
    path = folder / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:num_lines]))


def store_without_noting(
    ledger: BudgetLedger, reservation: Reservation, proxy: ProxyKind, patch: pytest.MonkeyPatch
) -> None:
    """Crash after a release was stored and before its line is written."""

    def die(self: LedgerFile, entry: dict[str, Json]) -> None:
        raise KeyboardInterrupt

    with patch.context() as inner:
        inner.setattr(LedgerFile, "append", die)
        with pytest.raises(KeyboardInterrupt):
            note_release(ledger, reservation, proxy)


def delete(folder: Path) -> None:
    (folder / "ledger.jsonl").unlink()


def empty(folder: Path) -> None:
    (folder / "ledger.jsonl").write_bytes(b"")


def tear_first_line(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:40])


def cut_before_start(folder: Path) -> None:
    cut(folder, num_lines=1)


LOSSES = [delete, empty, tear_first_line, cut_before_start]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_log_that_lost_the_start_of_a_stored_release_gives_no_cap_out_anew(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    ledger = BudgetLedger(tmp_path)
    hand_out(ledger, reserve_and_start(ledger), data=b"the release")
    with pytest.raises(BudgetExceededError):
        reserve(ledger, run_id="run-2", policy=TIGHT)
    lose(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    with pytest.raises(BudgetError, match=f"{REFUSED}.*Restore it from the newest backup"):
        BudgetLedger(tmp_path)

    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("lose", LOSSES)
def test_a_log_that_lost_the_start_of_a_stored_release_is_not_summed_up(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    """The operator must not read that nothing was spent."""
    client = make_client(tmp_path / "node", client_config(tmp_path))
    ledger = BudgetLedger(client.ledger_folder)
    hand_out(ledger, reserve_and_start(ledger), data=b"the release")
    lose(client.ledger_folder)

    with pytest.raises(BudgetError, match=REFUSED):
        read_spending(client)


def test_a_client_whose_log_was_emptied_trains_nothing_and_tells_its_operator_alone(
    tmp_path: Path, tiny_llama: Path
) -> None:
    client = make_client(tmp_path / "node", client_config(tiny_llama))
    first = training_request(tiny_llama, ProxyKind.GENERATOR)
    decode_bytes(answer(client, first), ReleaseReply)
    empty(client.ledger_folder)

    replies = [answer(client, request) for request in (first, replace(first, run_id="run-2"))]

    assert [decode_bytes(reply, Refusal).code for reply in replies] == [RefusalCode.INTERNAL] * 2
    assert (client.ledger_folder / "ledger.jsonl").read_bytes() == b""
    assert "Restore it from the newest backup" in client.status_file.read_text(encoding="utf-8")


def answer(client: ClientFolder, request: TrainingRequest) -> bytes:
    return answer_bytes(request.proxy.value, encode_bytes(request), folder=client.path)


def test_the_log_put_back_is_gone_on_with(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    hand_out(ledger, reserve_and_start(ledger), data=b"the release")
    backup = (tmp_path / "ledger.jsonl").read_bytes()
    empty(tmp_path)
    with pytest.raises(BudgetError, match=REFUSED):
        BudgetLedger(tmp_path)

    (tmp_path / "ledger.jsonl").write_bytes(backup)

    assert BudgetLedger(tmp_path).find_release(digest("run-1")) == b"the release"


def test_a_log_older_than_the_newest_release_is_refused(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path)
    train(ledger, "run-1", proxies=tuple(ProxyKind))
    older = (tmp_path / "ledger.jsonl").read_bytes()
    train(ledger, "run-2", proxies=(ProxyKind.GENERATOR,))
    (tmp_path / "ledger.jsonl").write_bytes(older)

    with pytest.raises(BudgetError, match=REFUSED):
        BudgetLedger(tmp_path)


@pytest.mark.parametrize("proxy", list(ProxyKind))
def test_a_training_that_was_given_up_explains_no_release_of_another(
    tmp_path: Path, proxy: ProxyKind
) -> None:
    ledger = BudgetLedger(tmp_path)
    given_up = train(ledger, "given-up", proxies=tuple(ProxyKind)[: list(ProxyKind).index(proxy)])
    start(ledger, given_up, proxy)
    num_lines = len((tmp_path / "ledger.jsonl").read_bytes().splitlines())
    train(ledger, "run-1", proxies=(ProxyKind.GENERATOR,))
    cut(tmp_path, num_lines=num_lines)

    with pytest.raises(BudgetError, match=REFUSED):
        BudgetLedger(tmp_path)


@pytest.mark.parametrize(("num_lines", "num_missing"), [(4, 2), (5, 2), (6, 2), (7, 1), (8, 1)])
def test_each_release_wants_the_start_of_its_own_training(
    tmp_path: Path, num_lines: int, num_missing: int
) -> None:
    ledger = BudgetLedger(tmp_path)
    train(ledger, "run-1", proxies=tuple(ProxyKind))
    train(ledger, "run-2", proxies=tuple(ProxyKind))
    cut(tmp_path, num_lines=num_lines)

    with pytest.raises(BudgetError, match=f"{REFUSED}.*found {num_missing} in releases/"):
        BudgetLedger(tmp_path)


def test_a_lost_key_is_not_replaced_where_a_release_is_stored(tmp_path: Path) -> None:
    """A new key would read no log that is put back later."""
    ledger = BudgetLedger(tmp_path)
    hand_out(ledger, reserve_and_start(ledger), data=b"the release")
    delete(tmp_path)
    (tmp_path / "key").unlink()

    with pytest.raises(BudgetError, match="key of the ledger"):
        BudgetLedger(tmp_path)

    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("proxy", list(ProxyKind))
def test_a_crash_between_storing_and_noting_a_release_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: ProxyKind
) -> None:
    ledger = BudgetLedger(tmp_path)
    earlier = (ProxyKind.GENERATOR,) if proxy is ProxyKind.REWARD else ()
    reservation = train(ledger, "run-1", proxies=earlier)
    start(ledger, reservation, proxy)
    store_without_noting(ledger, reservation, proxy, monkeypatch)

    reopened = BudgetLedger(tmp_path)
    note_release(reopened, reservation, proxy)

    (kept,) = BudgetLedger(tmp_path).reservations()
    assert kept.released == (*earlier, proxy)


def test_several_crashes_between_storing_and_noting_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = BudgetLedger(tmp_path)
    for run_id in ("run-1", "run-2"):
        reservation = train(ledger, run_id, proxies=(ProxyKind.GENERATOR,))
        start(ledger, reservation, ProxyKind.REWARD)
        store_without_noting(ledger, reservation, ProxyKind.REWARD, monkeypatch)
    reservation = reserve(ledger, run_id="run-3")
    start(ledger, reservation, ProxyKind.GENERATOR)
    store_without_noting(ledger, reservation, ProxyKind.GENERATOR, monkeypatch)

    assert len(BudgetLedger(tmp_path).reservations()) == 3


def test_a_release_that_was_stored_by_a_training_paid_for_anew_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its saved state was lost as well, so the same request pays again and replaces the file."""
    ledger = BudgetLedger(tmp_path)
    first = reserve_and_start(ledger)
    store_without_noting(ledger, first, ProxyKind.GENERATOR, monkeypatch)

    again = reserve_and_start(BudgetLedger(tmp_path))
    store_without_noting(BudgetLedger(tmp_path), again, ProxyKind.GENERATOR, monkeypatch)
    note_release(BudgetLedger(tmp_path), again, ProxyKind.GENERATOR)

    assert len(BudgetLedger(tmp_path).reservations()) == 2


def test_a_crash_before_the_reservation_is_noted_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of units is written first, so it may stand there alone."""

    def die_after(path: Path, data: bytes) -> None:
        write_whole(path, data)
        raise KeyboardInterrupt

    ledger = BudgetLedger(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("client_side.budget.write_whole", die_after)
        with pytest.raises(KeyboardInterrupt):
            reserve(ledger)
    assert list((tmp_path / "units").iterdir())

    assert BudgetLedger(tmp_path).reservations() == ()


@pytest.mark.parametrize("num_begun", [0, 1])
def test_a_crash_before_any_release_is_accepted(tmp_path: Path, num_begun: int) -> None:
    ledger = BudgetLedger(tmp_path)
    reservation = reserve(ledger)
    for proxy in tuple(ProxyKind)[:num_begun]:
        start(ledger, reservation, proxy)

    assert len(BudgetLedger(tmp_path).reservations()) == 1


def test_half_a_release_that_a_kill_left_behind_is_no_release(tmp_path: Path) -> None:
    reserve(BudgetLedger(tmp_path))
    name = f"{digest('run-1')}.release"
    (tmp_path / "releases" / f".{name}.4711.partial").write_bytes(b"half")

    assert len(BudgetLedger(tmp_path).reservations()) == 1


@pytest.mark.parametrize("name", ["._{}.release", "{}.release~", "notes.txt"])
def test_what_others_leave_among_the_releases_is_no_release(tmp_path: Path, name: str) -> None:
    BudgetLedger(tmp_path)
    (tmp_path / "releases" / name.format(digest("run-1"))).write_bytes(b"?")

    assert BudgetLedger(tmp_path).reservations() == ()


def test_a_copied_folder_is_accepted(tmp_path: Path) -> None:
    """Simulations share exchanges that way, and operators move to another machine."""
    ledger = BudgetLedger(tmp_path / "one")
    train(ledger, "run-1", proxies=tuple(ProxyKind))
    train(ledger, "run-2", proxies=(ProxyKind.GENERATOR,))

    shutil.copytree(tmp_path / "one", tmp_path / "other")

    assert BudgetLedger(tmp_path / "other").reservations() == ledger.reservations()


def test_a_log_that_outlived_its_releases_is_accepted(tmp_path: Path) -> None:
    """It knows the whole cost; the same request is refused when it is made."""
    ledger = BudgetLedger(tmp_path)
    train(ledger, "run-1", proxies=tuple(ProxyKind))
    shutil.rmtree(tmp_path / "releases")

    assert len(BudgetLedger(tmp_path).reservations()) == 1


def test_a_new_client_is_accepted(tmp_path: Path) -> None:
    client = make_client(tmp_path / "node", client_config(tmp_path))

    assert read_spending(ClientFolder(path=client.path)).spendings == ()
    assert BudgetLedger(client.ledger_folder).reservations() == ()
