"""The whole journey by its own command, on tiny models, as a user would start it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from client_side.folder import ClientFolder
from server_side.exchange.outcome import clients_without_releases, read_outcome
from server_side.measuring.metrics import read_metrics
from tests.support.processes import child_with, is_training, ledger_entries

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "simulations.run", "experiment=smoke", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def simulate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def processes_about(folder: Path) -> list[str]:
    """Return the command lines of living processes that work for this run."""
    found = []
    for process in psutil.process_iter(["cmdline", "status", "cwd"]):
        about = " ".join([*(process.info["cmdline"] or []), process.info["cwd"] or ""])
        if str(folder) in about and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(about)
    return found


def wait_until(is_so: Callable[[], bool], *, seconds: float = 240.0) -> None:
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.2)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A run that went through, and what it said."""

    folder: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    return Whole(folder=folder, done=simulate(folder))


def test_in_one_process(whole: Whole) -> None:
    done = whole.done

    assert done.returncode == 0, done.stderr
    latest = whole.folder / "runs" / "latest"
    metrics = read_metrics(latest / "metrics.json")
    assert set(metrics["privacy"]) == {"client-1", "client-2"}
    assert all(0 < ledger["epsilon"] <= 8 for ledger in metrics["privacy"].values())
    assert (latest / "report.html").is_file()
    assert (metrics["arm"], metrics["tuned_on"]) == ("with_consensus", "synthetic")
    assert metrics["private_overlap"]["num_records"] > 100
    assert metrics["tuning"]["num_samples_seen"] > metrics["synthetic"]["num_texts"]
    assert "beside the private records" in (latest / "report.html").read_text(encoding="utf-8")
    assert "client-2" in done.stdout
    assert "rougeL" in done.stdout
    # The rewards of two-layer models that took three noisy steps may follow anything.
    warnings = done.stderr.splitlines()
    assert not [line for line in warnings if not line.startswith("Rewards follow the length")]


def test_in_processes_of_their_own_though_one_is_killed(tmp_path: Path) -> None:
    """The exchange begins again, all clients go on, and nobody pays twice."""
    long_enough = "client_side.generator.steps=80"
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            command("runtime=processes", "run_folder=run", long_enough),
            cwd=tmp_path,
            env=environment(),
            stdout=output,
            stderr=output,
        )
    run = tmp_path / "run"
    clients = [ClientFolder(path=run / "clients" / f"client-{number}") for number in (1, 2)]
    try:
        wait_until(lambda: is_training(clients[1], until=60) or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "output").read_text()
        command_itself = psutil.Process(process.pid)
        child_with("client_side.flower_node", str(clients[1].path), of=command_itself).kill()

        returned = process.wait(500)
    finally:
        process.kill()
        process.wait()

    said = (tmp_path / "output").read_text(encoding="utf-8")
    assert returned == 0, said
    (told,) = [line for line in said.splitlines() if "The node of client-2 ended" in line]
    assert told.endswith("(1 of 3). All clients go on from their last whole step.")
    outcome = read_outcome(run / "server")
    assert outcome is not None
    assert outcome["error"] is None
    assert clients_without_releases(run / "server") == ()
    for client in clients:
        assert ledger_entries(client) == {"reserve": 1, "start": 2, "release": 2}
    read_metrics(run / "metrics.json")
    assert "client-1: " in said
    assert not processes_about(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_all_processes_end_when_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    # A shell's background job ignores Ctrl-C and so would its children; a handler does not survive
    # exec, so with one in place here the child starts as it would from a terminal.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            command("runtime=processes", "run_folder=run"),
            cwd=tmp_path,
            env=environment(),
            stdout=output,
            stderr=output,
        )
    try:
        logs = tmp_path / "run" / "logs"
        wait_until(lambda: (logs / "client-2.log").exists() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "output").read_text()

        process.send_signal(number)

        assert process.wait(120) != 0
        # Killed, it can stop nobody: the kernel tells its children, and those theirs.
        wait_until(lambda: not processes_about(tmp_path))
    finally:
        signal.signal(signal.SIGINT, earlier)
        process.kill()
        process.wait()


def test_a_run_that_was_cut_off_goes_on_and_ends_with_the_same_pool(
    whole: Whole, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "cut"
    shutil.copytree(whole.folder / "runs" / "latest", run)
    # As a killed run leaves it: the exchange and some stages are whole, the rest is not there.
    server = run / "server"
    manifest = json.loads((server / "manifest.json").read_text(encoding="utf-8"))
    stages = list(manifest["stages"])
    keep = stages[: stages.index("11_target_r1")]
    pool = (server / "10_pool_r2.jsonl").read_text(encoding="utf-8")
    releases = {file.name: file.read_bytes() for file in (server / "releases").glob("*.release")}
    manifest["stages"] = {name: manifest["stages"][name] for name in keep}
    (server / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (run / "metrics.json").unlink()

    again = simulate_resume(tmp_path, "runs/cut")

    assert again.returncode == 0, again.stderr
    assert (server / "10_pool_r2.jsonl").read_text(encoding="utf-8") == pool
    assert "from an earlier start" in again.stdout
    assert releases == {
        file.name: file.read_bytes() for file in (server / "releases").glob("*.release")
    }
    read_metrics(run / "metrics.json")


def simulate_resume(folder: Path, run: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulations.run", f"resume={run}"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
