"""What a run keeps about itself: seeds, digests and ledgers, from the moment the records paid."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from lm.model_folders import base_model_digest
from lm.settings import save_settings, to_settings
from protocol.errors import StageError
from server_side.provenance import later_sources, read_provenance
from simulations.config import SimulateConfig
from simulations.provenance import begin_provenance
from simulations.run import simulate

pytestmark = pytest.mark.integration

CONF = Path(__file__).resolve().parents[2] / "conf"


def fail(*_: object, **__: object) -> None:
    raise StageError("Expected a disk, got none. Do it.")


def start_that_fails(
    folder: Path, *overrides: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr("server_side.pipeline.run_pipeline", fail)
    monkeypatch.setattr("simulations.private_tuning.run_private_arm", fail)
    with initialize_config_dir(str(CONF), version_base=None):
        values = compose("simulate", overrides=["experiment=smoke", "seed=7", *overrides])
    config = to_settings(SimulateConfig, values)
    folder.mkdir()
    save_settings(config, folder / "simulate.yaml")
    begin_provenance(folder)
    with pytest.raises(StageError, match="disk"):
        simulate(config, folder)
    return read_provenance(folder)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_run_that_fails_after_its_exchange_keeps_seeds_digests_and_ledgers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "public.jsonl"
    public.write_text('{"prompt": "How much salt is in bread?"}\n', encoding="utf-8")
    folder = tmp_path / "run"

    facts = start_that_fails(
        folder, f"server_side.synthesis.public_prompts_path={public}",
        "server_side.synthesis.public_prompts_column=prompt", monkeypatch=monkeypatch,
    )  # fmt: skip

    model = base_model_digest(folder / "models" / "tiny")
    certificates = [
        json.loads(file.read_text("utf-8"))
        for file in (folder / "server" / "releases").glob("*.certificate.json")
    ]
    assert facts["seeds"] == {"seed": 7, "noise": "operating system"}
    assert facts["digests"] == {
        "base_model": model,
        "target_model": model,
        "test_records": sha256(folder / "server" / "evaluation.jsonl"),
        "public_texts": {"server_side.synthesis": sha256(public)},
        "records": {
            name: sha256(folder / "clients" / name / "records.jsonl")
            for name in ("client-1", "client-2")
        },
        "releases": {
            f"{item['client_name']}/{item['proxy']}": item["weights_digest"]
            for item in certificates
        },
    }
    assert len(certificates) == 4
    dearest = {
        name: max(
            item["privacy"]["epsilon"] for item in certificates if item["client_name"] == name
        )
        for name in ("client-1", "client-2")
    }
    assert {name: ledger["epsilon"] for name, ledger in facts["ledgers"].items()} == dearest
    assert "finished" not in facts


def test_an_arm_that_reads_records_states_its_price_before_it_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = start_that_fails(tmp_path / "run", "arm=private_dp", monkeypatch=monkeypatch)

    (ledger,) = facts["ledgers"].values()
    assert 7.5 < ledger["epsilon"] <= 8


def test_a_run_that_goes_on_with_other_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_provenance(tmp_path)
    begin_provenance(tmp_path)
    same = later_sources(tmp_path)
    monkeypatch.setattr("server_side.provenance.sources_digest", lambda: "others")

    begin_provenance(tmp_path)

    assert same == []
    (said,) = later_sources(tmp_path)
    assert "other sources_digest" in said


def test_a_run_that_goes_on_with_another_dtype_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bfloat16 is not native, the same settings compute in float32."""
    monkeypatch.setattr("lm.devices.fastest_dtype", lambda device: torch.bfloat16)
    begin_provenance(tmp_path)
    monkeypatch.setattr("lm.devices.fastest_dtype", lambda device: torch.float32)

    begin_provenance(tmp_path)

    facts = read_provenance(tmp_path)
    assert (facts["dtype"], facts["resumed"][0]["dtype"]) == ("bfloat16", "float32")
    (said,) = later_sources(tmp_path)
    assert "other dtype" in said


def test_a_run_of_a_version_that_noted_no_dtype_is_not_said_to_have_changed_it(
    tmp_path: Path,
) -> None:
    begin_provenance(tmp_path)
    begin_provenance(tmp_path)
    file = tmp_path / "provenance.json"
    facts = json.loads(file.read_text())
    del facts["dtype"]
    file.write_text(json.dumps(facts))

    assert later_sources(tmp_path) == []
