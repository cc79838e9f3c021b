"""How the target is tuned on all clients' records under DP: on what, and with whose noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_side.config import BudgetConfig, ClientConfig, GeneratorConfig, RecordsConfig
from client_side.dp_sgd import DpSgdPlan
from client_side.generator import TrainedProxy
from client_side.records import PrivateRecord
from protocol.artifacts import LoraShape
from protocol.ledger import DpSgdEvent, ProxyKind
from simulations import private_tuning
from simulations.private_tuning import _tune_with_dp

EVENT = DpSgdEvent(proxy=ProxyKind.GENERATOR, noise_multiplier=1.25, sample_rate=0.125, steps=7)
FIRST = ClientConfig(
    records=RecordsConfig(instruction="Help."),
    generator=GeneratorConfig(prompt_loss_weight=0.3, expected_batch_size=16, max_grad_norm=0.75),
)
SECOND = replace(FIRST, generator=replace(FIRST.generator, expected_batch_size=24))


def make_records(*names: str) -> list[PrivateRecord]:
    return [PrivateRecord(prompt=f"p {n}", response=f"r {n}", unit_id=n) for n in names]


def tune(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    records: Sequence[Sequence[PrivateRecord]] = (),
    noise_seed: int | None = None,
) -> dict[str, Any]:
    """Tune with a trainer that trains nothing, and return what it was given."""
    given: dict[str, Any] = {}

    def note(records: Sequence[PrivateRecord], **others: Any) -> TrainedProxy:
        given.update(others, records=list(records))
        lora = LoraShape(
            rank=1, alpha=1.0, target_modules=("q",), num_upper_layers=None, use_rslora=False
        )
        return TrainedProxy(tensors={}, lora=lora, private_losses=())

    monkeypatch.setattr(private_tuning, "train_generator", note)
    monkeypatch.setattr(private_tuning, "write_peft_folder", lambda *args, **others: None)
    first = replace(FIRST, budget=BudgetConfig(noise_seed=noise_seed))
    _tune_with_dp(
        records,
        clients=[first, SECOND],
        target_folder=folder,
        event=EVENT,
        output_folder=folder,
        seed=5,
        on_progress=lambda done, total: None,
    )
    return given


@pytest.mark.parametrize(("noise_seed", "is_reproducible"), [(None, False), (3, True)])
def test_noise_repeats_only_where_the_simulation_asks_for_it(
    noise_seed: int | None,
    is_reproducible: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stage has a seed of its own each time, and it decides nothing here."""
    given = tune(tmp_path, monkeypatch, noise_seed=noise_seed)

    assert given["randomness"].is_reproducible is is_reproducible


def test_records_of_all_clients_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south = make_records("a", "b"), make_records("c")

    given = tune(tmp_path, monkeypatch, records=[north, south])

    assert given["records"] == [*north, *south]


def test_training_follows_what_was_paid_for_and_clips_as_generators_are_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step expects as many records as both clients' steps together."""
    given = tune(tmp_path, monkeypatch)

    assert given["plan"] == DpSgdPlan(
        noise_multiplier=1.25,
        sample_rate=0.125,
        expected_batch_size=40,
        steps=7,
        max_grad_norm=0.75,
    )


def test_budget_goes_to_responses_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tune(tmp_path, monkeypatch)

    assert given["config"] == replace(
        FIRST.generator, prompt_loss_weight=0.0, expected_batch_size=40
    )
