"""The durable record of what was spent on these records, ever, and the cap on it.

Cost is reserved before training and never refunded. The folder holds:
- `ledger.jsonl`: reservations, starts and releases (`client_side/ledger_file.py`);
- `key`: secret of the folder, for the chain and for naming units without revealing them;
- `units/<data>.keys`: keyed hashes of the units of one data set, to find data sets that overlap;
- `releases/<request>.release`: what was answered; the same request gets the same bytes again.

Covers: what data sets share, whatever their file is called; repeated and concurrent requests;
crashes; a log that lost what stored releases were trained under (`client_side/stored_releases.py`).
Where the folder cannot tell (a missing list of units), it counts data sets as the same, which only
ever makes the price higher; what was counted in another privacy unit is refused.
Does not cover: an edited record, which looks like a new one; a group column that was renamed or
swapped; the whole folder being deleted or restored from an older copy.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from client_side.ledger_file import LedgerFile, LineNotWrittenError, lock_folder, write_whole
from client_side.reservations import (
    BudgetPolicy,
    Reservation,
    all_events,
    check_cap,
    check_units,
    replay,
    to_entry,
)
from client_side.stored_releases import check_log, release_path, stored_requests
from protocol.accounting import ACCOUNTANT, ACCOUNTANT_VERSION, composed_epsilon
from protocol.checks import check_hex, check_name, check_text
from protocol.errors import BudgetError, UnaccountedReleaseError
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind

__all__ = ["BudgetLedger", "BudgetPolicy", "Reservation"]

_NUM_KEY_BYTES: Final = 32
_NUM_UNIT_BYTES: Final = 16
"""Bytes kept of each unit's keyed hash; two of 10^9 units meet with probability below 10^-20."""


