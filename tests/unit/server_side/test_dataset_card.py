"""What the data card says of prices, and what it does with a client's own words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from server_side.config import ServerConfig
from server_side.dataset_card import describe_dataset
from server_side.notes import SelectionPrice
from tests.unit.server_side.test_dataset_export import make_certificate, make_sample

SETTINGS = {"config": ServerConfig().fingerprint}


@pytest.mark.parametrize(("epsilon", "told"), [(12.34, "ε = 12.34"), (math.inf, "ε = ∞ (none)")])
def test_rows_of_a_selected_run_state_what_holds_for_the_best_of_several(
    epsilon: float, told: str
) -> None:
    clients = {"north": make_certificate()}
    price = SelectionPrice(epsilon=epsilon, delta=1e-5)

    card, plain = (
        describe_dataset(
            [make_sample()], run_id="run-1", clients=clients, settings=SETTINGS, selection=selection
        )
        for selection in (price, None)
    )

    assert f"what holds for them is {told} at δ = 1e-05" in card
    assert "Chosen among several runs" not in plain


def test_a_clients_words_about_its_accountant_are_shown_and_not_interpreted() -> None:
    certificate = make_certificate()
    ledger = replace(certificate.privacy, accountant="`![seen](https://example.org/p.png)|`")

    card = describe_dataset(
        [make_sample()],
        run_id="run-1",
        clients={"north": replace(certificate, privacy=ledger)},
        settings=SETTINGS,
    )

    assert r"| `![seen](https://example.org/p.png)\| 0.6.0` |" in card
