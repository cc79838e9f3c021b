"""Private selection by its own command on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations import command_line, run
from simulations.sweeps import selection

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


def test_what_a_selection_leaves_is_one_run_with_its_price_and_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(command_line, "_failures", [])
    monkeypatch.setattr("server_side.children.raise_on_signals", lambda: None)
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: 2)
    words = ["sweep=private_selection", "experiment=smoke", "run_folder=mine"]
    monkeypatch.setattr("sys.argv", ["rewardds-simulate", *words])

    run.main()

    facts = json.loads(Path("mine/selection.json").read_text("utf-8"))
    assert facts["epsilon"] > facts["epsilon_of_one_run"]
    assert facts["selected"] in facts["candidates"]
    assert {item.name for item in Path("mine").iterdir()} == {
        ".lock", "simulate.yaml", "provenance.json", "selection.json", "selected",
    }  # fmt: skip
    selected = Path("mine/selected")
    for name in ("metrics.json", "provenance.json"):
        assert json.loads((selected / name).read_text("utf-8"))["run_id"] == "selected"
    certificates = list((selected / "server" / "releases").glob("*.certificate.json"))
    assert {json.loads(item.read_text("utf-8"))["run_id"] for item in certificates} == {"selected"}
    # What is handed on states the price of the selection, and no time or memory of the training.
    metrics = json.loads((selected / "metrics.json").read_text("utf-8"))
    assert metrics["selection"] == {"epsilon": facts["epsilon"], "delta": facts["delta"]}
    assert set(metrics["seconds"].values()) == {0.0}
    stages = json.loads((selected / "server" / "manifest.json").read_text("utf-8"))["stages"]
    assert {item["seconds"] + item["peak_rss_bytes"] for item in stages.values()} == {0.0}
    for name in ("dataset/README.md", "report.html"):
        text = (selected / name).read_text("utf-8").lower()
        assert "chosen among several runs" in text
        assert f"ε = {facts['epsilon']:.4g}"[:8] in text
    assert "Time and memory" not in (selected / "report.html").read_text("utf-8")
    # Nothing names the place where runs were made, and nothing of the records is left.
    texts = [item.read_bytes() for item in selected.rglob("*") if item.is_file()]
    assert not any(b".unselected" in text for text in texts)
    assert not (selected / "clients").exists()
    assert "private_overlap" not in json.loads((selected / "metrics.json").read_text("utf-8"))
    assert len({item.stat().st_mtime for item in Path("mine").rglob("*")}) == 1
    # The command says where it is, and nothing of the runs.
    output = capsys.readouterr().out
    assert output.splitlines()[1:] == [
        "Selected: mine/selected", "Price:    mine/selection.json",
    ]  # fmt: skip
