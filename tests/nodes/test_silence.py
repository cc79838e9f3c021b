"""Nothing phones home: a whole simulation runs where there is only loopback, and asks for no name.

A library that reports home must look its host up first. In the namespace the only name server is a
listener of the test's, so a look-up is seen even where its failure is swallowed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server_side.measuring.metrics import read_metrics
from tests.support.machines import ROOT, can_make_namespaces, environment, ip, wait_until

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not can_make_namespaces(), reason="needs root and iproute2 to make a network namespace"
    ),
]

# Answers nothing; writes down which names it was asked for.
_NAME_SERVER = """
import socket, sys
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    question = listener.recv(512)
    at, labels = 12, []
    while at < len(question) and (size := question[at]):
        labels.append(question[at + 1 : at + 1 + size].decode("ascii", "replace"))
        at += size + 1
    print(".".join(labels), flush=True)
"""


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A namespace with loopback alone, and the file with the names that were asked for."""
    space = f"rw{secrets.token_hex(2)}-silent"
    settings = Path("/etc/netns") / space
    asked = tmp_path / "asked"
    ip("netns", "add", space)
    server = None
    try:
        settings.mkdir(parents=True)
        (settings / "resolv.conf").write_text(
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", encoding="ascii"
        )
        ip("-n", space, "link", "set", "lo", "up")
        with asked.open("wb") as log:
            server = subprocess.Popen(
                ["ip", "netns", "exec", space, sys.executable, "-c", _NAME_SERVER], stdout=log
            )
        wait_until(lambda: "ready" in asked.read_text(), what="a name server")
        yield space, asked
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            for pid in ip("netns", "pids", space).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        if server is not None:
            server.wait()
        ip("netns", "del", space)
        shutil.rmtree(settings)


def run(space: str, *words: str, cwd: Path, more: dict[str, str] | None = None) -> tuple[int, str]:
    # Our own switches alone: those of the test's environment would hide a missing one.
    kept = {
        name: value
        for name, value in environment().items()
        if not name.startswith(("FLWR_", "RAY_", "HF_", "DO_NOT", "DISABLE_"))
    }
    done = subprocess.run(
        ["ip", "netns", "exec", space, sys.executable, *words],
        cwd=cwd, env={**kept, **(more or {})}, capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def names(asked: Path) -> list[str]:
    return [line for line in asked.read_text(encoding="ascii").splitlines() if line != "ready"]


def test_a_look_up_would_be_seen(silent: tuple[str, Path], tmp_path: Path) -> None:
    """What Flower reports without the switches; it keeps quiet about its failure."""
    space, asked = silent

    run(
        space,
        "-c",
        "from flwr.supercore.telemetry import EventType, event\n"
        "event(EventType.PING).result(timeout=20)\n",
        cwd=tmp_path,
    )

    assert "telemetry.flower.ai" in names(asked)


@pytest.mark.parametrize(
    ("runtime", "known"),
    # Ray asks whether it runs in a cloud, whether or not it may report that; it reports nothing.
    [("processes", set()), ("ray", {"metadata.google.internal"})],
)
def test_a_whole_simulation_asks_for_no_name(
    silent: tuple[str, Path], tmp_path: Path, runtime: str, known: set[str]
) -> None:
    space, asked = silent

    code, said = run(
        space,
        "-m",
        "simulations.run",
        "experiment=smoke",
        f"runtime={runtime}",
        cwd=tmp_path,
        more={"PYTHONPATH": str(ROOT)},
    )

    assert code == 0, said
    read_metrics(tmp_path / "runs" / "latest" / "metrics.json")
    assert set(names(asked)) <= known
