import dataclasses
import json
from pathlib import Path

import datasets
import pytest

from protocol.errors import StageError
from protocol.ledger import ProxyKind
from server_side.dataset_export import guarantees
from server_side.samples import CandidateOrigin
from tests.support.synthetic_rows import export_rows, make_certificate, make_sample


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

    folder = export_rows(tmp_path, pool=pool)
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))

    # Arrow has lists and no tuples.
    assert [dict(row) for row in loaded] == [
        {**dataclasses.asdict(sample), "chosen_lineage": list(sample.chosen_lineage)}
        for sample in pool
    ]


def test_data_sets_of_two_runs_are_not_taken_for_each_other_out_of_one_cache(
    tmp_path: Path,
) -> None:
    """`datasets` keeps what it loaded by the names of folder and configuration alone."""
    cache = str(tmp_path / "cache")
    folders = [
        export_rows(tmp_path / run, pool=[make_sample(0, chosen=run)])
        for run in ("first", "second")
    ]

    loaded = [
        datasets.load_dataset(str(folder), split="train", cache_dir=cache) for folder in folders
    ]

    assert [rows["chosen"] for rows in loaded] == [["first"], ["second"]]


def test_json_lines_hold_the_same_rows_as_parquet(tmp_path: Path) -> None:
    folder = export_rows(tmp_path)

    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    parquet = datasets.Dataset.from_parquet(
        str(folder / "train.parquet"), cache_dir=str(tmp_path / "cache")
    )

    assert rows == list(parquet)


def test_certificates_are_kept_word_for_word(tmp_path: Path) -> None:
    folder = export_rows(tmp_path)

    (statement,) = json.loads((folder / "certificates.json").read_text())

    assert statement["weights_digest"] == "1" * 64
    assert statement["privacy"]["epsilon"] == 7.96


def test_export_replaces_an_older_one_and_leaves_no_remains(tmp_path: Path) -> None:
    export_rows(tmp_path)

    folder = export_rows(tmp_path, pool=[make_sample()])

    assert len((folder / "train.jsonl").read_text().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_failed_export_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("server_side.dataset_export.pq.write_table", fail)

    with pytest.raises(OSError, match="disk full"):
        export_rows(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="empty pool"):
        export_rows(tmp_path, pool=[])


def test_guarantees_are_sorted_by_client() -> None:
    certificates = [make_certificate(client_name=name) for name in ("south", "north")]

    assert list(guarantees(certificates)) == ["north", "south"]


def test_guarantee_of_a_client_is_the_certificate_that_lists_all_events() -> None:
    """A smaller δ makes the ε of fewer events the larger one."""
    event = make_certificate().privacy.events[0]
    first = make_certificate(
        proxy=ProxyKind.GENERATOR, ledger={"events": (event,), "epsilon": 7.0, "delta": 1e-9}
    )
    both = make_certificate(ledger={"events": (event, event), "epsilon": 6.0, "delta": 1e-5})
    dearer = make_certificate(ledger={"events": (event, event), "epsilon": 6.5, "delta": 1e-5})

    for certificates in ([first, both], [both, first]):
        assert guarantees(certificates) == {"north": both}
    for certificates in ([both, dearer], [dearer, both]):
        assert guarantees(certificates) == {"north": dearer}
