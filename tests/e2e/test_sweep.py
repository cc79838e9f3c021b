"""A sweep by its own command on tiny models: points share, and it survives `kill -9`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from simulations.sweeps.points import PointStatus, read_point

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
POINTS = ("-m", "experiment=smoke", "server_side.filtering.k=2,2.5", "hydra.sweep.dir=sweep")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # As a shell starts what runs in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )


def test_a_killed_sweep_goes_on_shares_and_is_reported(tmp_path: Path) -> None:
    killed = start(tmp_path, "simulations.run", *POINTS)
    give_up = time.monotonic() + 400
    stage = tmp_path / "sweep" / "0" / "server" / "08_candidates_r1.jsonl"
    while not stage.exists():
        assert killed.poll() is None, killed.stdout and killed.stdout.read()
        assert time.monotonic() < give_up
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()  # and close its output
    queries = (tmp_path / "sweep" / "0" / "server" / "07_queries.jsonl").read_bytes()

    resumed = start(tmp_path, "simulations.run", "resume=sweep")
    output, _ = resumed.communicate(timeout=600)

    assert resumed.returncode == 0, output
    points = [read_point(tmp_path / "sweep" / name) for name in "01"]
    assert all(point is not None and point.status is PointStatus.DONE for point in points)
    # Both start from one pair of proxies, and the second takes what does not depend on k.
    provenance = [
        json.loads((tmp_path / "sweep" / name / "provenance.json").read_text("utf-8"))
        for name in "01"
    ]
    assert provenance[0]["digests"]["releases"] == provenance[1]["digests"]["releases"]
    assert provenance[0]["ledgers"] == provenance[1]["ledgers"]
    assert (tmp_path / "sweep" / "1" / "server" / "07_queries.jsonl").read_bytes() == queries
    taken = json.loads((tmp_path / "sweep" / "1" / "server" / "manifest.json").read_text())["taken"]
    assert {"07_queries", "08_candidates_r1", "09_scored_r1", "13_untuned"} <= taken.keys()
    assert "10_pool_r1" not in taken
    reported = start(tmp_path, "simulations.sweeps.report", "sweep")
    said, _ = reported.communicate(timeout=300)
    assert reported.returncode == 0, said
    assert (tmp_path / "sweep" / "sweep_report.html").is_file()


def test_points_that_joblib_runs_side_by_side_share_their_exchange(tmp_path: Path) -> None:
    words = (*POINTS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")

    swept = start(tmp_path, "simulations.run", *words)
    output, _ = swept.communicate(timeout=600)

    assert swept.returncode == 0, output
    facts = []
    for name in "01":
        point = read_point(tmp_path / "sweep" / name)
        assert point is not None
        assert point.status is PointStatus.DONE
        facts.append(json.loads((tmp_path / "sweep" / name / "provenance.json").read_text("utf-8")))
    assert facts[0]["digests"]["releases"] == facts[1]["digests"]["releases"]
    assert {item["shared_exchange"]["made_by"] for item in facts} <= {"0", "1"}
    # Lines of points that run side by side begin with the point's number.
    assert {"[1]", "[2]"} <= {line[:3] for line in output.splitlines()}


def test_a_point_that_fails_under_joblib_makes_the_command_fail(tmp_path: Path) -> None:
    words = ("-m", "experiment=smoke", "hydra.sweep.dir=sweep", "hydra/launcher=joblib")
    absent = "client_side.records.path=absent-1.jsonl,absent-2.jsonl"

    swept = start(tmp_path, "simulations.run", *words, absent)
    output, _ = swept.communicate(timeout=300)

    assert swept.returncode == 1, output
    assert "found 2 that are not" in output.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_of_a_launcher_end_with_the_command(number: int, tmp_path: Path) -> None:
    """They hold a model each, and nobody is left who could ask them for another point."""
    words = (*POINTS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    swept = start(tmp_path, "simulations.run", *words)
    assert swept.stdout is not None
    begun: set[str] = set()
    while len(begun) < 2:
        begun |= {line for line in [swept.stdout.readline()] if "Run folder" in line}
        assert swept.poll() is None, begun

    swept.send_signal(number)

    swept.communicate(timeout=60)
    assert swept.returncode != 0
    give_up = time.monotonic() + 30
    while is_group_alive(swept.pid):
        assert time.monotonic() < give_up
        time.sleep(0.2)


def is_group_alive(leader: int) -> bool:
    """Say whether any process of a group lives.

    Zombies do not: an earlier test may have had orphans come to this process, where nobody asks
    for them.
    """
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False
