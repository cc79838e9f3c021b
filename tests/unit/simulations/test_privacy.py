"""`rewardds-privacy`: figures, exit statuses, one-line errors, 80 columns."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import server_side.exchange.admission_terms
from client_side.budget import BudgetLedger, BudgetPolicy
from client_side.folder import ClientFolder
from lm.settings import save_settings
from protocol.accounting import composed_epsilon
from protocol.ledger import DpSgdEvent, PrivacyUnit, ProxyKind
from protocol.wire import encode_bytes
from server_side.admission import AdmissionPolicy
from simulations.privacy import main
from tests.support.clients import client_config, make_client
from tests.support.releases import (
    BASE_MODEL_DIGEST,
    RUN_ID,
    expected_shapes,
    make_ledger,
    make_reply,
)

ROOT = Path(__file__).parents[3]
GOLDEN: dict[str, Any] = json.loads((ROOT / "tests/golden/epsilon.json").read_text())
EVENTS = tuple(
    DpSgdEvent(proxy=proxy, noise_multiplier=1.0, sample_rate=0.05, steps=10) for proxy in ProxyKind
)
CALIBRATE = ["calibrate", "--declared-size", "3364", "--expected-batch-size", "256"]
CALIBRATE += ["--steps", "40", "--target-epsilon", "8", "--delta", "1e-5"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command; give exit status, output and errors."""
    monkeypatch.delenv("REWARDDS_TRACEBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run_command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status: object = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        if isinstance(status, str):  # as the interpreter does: the text to stderr, status 1
            return 1, printed.out, printed.err + status + "\n"
        assert isinstance(status, int)
        return status, printed.out, printed.err

    return run_command


@pytest.fixture
def client(tmp_path: Path) -> ClientFolder:
    folder = make_client(tmp_path / "node", client_config(tmp_path))
    for run_id in ("run-1", "run-2"):
        BudgetLedger(folder.ledger_folder).reserve(
            run_id=run_id,
            request_digest=hashlib.sha256(run_id.encode()).hexdigest(),
            events=EVENTS,
            unit=PrivacyUnit.RECORD,
            unit_keys=("unit-1", "unit-2"),
            policy=BudgetPolicy(lifetime_epsilon_cap=100.0, delta=1e-5),
            requested_by="[b]IRB[/b]",
        )
    return folder


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a release, and terms that need no base model on this disk."""
    policy = AdmissionPolicy(run_id=RUN_ID, base_model_digest=BASE_MODEL_DIGEST)
    monkeypatch.setattr(
        server_side.exchange.admission_terms,
        "admission_terms",
        lambda config, *, run_id: (policy, expected_shapes),
    )
    (tmp_path / "clinic-a.generator.release").write_bytes(encode_bytes(make_reply()))
    return tmp_path


def assert_fits(output: str) -> None:
    assert output
    assert max(len(line) for line in output.splitlines()) <= 80


@pytest.mark.parametrize(
    ("runs", "key"),
    [("1", "noise_multiplier_of_one_run"), ("2", "noise_multiplier_of_two_runs_sharing")],
)
def test_calibrate_gives_the_golden_noise(run: Run, runs: str, key: str) -> None:
    status, output, _ = run(*CALIBRATE, "--runs", runs, "--json")

    found = json.loads(output)
    assert status == 0
    assert found["noise_multipliers"] == pytest.approx(
        [GOLDEN[key]] * int(runs), abs=GOLDEN["tolerance"]
    )
    events = [
        DpSgdEvent(**{**event, "proxy": ProxyKind(event["proxy"])}) for event in found["events"]
    ]
    assert composed_epsilon(events, delta=1e-5) == found["epsilon"] <= 8.0


def test_calibrate_shows_no_less_noise_than_it_found(run: Run) -> None:
    _, values, _ = run(*CALIBRATE, "--runs", "1", "--json")
    _, output, _ = run(*CALIBRATE, "--runs", "1")

    assert_fits(output)
    (row,) = [line for line in output.splitlines() if "generator" in line]
    shown = float(row.split("│")[3])
    assert 0 <= shown - json.loads(values)["noise_multipliers"][0] < 1e-4


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--expected-batch-size", "5000", "expected_batch_size"),
        ("--steps", "0", "steps"),
        ("--runs", "0", "runs"),
        ("--target-epsilon", "-1", "target_epsilon"),
        ("--delta", "2", "delta"),
    ],
)
def test_a_value_out_of_range_is_one_line_that_names_it(
    run: Run, option: str, value: str, name: str
) -> None:
    status, output, errors = run(*CALIBRATE, option, value)

    assert (status, output) == (1, "")
    assert errors.startswith("Error: Expected")
    assert name in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["calibrate"], ["ledger"], ["explain", "--records", "many"]])
def test_words_that_are_not_understood_exit_with_2(run: Run, words: list[str]) -> None:
    assert run(*words)[0] == 2


@pytest.mark.parametrize("command", ["calibrate", "ledger", "verify", "explain"])
def test_help_says_what_every_option_is_for(run: Run, command: str) -> None:
    status, output, _ = run(command, "--help")

    assert status == 0
    assert "--json" in output


def test_ledger_shows_the_composed_sum_and_what_is_left(run: Run, client: ClientFolder) -> None:
    status, output, _ = run("ledger", client.path, "--json")

    found = json.loads(output)
    twice = composed_epsilon(EVENTS * 2, delta=1e-5)
    assert status == 0
    assert [item["run_id"] for item in found["reservations"]] == ["run-1", "run-2"]
    assert found["reservations"][1]["epsilon_so_far"] == twice
    assert found["data_sets"][0]["left"] == pytest.approx(8.0 - twice)


def test_ledger_prints_names_as_they_are(run: Run, client: ClientFolder) -> None:
    _, output, _ = run("ledger", client.path)

    assert_fits(output)
    assert "[b]IRB[/b]" in output


@pytest.mark.parametrize(
    "requested_by",
    ["127.0.0.1:34561", "federation.hospital-network.example.org:9092", "in-process simulation"],
)
def test_ledger_shows_who_asked_within_a_whole_table(
    run: Run, client: ClientFolder, requested_by: str
) -> None:
    """Also under a cap and after costs that take more digits."""
    config = client.load_config()
    roomy = replace(config.budget, lifetime_epsilon_cap=1000.0)
    save_settings(replace(config, budget=roomy), client.settings_file)
    costly = (replace(EVENTS[0], noise_multiplier=0.2),)
    BudgetLedger(client.ledger_folder).reserve(
        run_id="20261125-195912-smoke",
        request_digest="ab" * 32,
        events=costly,
        unit=PrivacyUnit.RECORD,
        unit_keys=("unit-1",),
        policy=BudgetPolicy(lifetime_epsilon_cap=1000.0, delta=1e-5),
        requested_by=requested_by,
    )

    _, output, _ = run("ledger", client.path)

    assert_fits(output)
    rows = [line for line in output.splitlines() if line[0] in "┃│"]
    assert all(line[-1] == line[0] for line in rows)
    cells = "".join(line.split("│")[2].strip() for line in rows if line[0] == "│")
    assert requested_by.replace(" ", "") in cells.replace(" ", "")
    assert len(requested_by) > 16 or f"│ {requested_by} " in output


def test_ledger_of_a_new_client_is_empty(run: Run, tmp_path: Path) -> None:
    folder = make_client(tmp_path / "new", client_config(tmp_path))

    status, output, _ = run("ledger", folder.path)

    assert status == 0
    assert "Nothing was ever reserved" in output


def test_ledger_of_no_client_is_an_error(run: Run, tmp_path: Path) -> None:
    status, _, errors = run("ledger", tmp_path)

    assert status == 1
    assert errors.count("\n") == 1


def test_ledger_runs_where_the_other_party_is_not_installed(client: ClientFolder) -> None:
    """A client's operator needs neither the server's package nor any model library."""
    script = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('server_side', 'torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from simulations.privacy import main\n"
        "main(sys.argv[1:])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "ledger", str(client.path), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["reservations"]) == 2


def test_verify_passes_a_genuine_release(run: Run, releases: Path) -> None:
    status, output, errors = run("verify", releases, "--run-id", RUN_ID)

    assert (status, errors) == (0, "")
    assert_fits(output)
    assert "all checks" in output


def test_verify_exits_with_3_and_the_code_of_the_first_check_that_failed(
    run: Run, releases: Path
) -> None:
    bad = make_reply(ledger=make_ledger(epsilon=7.5))
    (releases / "clinic-a.generator.release").write_bytes(encode_bytes(bad))

    status, output, errors = run("verify", releases, "--run-id", RUN_ID, "--json")

    (found,) = json.loads(output)["releases"]
    assert status == 3
    assert (found["is_admissible"], found["code"]) == (False, "arithmetic")
    assert "epsilon" not in found
    assert errors.startswith("Error [arithmetic]: clinic-a.generator.release: Expected epsilon=")


def test_verify_finds_nothing_in_an_empty_folder(run: Run, tmp_path: Path) -> None:
    status, _, errors = run("verify", tmp_path)

    assert status == 1
    assert errors.startswith("Error: Expected *.release")


def test_explain_gives_the_golden_figure_of_the_smallest_task(run: Run) -> None:
    status, output, errors = run("explain", "--records", "1497", "--json")

    (found,) = json.loads(output)
    assert (status, errors) == (0, "")
    assert found["record_epsilon"] == pytest.approx(33.2, abs=0.05)
    assert found["own_epsilon"] < found["stated_epsilon"] == 8.0


def test_explain_says_what_its_columns_mean(run: Run) -> None:
    status, output, _ = run("explain", "--records", "400", "--epochs", "1")

    assert status == 0
    assert_fits(output)
    for word in ("really", "stated", "ours", "Poisson", "no finite ε"):
        assert word in output
