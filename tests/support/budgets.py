"""Reservations for tests of the lifetime ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from client_side.budget import BudgetLedger, BudgetPolicy, Reservation
from protocol.accounting import composed_epsilon
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


def hand_out(
    ledger: BudgetLedger, reservation: Reservation, *, request: str = "run-1", data: bytes
) -> None:
    ledger.record_release(
        reservation.reservation_id,
        proxy=ProxyKind.GENERATOR,
        request_digest=digest(request),
        release_bytes=data,
    )


def start(ledger: BudgetLedger, reservation: Reservation, proxy: ProxyKind) -> None:
    ledger.start(
        reservation.reservation_id, proxy=proxy, request_digest=request_of(reservation, proxy)
    )


def request_of(reservation: Reservation, proxy: ProxyKind) -> str:
    """Return the digest of the request that a training answers; the generator's is the payer's."""
    is_generator = proxy is ProxyKind.GENERATOR
    return reservation.request_digest if is_generator else digest(f"{reservation.run_id} reward")


def reserve_and_start(ledger: BudgetLedger) -> Reservation:
    reservation = reserve(ledger)
    start(ledger, reservation, ProxyKind.GENERATOR)
    return reservation
