"""The arms of a simulation that tune the target on the private records themselves."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from client_side.config import ClientConfig
from client_side.records import PrivateRecord
from lm.settings import save_settings, to_settings
from protocol.accounting import composed_epsilon
from server_side.measuring.metrics import read_metrics
from server_side.provenance import read_provenance
from server_side.tuning.target_adapter import read_adapter
from simulations.compare import read_run
from simulations.config import SimulateConfig
from simulations.private_tuning import pooled_ledger, records_as_samples
from simulations.run import simulate

pytestmark = pytest.mark.integration

CONF = Path(__file__).resolve().parents[2] / "conf"


def settings(*overrides: str) -> SimulateConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return to_settings(SimulateConfig, compose("simulate", overrides=list(overrides)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_arm(folder: Path, *overrides: str) -> SimulateConfig:
    config = settings("experiment=smoke", "num_private_records=24", *overrides)
    folder.mkdir()
    save_settings(config, folder / "simulate.yaml")
    simulate(config, folder)
    return config


@pytest.mark.parametrize("arm", ["private_no_dp", "private_dp"])
def test_a_target_is_tuned_on_the_records_judged_and_marked(
    arm: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / arm

    config = run_arm(folder, f"arm={arm}")

    metrics = read_metrics(folder / "metrics.json")
    assert metrics["arm"] == arm
    assert metrics["tuned_on"] == config.tuned_on.value
    assert metrics["tuned"]["perplexity"]["mean"] != metrics["untuned"]["perplexity"]["mean"]
    assert "synthetic" not in metrics
    # Nothing is released: no proxy was trained and no client's ledger holds anything.
    assert not list(folder.glob("clients/*/ledger/ledger.jsonl"))
    assert not (folder / "report.html").exists()
    assert not (folder / "target_adapter").exists()
    assert "simulation only" in capsys.readouterr().out
    assert read_run(folder).tuned_on == config.tuned_on.value
    (epsilon,) = (ledger["epsilon"] for ledger in metrics["privacy"].values())
    # A sweep's report reads the price from here, as that of any other arm.
    assert [
        (ledger["epsilon"], len(ledger["events"]))
        for ledger in read_provenance(folder)["ledgers"].values()
    ] == [(epsilon, 1)]
    if arm == "private_no_dp":
        assert epsilon is None
        assert metrics["tuning"]["num_samples"] == 24
    else:
        assert 7.5 < epsilon <= 8.0
        # Both clients' expected batches in one step.
        assert metrics["tuning"]["batch_size"] == 32


def test_private_arms_share_the_untuned_targets_judgement_and_nothing_that_read_records(
    here: Path,
) -> None:
    shared = here / "shared"
    for arm in ("private_no_dp", "private_dp"):
        run_arm(here / arm, f"arm={arm}", f"shared_folder={shared}")

    taken = json.loads((here / "private_dp" / "server" / "manifest.json").read_text())["taken"]
    assert list(taken) == ["13_untuned"]
    files = [path.name for path in (shared / "stages").glob("*/files/**/*") if path.is_file()]
    assert files == ["13_untuned.jsonl"]


def test_dp_sgd_moves_the_adapter_that_is_judged(here: Path) -> None:
    run_arm(here / "run", "arm=private_dp")

    adapter = read_adapter(here / "run" / "server" / "11_target_private" / "tuned")

    moved = [value for name, value in adapter.tensors.items() if ".lora_B." in name]
    assert moved
    assert all(abs(value).max() > 0 for value in moved)


def test_a_run_that_is_started_again_ends_with_the_same_metrics(here: Path) -> None:
    config = run_arm(here / "run", "arm=private_dp")
    first = read_metrics(here / "run" / "metrics.json")

    simulate(config, here / "run")

    assert read_metrics(here / "run" / "metrics.json") == first


def make_records(count: int) -> list[PrivateRecord]:
    return [PrivateRecord(prompt=f"p{i}", response=f"r{i}", unit_id=f"u{i}") for i in range(count)]


def test_records_become_samples_of_their_own_client() -> None:
    clients = [ClientConfig(name=name) for name in ("north", "south")]

    samples = records_as_samples(
        [make_records(2), make_records(3)], clients=clients, limit=None, seed=1
    )

    assert [sample.client_name for sample in samples] == ["north"] * 2 + ["south"] * 3
    assert len({sample.query_id for sample in samples}) == 5
    assert (samples[3].prompt, samples[3].chosen) == ("p1", "r1")


def test_a_bound_on_records_draws_them_by_the_seed() -> None:
    clients = [ClientConfig()]

    def draw(seed: int) -> set[str]:
        samples = records_as_samples([make_records(50)], clients=clients, limit=10, seed=seed)
        return {sample.prompt for sample in samples}

    drawn = [draw(seed) for seed in (1, 1, 2)]

    assert [len(own) for own in drawn] == [10, 10, 10]
    assert drawn[0] == drawn[1] != drawn[2]


def test_one_training_pays_the_whole_budget_over_all_clients_units() -> None:
    """A step expects 16 + 24 records of 1000 + 3000, which is one in a hundred."""
    client = settings().client_side
    small, large = (
        replace(
            client,
            generator=replace(client.generator, expected_batch_size=batch_size),
            records=replace(client.records, declared_size=size),
        )
        for batch_size, size in ((16, 1000), (24, 3000))
    )
    ledger = pooled_ledger([small, large], is_private=True)

    (event,) = ledger.events
    assert event.sample_rate == pytest.approx(0.01)
    assert event.steps == client.generator.steps
    assert composed_epsilon([event], delta=ledger.delta) == ledger.epsilon <= 8
    assert pooled_ledger([client], is_private=False).epsilon == math.inf
