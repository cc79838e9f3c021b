"""How `rewardds-privacy` shows its answers: tables of 80 columns for people, values for JSON.

Every name that another party chose is printed as plain text, never read as markup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from client_side.spending import LifetimeSpending
    from protocol.accounting import Calibration
    from protocol.ledger import DpSgdEvent
    from server_side.verifying import Verdict
    from simulations.pair_accounting import PairExplanation

_WIDTH: Final = 80


def print_json(document: object) -> None:
    """Print JSON.

    Args:
        document: JSON values; no infinity, which JSON does not have.
    """
    print(json.dumps(document, indent=2, allow_nan=False))


def show_calibration(found: Calibration, *, target_epsilon: float) -> None:
    """Print a calibration.

    Args:
        found: The noise.
        target_epsilon: What was asked for.
    """
    from protocol.accounting import ACCOUNTANT, ACCOUNTANT_VERSION

    table = _table(texts=("run", "proxy"), numbers=("noise multiplier", "sample rate", "steps"))
    for number, event in enumerate(found.events, start=1):
        table.add_row(
            str(number),
            event.proxy.value,
            # Upwards: noise that was rounded down would cost more than what was asked for.
            f"{math.ceil(event.noise_multiplier * 1e4) / 1e4:.4f}",
            f"{event.sample_rate:.6f}",
            str(event.steps),
        )
    console = _console()
    console.print(table)
    console.print(f"Composed: ε = {found.epsilon:.4f} of {target_epsilon:g} at δ = {found.delta:g}")
    console.print(f"{ACCOUNTANT}, version {ACCOUNTANT_VERSION}")


def calibration_values(found: Calibration, *, target_epsilon: float) -> dict[str, object]:
    """Give a calibration as JSON values.

    Args:
        found: The noise.
        target_epsilon: What was asked for.

    Returns:
        An object for `print_json`.
    """
    from protocol.accounting import ACCOUNTANT, ACCOUNTANT_VERSION

    return {
        "noise_multipliers": list(found.noise_multipliers),
        "epsilon": found.epsilon,
        "delta": found.delta,
        "target_epsilon": target_epsilon,
        "events": [_event_values(event) for event in found.events],
        "accountant": ACCOUNTANT,
        "accountant_version": ACCOUNTANT_VERSION,
    }


def show_spending(spending: LifetimeSpending) -> None:
    """Print a client's lifetime ledger.

    Args:
        spending: The ledger, summed up.
    """
    console = _console()
    cap, delta = spending.lifetime_epsilon_cap, spending.delta
    console.print(f"Client {spending.client_name}: lifetime cap ε = {cap:g} at δ = {delta:g}")
    if spending.unsafe_non_private:
        console.print("Warning: unsafe_non_private is set; the cap stops nothing.")
    if not spending.spendings:
        console.print("Nothing was ever reserved: ε = 0.")
        return
    table = _table(
        texts=("when (UTC)", "to whom", "what", "data\nset"),
        numbers=("ε\nalone", "ε so\nfar", "left"),
    )
    # Most addresses with their port stay on one line; longer names are folded.
    table.columns[1].width, table.columns[2].width = 16, 13
    for item in spending.spendings:
        reservation = item.reservation
        when = datetime.fromtimestamp(reservation.reserved_at, tz=UTC)
        asked = [reservation.requested_by] if reservation.requested_by else []
        what = [f"{proxy.value}: {progress.value}" for proxy, progress in item.progress.items()]
        what += ["seeded noise!"] if reservation.reproducible_noise else []
        table.add_row(
            f"{when:%Y-%m-%d}\n{when:%H:%M}",
            Text("\n".join([*asked, f"run {reservation.run_id}"])),
            "\n".join(what),
            str(item.data_set),
            _shown(item.epsilon),
            _shown(item.epsilon_so_far),
            _shown(item.left),
        )
    console.print(table)
    for data_set in spending.data_sets:
        verdict = "fits" if data_set.next_epsilon <= cap else "would be refused"
        console.print(
            f"Data set {data_set.data_set}: ε = {_shown(data_set.epsilon)} over "
            f"{data_set.num_events} trainings; left: {_shown(data_set.left)}"
        )
        console.print(
            f"  one more at the present settings makes {_shown(data_set.next_epsilon)} in all: "
            f"{verdict}"
        )


def spending_values(spending: LifetimeSpending) -> dict[str, object]:
    """Give a client's lifetime ledger as JSON values.

    Args:
        spending: The ledger, summed up.

    Returns:
        An object for `print_json`.
    """
    return {
        "client_name": spending.client_name,
        "delta": spending.delta,
        "lifetime_epsilon_cap": spending.lifetime_epsilon_cap,
        "unsafe_non_private": spending.unsafe_non_private,
        "reservations": [
            {
                "reserved_at": item.reservation.reserved_at,
                "run_id": item.reservation.run_id,
                "requested_by": item.reservation.requested_by,
                "data_set": item.data_set,
                "unit": item.reservation.unit.value,
                "reproducible_noise": item.reservation.reproducible_noise,
                "progress": {kind.value: state.value for kind, state in item.progress.items()},
                "events": [_event_values(event) for event in item.reservation.events],
                "epsilon": _finite(item.epsilon),
                "epsilon_so_far": _finite(item.epsilon_so_far),
                "left": item.left,
            }
            for item in spending.spendings
        ],
        "data_sets": [
            {
                "data_set": item.data_set,
                "num_events": item.num_events,
                "epsilon": _finite(item.epsilon),
                "left": item.left,
                "next_epsilon": _finite(item.next_epsilon),
            }
            for item in spending.data_sets
        ],
    }


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print what the checks say about stored releases.

    Args:
        verdicts: One for each file.
    """
    table = _table(texts=("release", "client", "proxy", "verdict"), numbers=("ε", "δ"))
    for item in verdicts:
        name = Text(item.file.stem)
        if item.admitted is None:
            table.add_row(name, "", "", f"✗ {item.code}")
            continue
        certificate = item.admitted.certificate
        table.add_row(
            name,
            certificate.client_name,
            certificate.proxy.value,
            "✓ all checks",
            _shown(item.admitted.epsilon),
            f"{certificate.privacy.delta:g}",
        )
    _console().print(table)


