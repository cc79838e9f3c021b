"""What was paid for and what became of it: the values that the lifetime ledger keeps.

`client_side/budget.py` is the ledger itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from protocol.accounting import composed_epsilon
from protocol.checks import check_open_fraction, check_positive
from protocol.documents import Json, from_document, to_document
from protocol.errors import BudgetError, BudgetExceededError
from protocol.ledger import MAX_EVENTS, DpSgdEvent, PrivacyUnit, ProxyKind


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetPolicy:
    """What the operator allows, over the whole life of the records.

    Raises:
        ConfigurationError: A value is out of range.
    """

    lifetime_epsilon_cap: float
    """Composed epsilon of everything ever released that must not be exceeded; the operator's cap,
    or what a request asked for where that is lower."""
    delta: float
    """Delta at which epsilon is read off."""
    unsafe_non_private: bool = False
    """Whether releases without protection may be made; the cap then says nothing."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(lifetime_epsilon_cap=self.lifetime_epsilon_cap)
        check_open_fraction(delta=self.delta)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """Events that were paid for, and what became of them."""

    reservation_id: str
    """Name of the reservation."""
    run_id: str
    """The server's run that it was made for."""
    request_digest: str
    """The request that it was made for."""
    requested_by: str
    """Who asked, as far as the operator's node knows; may be empty."""
    reserved_at: int
    """UTC seconds since 1970."""
    unit: PrivacyUnit
    """Whose presence the events hide."""
    data_key: str
    """Keyed name of the data set."""
    reproducible_noise: bool
    """Whether the noise comes from a fixed seed."""
    events: tuple[DpSgdEvent, ...]
    """What was paid for, one event for each proxy to train."""
    started: tuple[ProxyKind, ...] = ()
    """Proxies whose training began."""
    released: tuple[ProxyKind, ...] = ()
    """Proxies that were handed out."""

    def is_unfinished(self, proxy: ProxyKind) -> bool:
        """Tell whether a proxy's training was begun and nothing of it was handed out."""
        return proxy in self.started and proxy not in self.released


def check_cap(
    overlapping: Sequence[Reservation],
    events: Sequence[DpSgdEvent],
    *,
    unit: PrivacyUnit,
    policy: BudgetPolicy,
) -> None:
    """Refuse what would take the lifetime of some unit over the operator's cap.

    Args:
        overlapping: What was paid for and may concern the same units.
        events: What is asked for now.
        unit: Whose presence the events hide.
        policy: The operator's cap.

    Raises:
        BudgetExceededError: The composed cost of all of it is above the cap.
        BudgetError: What was paid for was counted in another way.
    """
    check_units(overlapping, unit=unit)
    # Privacy: everything ever paid for counts, whether or not it was released.
    lifetime = (*all_events(overlapping), *events)
    if len(lifetime) > MAX_EVENTS:
        raise BudgetExceededError(
            f"Expected at most {MAX_EVENTS} events in a lifetime, found {len(lifetime)}. "
            f"Use records that were not released from before."
        )
    # Privacy: no cap at all, for simulations; `refuse_unsafe` keeps it off real nodes.
    if policy.unsafe_non_private:
        return
    # Privacy: one composed figure, never the sum or the largest of several.
    epsilon = composed_epsilon(lifetime, delta=policy.delta)
    if epsilon > policy.lifetime_epsilon_cap:
        raise BudgetExceededError(
            f"Expected a lifetime epsilon of at most {policy.lifetime_epsilon_cap:g}, which is "
            f"lifetime_epsilon_cap or the request's own target where that is lower, found "
            f"{epsilon:.4g} for {len(lifetime)} events at delta={policy.delta:g}. Ask for less in "
            f"this run, or use other records."
        )


def check_units(reservations: Sequence[Reservation], *, unit: PrivacyUnit) -> None:
    """Refuse to add up what was counted per record and what was counted per group.

    Either way it would say too little. A person may own many records. And an event for groups
    bounds what a whole group adds; one record less of several puts another contribution in its
    place, which moves the sum by up to twice as much.

    Args:
        reservations: What was paid for.
        unit: Whose presence the next figure is about.

    Raises:
        BudgetError: Something was counted in another unit.
    """
    for item in reservations:
        # Privacy: events state sensitivity towards their own unit, and towards no other.
        if item.unit is not unit:
            raise BudgetError(
                f"Expected privacy_unit={item.unit.value}, in which earlier releases of this "
                f"folder were counted, found privacy_unit={unit.value}. The two do not add up: "
                f"keep the unit, or give records that nothing was released from a folder of their "
                f"own."
            )


def all_events(reservations: Iterable[Reservation]) -> tuple[DpSgdEvent, ...]:
    """List the events of several reservations, in their order."""
    return tuple(event for item in reservations for event in item.events)


def to_entry(reservation: Reservation) -> Json:
    """Give what stands in the file: all but the outcome, which has lines of its own."""
    document = to_document(reservation)
    assert isinstance(document, dict)
    return {name: document[name] for name in document.keys() - {"started", "released"}}


def from_entry(document: Json) -> Reservation:
    """Read what `to_entry` gave; nothing of it was started or released yet."""
    assert isinstance(document, dict), "the chain lets only through what was written"
    return from_document(Reservation, {**document, "started": [], "released": []})


def replay(entries: Iterable[Mapping[str, Json]]) -> tuple[Reservation, ...]:
    """Read the log: each reservation with what became of it.

    Args:
        entries: All entries of the log, oldest first.

    Returns:
        The reservations, oldest first.
    """
    found: dict[str, Reservation] = {}
    for entry in entries:
        if entry["kind"] == "reserve":
            item = from_entry(entry["reservation"])
            found[item.reservation_id] = item
            continue
        item = found[str(entry["reservation_id"])]
        proxy = ProxyKind(str(entry["proxy"]))
        if entry["kind"] == "start":
            found[item.reservation_id] = replace(item, started=(*item.started, proxy))
        else:
            found[item.reservation_id] = replace(item, released=(*item.released, proxy))
    return tuple(found.values())
