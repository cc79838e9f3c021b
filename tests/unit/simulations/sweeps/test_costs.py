"""What a sweep would have cost: at which δ its composition holds."""

from __future__ import annotations

from protocol.accounting import composed_epsilon
from simulations.sweeps.costs import sweep_cost
from simulations.sweeps.points import Point, PointStatus
from simulations.sweeps.results import PointResult
from tests.support.sweeping import ledger


def paid(name: str, *, delta: float) -> PointResult:
    return PointResult(
        name=name,
        point=Point(overrides=(), status=PointStatus.DONE),
        choices={},
        config=None,
        metrics=None,
        provenance={
            "ledgers": {"client-1": ledger(0.8) | {"delta": delta}},
            "digests": {"releases": {"client-1/generator": name}},
        },
    )


def test_a_sweep_holds_at_the_largest_delta_of_its_ledgers() -> None:
    """A smaller one is not what the client of the other point was promised."""
    points = [paid("0", delta=1e-6), paid("1", delta=1e-5)]

    cost = sweep_cost(points)

    assert cost.delta == 1e-5
    assert cost.epsilon == composed_epsilon(points[0].envelope * 2, delta=1e-5)