class BudgetLedger:
    """The ledger folder of one client; safe to open in several processes.

    Args:
        folder: Where it lies; created for the owner alone if it does not exist.

    Raises:
        BudgetError: The folder lacks its key although something was spent, or its log does not know
            what the stored releases were trained under.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for path in (folder, folder / "units", folder / "releases"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock_folder(folder):
            self._key = self._load_key()
            self._file = LedgerFile(folder / "ledger.jsonl", key=self._key)
            # Privacy: before anything is charged, answered or summed up from a log with gaps.
            check_log(folder, self._file.read())

    def reserve(
        self,
        *,
        run_id: str,
        request_digest: str,
        events: Sequence[DpSgdEvent],
        unit: PrivacyUnit,
        unit_keys: Iterable[str],
        policy: BudgetPolicy,
        reproducible_noise: bool = False,
        requested_by: str = "",
    ) -> Reservation:
        """Pay for trainings before they begin. All checks come first; a refusal changes nothing.

        A request whose reservation exists and was not started gets that one again, so a process
        that was killed between paying and training does not pay twice. One that was started is
        gone on with by `find_reservation(unfinished=…)` and its saved state, or paid for anew here.

        Args:
            run_id: The server's run.
            request_digest: Digest of the request, as `TrainingRequest.digest` gives it.
            events: What will be trained, at most one event for each proxy.
            unit: Whose presence the events hide.
            unit_keys: One text for each privacy unit that depends on its content alone.
            policy: The operator's cap.
            reproducible_noise: Whether noise comes from a fixed seed.
            requested_by: Who asked, for the operator's eyes.

        Returns:
            The reservation; it is on the disk.

        Raises:
            BudgetExceededError: The composed lifetime cost would exceed the cap.
            UnaccountedReleaseError: No event, two for one proxy, or no unit.
            BudgetError: The request was answered already, earlier releases were counted in another
                unit, or the folder cannot be used.

        Privacy:
            Output reveals whether the cap holds, that is settings and which data sets overlap. Pays
            for every event in `events`, whether or not it is ever released.
        """
        check_name(run_id=run_id)
        check_hex(num_bytes=32, request_digest=request_digest)
        check_text(max_chars=200, can_be_empty=True, requested_by=requested_by)
        if not events or len({event.proxy for event in events}) != len(events):
            raise UnaccountedReleaseError(
                f"Expected one event for each proxy to train, found {len(events)} events. "
                f"Reserve what will be trained, once."
            )
        hashes = self._hash_units(unit_keys)
        data_key = self._name_data(hashes)
        with lock_folder(self._folder):
            past = self._reservations()
            for earlier in reversed(past):
                if earlier.request_digest != request_digest or earlier.data_key != data_key:
                    continue
                if earlier.released:
                    raise BudgetError(
                        "Expected a request that was not answered yet, found its release in the "
                        "ledger. Answer from find_release."
                    )
                # Privacy: charged already and used for nothing; it pays for each proxy once.
                if not earlier.started and earlier.events == tuple(events):
                    return earlier
            overlapping = self._overlapping(past, hashes, unit=unit)
            # Privacy: the whole lifetime against the cap, before anything is charged or trained.
            check_cap(overlapping, events, unit=unit, policy=policy)
            reservation = Reservation(
                reservation_id=secrets.token_hex(8),
                run_id=run_id,
                request_digest=request_digest,
                requested_by=requested_by,
                reserved_at=int(time.time()),
                unit=unit,
                data_key=data_key,
                reproducible_noise=reproducible_noise,
                events=tuple(events),
            )
            # The units come first: a reservation without them would overlap with everything.
            write_whole(self._units_path(data_key), b"".join(sorted(hashes)))
            # Privacy: charged on disk before this returns, so before any gradient is computed.
            try:
                self._file.append({"kind": "reserve", "reservation": to_entry(reservation)})
            except LineNotWrittenError as error:
                raise BudgetError(f"{error} Nothing was charged.") from None
            return reservation

    def start(self, reservation_id: str, *, proxy: ProxyKind, request_digest: str) -> None:
        """Note that a proxy's training begins. One event pays for one training.

        Call it once before the first step. A training that resumes from its own saved state, step
        counter and fresh noise included, goes on without calling it again.

        Args:
            reservation_id: What pays.
            proxy: The model to train.
            request_digest: The request that its release will answer.

        Raises:
            UnaccountedReleaseError: Nothing was reserved for it, or it was started before.
        """
        check_hex(num_bytes=32, request_digest=request_digest)
        with lock_folder(self._folder):
            reservation = self._find(reservation_id, proxy=proxy)
            # Privacy: two trainings on one event would be two mechanisms at the price of one.
            if proxy in reservation.started:
                raise UnaccountedReleaseError(
                    f"Expected a training of the {proxy.value} proxy that was paid for and not "
                    f"begun, found it begun. Resume it from its saved state or reserve again."
                )
            self._file.append(
                {
                    "kind": "start",
                    "proxy": proxy.value,
                    "request_digest": request_digest,
                    "reservation_id": reservation_id,
                }
            )

    def record_release(
        self, reservation_id: str, *, proxy: ProxyKind, request_digest: str, release_bytes: bytes
    ) -> None:
        """Keep a release before it is sent, so that the same request gets the same bytes.

        Args:
            reservation_id: What paid for it.
            proxy: Which model it holds.
            request_digest: The request that it answers.
            release_bytes: The release as `protocol.wire.encode_bytes` writes it.

        Raises:
            UnaccountedReleaseError: Nothing was reserved for it, its training was not noted by
                `start`, or another one was released.
        """
        check_hex(num_bytes=32, request_digest=request_digest)
        with lock_folder(self._folder):
            reservation = self._find(reservation_id, proxy=proxy)
            # Privacy: without a noted start, a second training could have used the same event.
            if proxy not in reservation.started:
                raise UnaccountedReleaseError(
                    f"Expected a training of the {proxy.value} proxy that was begun by start(), "
                    f"found none. Call start() before the first step."
                )
            # Privacy: one event pays for one release.
            if proxy in reservation.released:
                raise UnaccountedReleaseError(
                    f"Expected the first release of the {proxy.value} proxy under this "
                    f"reservation, found one in the ledger. Answer from find_release."
                )
            write_whole(release_path(self._folder, request_digest), release_bytes)
            self._file.append(
                {
                    "kind": "release",
                    "proxy": proxy.value,
                    "release_digest": hashlib.sha256(release_bytes).hexdigest(),
                    "request_digest": request_digest,
                    "reservation_id": reservation_id,
                }
            )

    def find_release(self, request_digest: str) -> bytes | None:
        """Look up what this request was answered with.

        Args:
            request_digest: Digest of the request.

        Returns:
            The stored bytes, free to send again; None where it was not answered yet.

        Raises:
            BudgetError: It was answered, and the stored bytes are gone or changed.
        """
        check_hex(num_bytes=32, request_digest=request_digest)
        with lock_folder(self._folder):
            for entry in reversed(self._file.read()):
                if entry["kind"] != "release" or entry["request_digest"] != request_digest:
                    continue
                path = release_path(self._folder, request_digest)
                data = path.read_bytes() if path.exists() else b""
                if hashlib.sha256(data).hexdigest() != entry["release_digest"]:
                    raise BudgetError(
                        f"Expected the release that was sent in {path}, found it gone or changed. "
                        f"Restore it from a copy; asking under a new run id is charged anew."
                    )
                return data
        return None

    def find_reservation(
        self, run_id: str, *, unit_keys: Iterable[str], unfinished: ProxyKind | None = None
    ) -> Reservation | None:
        """Look up what was last reserved for a run on these very records.

        Args:
            run_id: The server's run.
            unit_keys: The units, as given to `reserve`.
            unfinished: Only what pays for a training of this proxy that was begun and not released.

        Returns:
            The newest reservation, or None.
        """
        data_key = self._name_data(self._hash_units(unit_keys))
        with lock_folder(self._folder):
            for reservation in reversed(self._reservations()):
                if reservation.run_id != run_id or reservation.data_key != data_key:
                    continue
                if unfinished is None or reservation.is_unfinished(unfinished):
                    return reservation
        return None

    def statement(
        self, *, unit: PrivacyUnit, unit_keys: Iterable[str], delta: float
    ) -> PrivacyLedger:
        """Sum up the lifetime of these records, as a certificate states it.

        Args:
            unit: Whose presence is to be hidden.
            unit_keys: The units, as given to `reserve`.
            delta: Delta at which epsilon is read off.

        Returns:
            All events of all data sets that share a unit with these, with their composed price.

        Raises:
            UnaccountedReleaseError: Nothing was ever reserved for these records.
            BudgetError: Earlier releases were counted in another unit.

        Privacy:
            Public by design: settings and prices only. It does reveal that earlier data sets
            overlapped with this one.
        """
        hashes = self._hash_units(unit_keys)
        with lock_folder(self._folder):
            overlapping = self._overlapping(self._reservations(), hashes, unit=unit)
        if not overlapping:
            raise UnaccountedReleaseError(
                "Expected at least one reservation for these records, found none. "
                "Reserve before training."
            )
        # Privacy: the figure that is signed is about one unit, and so must all its events be.
        check_units(overlapping, unit=unit)
        events = all_events(overlapping)
        return PrivacyLedger(
            unit=unit,
            events=events,
            epsilon=composed_epsilon(events, delta=delta),
            delta=delta,
            accountant=ACCOUNTANT,
            accountant_version=ACCOUNTANT_VERSION,
            reproducible_noise=any(item.reproducible_noise for item in overlapping),
        )

    def reservations(self) -> tuple[Reservation, ...]:
        """List everything that was ever reserved in this folder, oldest first."""
        with lock_folder(self._folder):
            return self._reservations()

    def _overlapping(
        self, reservations: Sequence[Reservation], hashes: frozenset[bytes], *, unit: PrivacyUnit
    ) -> tuple[Reservation, ...]:
        """Keep the reservations whose records may share a unit with these."""
        shares: dict[str, bool] = {}
        for item in reservations:
            if item.data_key not in shares:
                units = self._load_units(item.data_key)
                shares[item.data_key] = units is None or not units.isdisjoint(hashes)
        # Privacy: a record's key says nothing about its group's. So what was counted in another
        # unit always stands here, for `check_units` to refuse.
        return tuple(item for item in reservations if shares[item.data_key] or item.unit != unit)

    def _reservations(self) -> tuple[Reservation, ...]:
        """Replay the file: each reservation with what became of it."""
        return replay(self._file.read())

    def _find(self, reservation_id: str, *, proxy: ProxyKind) -> Reservation:
        for item in self._reservations():
            if item.reservation_id == reservation_id:
                if any(event.proxy is proxy for event in item.events):
                    return item
                break
        raise UnaccountedReleaseError(
            f"Expected a reservation that pays for the {proxy.value} proxy, found none. "
            f"Reserve before training."
        )

    def _hash_units(self, unit_keys: Iterable[str]) -> frozenset[bytes]:
        hashes = frozenset(
            hmac.digest(self._key, b"unit:" + key.encode(), "sha256")[:_NUM_UNIT_BYTES]
            for key in unit_keys
        )
        if not hashes:
            raise UnaccountedReleaseError(
                "Expected at least one privacy unit, found none. Load records first."
            )
        return hashes

    def _name_data(self, hashes: frozenset[bytes]) -> str:
        return hmac.new(self._key, b"data:" + b"".join(sorted(hashes)), hashlib.sha256).hexdigest()

    def _load_units(self, data_key: str) -> frozenset[bytes] | None:
        """Read the units of a data set; None where they cannot be read as they were written."""
        path = self._units_path(data_key)
        data = path.read_bytes() if path.exists() else b""
        size = _NUM_UNIT_BYTES
        hashes = frozenset(data[start : start + size] for start in range(0, len(data), size))
        return hashes if self._name_data(hashes) == data_key else None

    def _units_path(self, data_key: str) -> Path:
        return self._folder / "units" / f"{data_key}.keys"

    def _load_key(self) -> bytes:
        path = self._folder / "key"
        if not path.exists():
            ledger = self._folder / "ledger.jsonl"
            if (ledger.exists() and ledger.stat().st_size) or stored_requests(self._folder):
                raise BudgetError(
                    f"Expected the key of the ledger at {path}, found none. Restore it; without it "
                    f"nothing can be released from records that something was spent on."
                )
            write_whole(path, os.urandom(_NUM_KEY_BYTES))
        key = path.read_bytes()
        if len(key) != _NUM_KEY_BYTES:
            raise BudgetError(
                f"Expected {_NUM_KEY_BYTES} bytes in {path}, found {len(key)}. Restore the file."
            )
        return key
