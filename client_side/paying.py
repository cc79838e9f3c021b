"""What pays for a proxy: the reservation that its run's generator made for both, or a new one.

The generator's request pays for both proxies before the first of them is trained. What was paid for
is trained as it was paid for, or not at all.
"""

from __future__ import annotations

from client_side.budget import BudgetLedger, BudgetPolicy, Reservation
from client_side.config import ClientConfig
from client_side.request_checks import (
    RequestRefusedError,
    asked_delta,
    plan_events,
    training_settings,
)
from protocol.errors import ConfigurationError, RefusalCode
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from protocol.messages import TrainingRequest


def pay_for(
    request: TrainingRequest,
    *,
    config: ClientConfig,
    ledger: BudgetLedger,
    unit_keys: frozenset[str],
    requested_by: str,
) -> Reservation:
    """Pay for what is about to be trained, or find what was paid for already.

    Args:
        request: What the server asks for.
        config: The client's settings.
        ledger: What was spent on these records, ever.
        unit_keys: The privacy units of the records.
        requested_by: Who asks, for the operator's eyes.

    Returns:
        What pays; it is on the disk.

    Raises:
        RequestRefusedError: The reward proxy was asked for before the generator, or for other steps
            than were paid for.
        ConfigurationError: The settings are not those that the generator's request paid by.
        BudgetError: The cap does not allow it.

    Privacy:
        Charged before the first gradient. A refusal charges nothing.
    """
    proxy, budget, asked = request.proxy, config.budget, request.target_epsilon
    cap = budget.lifetime_epsilon_cap
    if proxy is ProxyKind.GENERATOR:
        events = plan_events(config, request=request)
    else:
        earlier = ledger.find_reservation(request.run_id, unit_keys=unit_keys)
        if earlier is None or not released_generator(ledger, earlier):
            # Privacy: after a generator of this run, that one of these very records is missing
            # tells that a record came or went, so it must look like any other failure.
            is_private = _was_released_of_any_records(ledger, request.run_id)
            raise RequestRefusedError(
                RefusalCode.INTERNAL if is_private else RefusalCode.ORDER,
                "Expected the generator proxy of this run to be released first, from these "
                "very records, found that it was not. Ask for it first, and keep the records "
                "as they are during a run.",
            )
        _check_rate(event_of(earlier, proxy), config)
        _check_steps(event_of(earlier, proxy), request)
        # Privacy: paid for by the generator's request, and not begun; one event, one training.
        if proxy not in earlier.started:
            return earlier
        # An earlier training was cut off for good. Its cost stays charged; this is paid anew.
        events = tuple(event for event in earlier.events if event.proxy is proxy)
    return ledger.reserve(
        run_id=request.run_id,
        request_digest=request.digest(),
        events=events,
        unit=PrivacyUnit(config.records.privacy_unit.value),
        unit_keys=unit_keys,
        policy=BudgetPolicy(
            # Privacy: a request's own limit counts before anything is charged; otherwise
            # requests that must be refused would use up what the operator allows.
            lifetime_epsilon_cap=cap if asked is None else min(cap, asked),
            delta=asked_delta(request, config=config),
            unsafe_non_private=budget.unsafe_non_private,
        ),
        reproducible_noise=budget.noise_seed is not None,
        requested_by=requested_by,
    )


def check_noise(reservation: Reservation, config: ClientConfig) -> None:
    """Refuse a fixed seed that was set after this was paid for.

    Args:
        reservation: What pays, marked by where the noise was to come from at that time.
        config: The client's settings as they are now.

    Raises:
        ConfigurationError: There is one.
    """
    # Privacy: the ledger's mark was set when this was paid for, and the certificate quotes it.
    if config.budget.noise_seed is not None and not reservation.reproducible_noise:
        raise ConfigurationError(
            "Expected budget.noise_seed to be absent, as when this run was paid for, got "
            f"{config.budget.noise_seed}. Remove it, or ask under another run id."
        )


def check_price(statement: PrivacyLedger, request: TrainingRequest) -> None:
    """Refuse what costs more than was asked for.

    Args:
        statement: The lifetime of these records, this request's own cost included.
        request: What the server asks for; without a `target_epsilon` it sets no limit.

    Raises:
        RequestRefusedError: It does.
    """
    asked = request.target_epsilon
    if asked is not None and statement.epsilon > asked:
        raise RequestRefusedError(
            RefusalCode.POLICY,
            f"Expected a lifetime cost within the requested target_epsilon={asked:g}, found "
            f"{statement.epsilon:.4g}. Ask for more, or use other records.",
        )


def event_of(reservation: Reservation, proxy: ProxyKind) -> DpSgdEvent:
    """Return what was paid for of one proxy.

    Args:
        reservation: What pays; it must hold an event for this proxy.
        proxy: The proxy to train.
    """
    (event,) = (event for event in reservation.events if event.proxy is proxy)
    return event


def released_generator(ledger: BudgetLedger, reservation: Reservation) -> bytes | None:
    """Find the stored generator release of a reservation's run and records.

    Args:
        ledger: What was spent on these records, ever.
        reservation: Any of this run on these records, also one that pays for the reward proxy only.

    Returns:
        The stored bytes; None where none was released of this run from these very records.

    Raises:
        BudgetError: One was released, and the stored bytes are gone or changed.
    """
    for item in reversed(ledger.reservations()):
        is_same_data = item.data_key == reservation.data_key
        is_same_run = item.run_id == reservation.run_id
        if is_same_data and is_same_run and ProxyKind.GENERATOR in item.released:
            return ledger.find_release(item.request_digest)
    return None


def _check_rate(event: DpSgdEvent, config: ClientConfig) -> None:
    size = config.records.declared_size
    batch = training_settings(config, event.proxy).expected_batch_size
    # The certificate says that this declared_size gave this rate.
    if event.sample_rate != batch / size:
        raise ConfigurationError(
            f"Expected records.declared_size and {event.proxy.value}'s expected_batch_size as when "
            f"this run was paid for, at a sample rate of {event.sample_rate:.6g}, got {size} and "
            f"{batch}. Put them back, or ask under another run id."
        )


def _check_steps(event: DpSgdEvent, request: TrainingRequest) -> None:
    # What was paid for is what is trained, and whoever asked for something else must be told.
    if request.steps not in (None, event.steps):
        raise RequestRefusedError(
            RefusalCode.POLICY,
            f"Expected a request for the {event.steps} steps of the {event.proxy.value} proxy that "
            f"the generator's request paid for, found one for {request.steps}. Ask for as many, or "
            "name none.",
        )


def _was_released_of_any_records(ledger: BudgetLedger, run_id: str) -> bool:
    return any(
        item.run_id == run_id and ProxyKind.GENERATOR in item.released
        for item in ledger.reservations()
    )
