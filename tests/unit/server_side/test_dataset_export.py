import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest

from protocol.artifacts import Certificate, LoraShape
from protocol.errors import StageError
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from server_side.dataset_export import export_dataset, guarantees
from server_side.samples import CandidateOrigin, CuratedSample


def make_certificate(**changes: Any) -> Certificate:
    proxy = changes.pop("proxy", ProxyKind.REWARD)
    ledger = {"epsilon": 7.96, "reproducible_noise": False} | changes.pop("ledger", {})
    event = DpSgdEvent(proxy=proxy, noise_multiplier=0.8, sample_rate=0.1, steps=10)
    values: dict[str, Any] = {
        "protocol_version": 1,
        "software_version": "0.1.0",
        "client_name": "north",
        "run_id": "run-1",
        "proxy": proxy,
        "privacy": PrivacyLedger(
            unit=PrivacyUnit.RECORD,
            events=(event, event),
            delta=1e-5,
            accountant="pld",
            accountant_version="0.6.0",
            **ledger,
        ),
        "declared_size": 1000,
        "lora": LoraShape(
            rank=2,
            alpha=4.0,
            target_modules=("q_proj",),
            num_upper_layers=None,
            use_rslora=False,
        ),
        "has_reward_head": proxy is ProxyKind.REWARD,
        "base_model_digest": "0" * 64,
        "weights_digest": "1" * 64,
        "code_digest": "2" * 64,
        "instruction": "Answer the message.",
        "max_prompt_tokens": 64,
        "max_response_tokens": 96,
        "created_at": 86_400,
    }
    return Certificate(**(values | changes))


def make_sample(index: int = 0, **changes: Any) -> CuratedSample:
    values: dict[str, Any] = {
        "query_id": f"q{index}",
        "client_name": "north",
        "instruction": "Answer the message.",
        "prompt": f"My knee hurts, {index} days now.",
        "chosen": "Rest it — and call us if it swells.",
        "rejected": "No.",
        "chosen_candidate_id": f"q{index}-0",
        "rejected_candidate_id": f"q{index}-1",
        "chosen_reward": 1.25,
        "rejected_reward": -0.5,
        "chosen_perplexity": 12.5,
        "round_index": 1,
    }
    return CuratedSample(**(values | changes))


def _export(folder: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "folder": folder / "dataset",
        "run_id": "run-1",
        "certificates": [make_certificate()],
        "settings": {"synthesis": {"num_queries": 3}},
    }
    pool = changes.pop("pool", [make_sample(i) for i in range(3)])
    return export_dataset(pool, **(arguments | changes))


def test_datasets_library_loads_the_folder(tmp_path: Path) -> None:
    rewritten = {
        "chosen_origin": CandidateOrigin.REWRITE,
        "chosen_lineage": ("q0-r1-c1", "q0-r2-c3"),
    }
    pool = [
        make_sample(
            i, chosen='Zeile 1\n"Zeile" 2 ☂', joined_round=1 + i, **(rewritten if i else {})
        )
        for i in range(3)
    ]

    folder = _export(tmp_path, pool=pool)
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))

    # Arrow has lists and no tuples.
    assert [dict(row) for row in loaded] == [
        {**dataclasses.asdict(sample), "chosen_lineage": list(sample.chosen_lineage)}
        for sample in pool
    ]


def test_json_lines_hold_the_same_rows_as_parquet(tmp_path: Path) -> None:
    folder = _export(tmp_path)

    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    parquet = datasets.Dataset.from_parquet(
        str(folder / "train.parquet"), cache_dir=str(tmp_path / "cache")
    )

    assert rows == list(parquet)


def test_card_states_the_composed_guarantee_of_each_client(tmp_path: Path) -> None:
    certificates = [
        make_certificate(proxy=ProxyKind.GENERATOR, ledger={"epsilon": 5.0}),
        make_certificate(ledger={"epsilon": 7.96}),
        make_certificate(client_name="south", ledger={"epsilon": 3.5}),
    ]

    card = (_export(tmp_path, certificates=certificates) / "README.md").read_text()

    assert "| north | 7.96 | 1e-05 | one record |" in card
    assert "| south | 3.5 | 1e-05 | one record |" in card
    assert "| north | 5 |" not in card


def test_card_says_when_noise_was_reproducible_or_missing(tmp_path: Path) -> None:
    certificates = [
        make_certificate(ledger={"reproducible_noise": True}),
        make_certificate(client_name="south", ledger={"epsilon": math.inf}),
    ]

    card = (_export(tmp_path, certificates=certificates) / "README.md").read_text()

    assert "**Simulation only** for north" in card
    assert "**No guarantee** for south" in card


def test_an_honest_run_carries_no_warning(tmp_path: Path) -> None:
    card = (_export(tmp_path) / "README.md").read_text()

    assert "**Simulation only**" not in card
    assert "**No guarantee**" not in card
    assert "## Known limits" in card


def test_certificates_are_kept_word_for_word(tmp_path: Path) -> None:
    folder = _export(tmp_path)

    (statement,) = json.loads((folder / "certificates.json").read_text())

    assert statement["weights_digest"] == "1" * 64
    assert statement["privacy"]["epsilon"] == 7.96


def test_a_setting_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    settings = {"note": "```\n# A heading of mine"}

    card = (_export(tmp_path, settings=settings) / "README.md").read_text()

    assert card.count("```") == 4


def test_export_replaces_an_older_one_and_leaves_no_remains(tmp_path: Path) -> None:
    _export(tmp_path)

    folder = _export(tmp_path, pool=[make_sample()])

    assert len((folder / "train.jsonl").read_text().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_failed_export_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("server_side.dataset_export.pq.write_table", fail)

    with pytest.raises(OSError, match="disk full"):
        _export(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="empty pool"):
        _export(tmp_path, pool=[])


def test_guarantees_are_sorted_by_client() -> None:
    certificates = [make_certificate(client_name=name) for name in ("south", "north")]

    assert list(guarantees(certificates)) == ["north", "south"]
