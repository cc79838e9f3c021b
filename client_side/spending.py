"""What a client's records have cost so far: the lifetime ledger, summed up for its operator.

Reads the ledger and the settings; changes nothing and needs no records. Sums are made as
`client_side/budget.py` makes them before it trains: a reservation counts with everything before it
that may concern one of its units, whether or not it was ever released.

Covers: the same figures that decide about the next request.
Does not cover: what the present `records.path` holds. Which of the data sets that is, or how it
overlaps with them, only a request finds out, because only then are records read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from client_side.budget import BudgetLedger
from client_side.folder import ClientFolder
from client_side.request_checks import plan_events
from client_side.reservations import Reservation, all_events, check_units
from client_side.stored_releases import stored_requests
from protocol.accounting import composed_epsilon
from protocol.ledger import DpSgdEvent, ProxyKind


class Progress(StrEnum):
    """How far something that was paid for has come."""

    RESERVED = "reserved"
    """Paid for; its training has not begun."""
    STARTED = "started"
    """Its training has begun and nothing was handed out; the cost stays either way."""
    RELEASED = "released"
    """Handed out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """One reservation and its place in the sum."""

    reservation: Reservation
    """What was paid for, when, and for whom."""
    data_set: int
    """Number of the data set, from 1, in order of first appearance."""
    progress: Mapping[ProxyKind, Progress]
    """How far each proxy that was paid for has come."""
    epsilon: float
    """What this would cost if it were all."""
    epsilon_so_far: float
    """Composed cost of it and of everything before it that may concern the same units."""
    left: float
    """Cap less `epsilon_so_far`, at least 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSetSpending:
    """What the units of one data set have cost by now."""

    data_set: int
    """Number of the data set, as in `Spending`."""
    num_events: int
    """Trainings that count."""
    epsilon: float
    """Composed cost of everything that may concern one of its units."""
    left: float
    """Cap less `epsilon`, at least 0. Costs compose: less than their sum is what counts."""
    next_epsilon: float
    """What `epsilon` would be after one more run at the present settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LifetimeSpending:
    """A client's whole ledger under its present settings."""

    client_name: str
    """Name of the client."""
    delta: float
    """Delta at which every epsilon is read off, from the settings."""
    lifetime_epsilon_cap: float
    """The operator's cap, from the settings."""
    unsafe_non_private: bool
    """Whether the settings allow releases without protection; the cap then stops nothing."""
    spendings: tuple[Spending, ...]
    """All reservations, oldest first."""
    data_sets: tuple[DataSetSpending, ...]
    """Where each data set stands now."""


def read_spending(folder: ClientFolder) -> LifetimeSpending:
    """Sum up a client's ledger.

    Args:
        folder: The client's folder.

    Returns:
        Every reservation with the cost up to it, and where each data set stands.

    Raises:
        SettingsError: The folder has no settings, or they cannot be read.
        BudgetError: The ledger was changed from outside, its key or its log is gone, or it counts
            in two units, which do not add up.
        ConfigurationError: No noise meets the present target.

    Privacy:
        For the operator's eyes. Output holds settings, prices and which data sets overlap, and no
        record; nobody sends it anywhere.
    """
    config = folder.load_config()
    delta, cap = config.budget.target_delta, config.budget.lifetime_epsilon_cap
    reservations, overlaps = _read(folder.ledger_folder)
    if reservations:
        check_units(reservations, unit=reservations[-1].unit)
    planned = plan_events(config) if reservations else ()
    numbers: dict[str, int] = {}
    spendings: list[Spending] = []
    for position, item in enumerate(reservations):
        number = numbers.setdefault(item.data_key, len(numbers) + 1)
        before = [other for other in overlaps[item.reservation_id] if other < position]
        so_far = all_events([reservations[index] for index in [*before, position]])
        epsilon_so_far = composed_epsilon(so_far, delta=delta)
        spendings.append(
            Spending(
                reservation=item,
                data_set=number,
                progress={event.proxy: _progress(item, event.proxy) for event in item.events},
                epsilon=composed_epsilon(item.events, delta=delta),
                epsilon_so_far=epsilon_so_far,
                left=max(0.0, cap - epsilon_so_far),
            )
        )
    return LifetimeSpending(
        client_name=config.name,
        delta=delta,
        lifetime_epsilon_cap=cap,
        unsafe_non_private=config.budget.unsafe_non_private,
        spendings=tuple(spendings),
        data_sets=tuple(
            _data_set(number, key, reservations, overlaps, planned, delta=delta, cap=cap)
            for key, number in numbers.items()
        ),
    )


class _ReadableLedger(BudgetLedger):
    """The ledger's own rule for what concerns the same units, without the records."""

    def overlapping_with(
        self, reservation: Reservation, reservations: Sequence[Reservation]
    ) -> tuple[Reservation, ...]:
        """Keep what may concern a unit of this reservation; itself included."""
        units = self._load_units(reservation.data_key)
        if units is None:
            # As in the ledger itself: where the folder cannot tell, everything counts.
            return tuple(reservations)
        return self._overlapping(reservations, units, unit=reservation.unit)


def _read(ledger_folder: Path) -> tuple[tuple[Reservation, ...], dict[str, list[int]]]:
    """Give all reservations, and by reservation the positions of those that it counts with."""
    # Opening a ledger makes its key and folders; a look at a new client shall leave no trace.
    # Privacy: releases without a log are no new client; opening the ledger refuses them.
    if not (ledger_folder / "ledger.jsonl").exists() and not stored_requests(ledger_folder):
        return (), {}
    ledger = _ReadableLedger(ledger_folder)
    reservations = ledger.reservations()
    positions = {item.reservation_id: index for index, item in enumerate(reservations)}
    overlaps = {
        item.reservation_id: [
            positions[other.reservation_id] for other in ledger.overlapping_with(item, reservations)
        ]
        for item in reservations
    }
    return reservations, overlaps


def _data_set(
    number: int,
    data_key: str,
    reservations: Sequence[Reservation],
    overlaps: Mapping[str, Sequence[int]],
    planned: Sequence[DpSgdEvent],
    *,
    delta: float,
    cap: float,
) -> DataSetSpending:
    own = [item for item in reservations if item.data_key == data_key]
    events = all_events([reservations[index] for index in overlaps[own[-1].reservation_id]])
    epsilon = composed_epsilon(events, delta=delta)
    return DataSetSpending(
        data_set=number,
        num_events=len(events),
        epsilon=epsilon,
        left=max(0.0, cap - epsilon),
        next_epsilon=composed_epsilon((*events, *planned), delta=delta),
    )


def _progress(reservation: Reservation, proxy: ProxyKind) -> Progress:
    if proxy in reservation.released:
        return Progress.RELEASED
    return Progress.STARTED if proxy in reservation.started else Progress.RESERVED
