"""The estimate of a training's memory counts what goes through the model at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from client_side import training_memory
from client_side.config import ClientConfig, Precision, Unit
from client_side.training_memory import training_bytes
from protocol.ledger import ProxyKind
from tests.support.clients import client_config


def with_records(config: ClientConfig, **changes: object) -> ClientConfig:
    return replace(config, records=replace(config.records, **changes))  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("proxy", list(ProxyKind))
def test_a_unit_of_many_records_is_counted_as_a_whole(proxy: ProxyKind, tiny_llama: Path) -> None:
    """A unit is never divided, so that `max_batch_tokens` does not bound it."""
    one = client_config(tiny_llama)
    many, twice = (
        with_records(one, privacy_unit=Unit.GROUP, group_column="who", max_records_per_unit=number)
        for number in (1000, 2000)
    )

    sizes = [training_bytes(tiny_llama, config, proxy=proxy) for config in (one, many, twice)]

    assert sizes[1] > sizes[0]
    assert sizes[2] - sizes[1] > sizes[1] - sizes[0]


def test_a_row_of_pairs_holds_all_responses_that_are_compared(tiny_llama: Path) -> None:
    config = with_records(client_config(tiny_llama), max_response_tokens=5000)
    more = replace(config, preferences=replace(config.preferences, chosen_over_damaged=1.0))

    sizes = [training_bytes(tiny_llama, item, proxy=ProxyKind.REWARD) for item in (config, more)]

    assert sizes[1] > sizes[0] > training_bytes(tiny_llama, config, proxy=ProxyKind.GENERATOR)


@pytest.mark.parametrize(
    ("stored", "precision", "held"),
    [
        ("bfloat16", Precision.FLOAT32, 2.0),
        ("bfloat16", Precision.BFLOAT16, 1.0),
        ("float32", Precision.FLOAT32, 1.0),
        ("float32", Precision.BFLOAT16, 0.5),
        (None, Precision.BFLOAT16, 0.5),  # transformers takes such weights for float32
    ],
)
def test_weights_are_counted_as_they_are_stored_and_as_they_are_held(
    stored: str | None,
    precision: Precision,
    held: float,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = Path(shutil.copytree(tiny_llama, tmp_path / "base"))
    shape = json.loads((base / "config.json").read_text())
    shape.pop("dtype", None)
    (base / "config.json").write_text(json.dumps(shape | ({"dtype": stored} if stored else {})))
    config = client_config(base)
    config = replace(config, generator=replace(config.generator, precision=precision))

    def size(weights: int) -> int:
        monkeypatch.setattr(training_memory, "weight_bytes", lambda folder: weights)
        return training_bytes(base, config, proxy=ProxyKind.GENERATOR)

    assert size(1000) - size(0) == 1000 * (1 + held)


def test_a_small_unit_leaves_the_batch_to_its_setting(tiny_llama: Path) -> None:
    config = client_config(tiny_llama)
    shorter = with_records(config, max_response_tokens=12)

    for proxy in ProxyKind:
        assert training_bytes(tiny_llama, config, proxy=proxy) == training_bytes(
            tiny_llama, shorter, proxy=proxy
        )
