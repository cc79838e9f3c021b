from __future__ import annotations

import math
from typing import Any

import pytest

from protocol.errors import ConfigurationError
from protocol.ledger import (
    MAX_EVENTS,
    MAX_NOISE_MULTIPLIER,
    MAX_STEPS,
    DpSgdEvent,
    PrivacyLedger,
    PrivacyUnit,
    ProxyKind,
)

EVENT: dict[str, Any] = {
    "proxy": ProxyKind.GENERATOR,
    "noise_multiplier": 1.0,
    "sample_rate": 0.1,
    "steps": 10,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("proxy", "generator "),
        ("noise_multiplier", -0.1),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", MAX_NOISE_MULTIPLIER * 1.001),
        ("sample_rate", 0.0),
        ("sample_rate", 1.5),
        ("sample_rate", True),
        ("steps", 0),
        ("steps", 1.0),
        ("steps", True),
        ("steps", MAX_STEPS + 1),
    ],
)
def test_event_refuses_a_value_out_of_range_and_names_it(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=field):
        DpSgdEvent(**{**EVENT, field: value})


def test_event_without_noise_can_be_written_down() -> None:
    assert DpSgdEvent(**{**EVENT, "noise_multiplier": 0}).noise_multiplier == 0.0


def test_equal_events_are_equal_whether_numbers_came_as_integers_or_not() -> None:
    assert DpSgdEvent(**{**EVENT, "noise_multiplier": 1}) == DpSgdEvent(**EVENT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("events", ()),
        ("events", (DpSgdEvent(**EVENT),) * (MAX_EVENTS + 1)),
        ("epsilon", -1.0),
        ("epsilon", math.nan),
        ("delta", 0.0),
        ("delta", 1.0),
        ("unit", "person"),
        ("accountant", "two\rlines"),
    ],
)
def test_ledger_refuses_a_value_out_of_range(field: str, value: object) -> None:
    good: dict[str, Any] = {
        "unit": PrivacyUnit.RECORD,
        "events": (DpSgdEvent(**EVENT),),
        "epsilon": 1.0,
        "delta": 1e-5,
        "accountant": "PLD",
        "accountant_version": "1",
        "reproducible_noise": False,
    }

    with pytest.raises(ConfigurationError):
        PrivacyLedger(**{**good, field: value})