def verdict_values(verdict: Verdict) -> dict[str, object]:
    """Give what the checks say about one release as JSON values.

    Args:
        verdict: The verdict.

    Returns:
        An object for `print_json`; without statements of a release that did not pass.
    """
    values: dict[str, object] = {
        "file": str(verdict.file),
        "is_admissible": verdict.code is None,
        "code": None if verdict.code is None else verdict.code.value,
        "message": verdict.message,
    }
    if verdict.admitted is not None:
        certificate = verdict.admitted.certificate
        values |= {
            "client_name": certificate.client_name,
            "proxy": certificate.proxy.value,
            "epsilon": _finite(verdict.admitted.epsilon),
            "delta": certificate.privacy.delta,
            "unit": certificate.privacy.unit.value,
            "num_events": len(certificate.privacy.events),
            "public_key": verdict.admitted.release.public_key.hex(),
        }
    return values


def show_explanations(found: Mapping[str, PairExplanation]) -> None:
    """Print what per-pair accounting really guarantees, and what the columns mean.

    Args:
        found: By name of the task, at least one; all of one setting but for the records.
    """
    procedure = next(iter(found.values())).procedure
    pairs, batch = procedure.pairs_per_record, procedure.batch_size
    table = _table(
        texts=("task",),
        numbers=("records", "noise", "stated", "really", "ours", f"ours, {batch} records"),
    )
    for name, item in found.items():
        table.add_row(
            name,
            str(item.procedure.num_records),
            f"{item.noise_multiplier:.3f}",
            f"{item.procedure.target_epsilon:g}",
            f"{item.record_epsilon:.1f}",
            f"{item.own_epsilon:.1f}",
            f"{item.own_epsilon_full_batch:.1f}",
        )
    console = _console()
    console.print(table)
    console.print(
        f"noise   noise multiplier, by Rényi accounting of one pair at the stated ε\n"
        f"stated  ε of one pair; δ = {procedure.delta:g} here and in every column\n"
        f"really  ε of one record, whose {pairs} pairs come and go together\n"
        f"ours    ε of one record as one unit with one clip, at the same noise and steps:\n"
        f"        as many pairs in a step ({batch / pairs:.1f} records), then {batch} records\n"
        f"Poisson sampling is assumed throughout. The published procedure shuffles, and\n"
        f"has half of its pairs written by a model trained on the records without noise:\n"
        f"as a whole it has no finite ε."
    )


def explanation_values(name: str, item: PairExplanation) -> dict[str, object]:
    """Give what per-pair accounting really guarantees as JSON values.

    Args:
        name: Name of the task.
        item: The explanation.

    Returns:
        An object for `print_json`.
    """
    procedure = item.procedure
    return {
        "task": name,
        "records": procedure.num_records,
        "pairs_per_record": procedure.pairs_per_record,
        "batch_size": procedure.batch_size,
        "epochs": procedure.num_epochs,
        "steps": procedure.steps,
        "sample_rate": procedure.sample_rate,
        "noise_multiplier": item.noise_multiplier,
        "delta": procedure.delta,
        "stated_epsilon": procedure.target_epsilon,
        "record_epsilon": item.record_epsilon,
        "own_epsilon": item.own_epsilon,
        "own_epsilon_full_batch": item.own_epsilon_full_batch,
    }


def _event_values(event: DpSgdEvent) -> dict[str, object]:
    return {
        "proxy": event.proxy.value,
        "noise_multiplier": event.noise_multiplier,
        "sample_rate": event.sample_rate,
        "steps": event.steps,
    }


def _console() -> Console:
    # Names and numbers are plain text: rich would colour them and read brackets as markup.
    console = Console(highlight=False, markup=False)
    console.width = min(_WIDTH, console.width)
    return console


def _table(*, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table()
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _shown(epsilon: float) -> str:
    return f"{epsilon:.3f}" if math.isfinite(epsilon) else "∞"


def _finite(epsilon: float) -> float | str:
    """JSON has no infinity; certificates use the same word."""
    return epsilon if math.isfinite(epsilon) else "infinite"
