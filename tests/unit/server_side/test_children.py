"""Child processes end with their parent, and what they started ends with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lm.logs import LogFormat, LogLevel
from protocol.errors import ExchangeError
from server_side.children import Children

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
# Starts a grandchild in a session of its own, as Flower does, and waits.
WITH_GRANDCHILD = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c',"
    " 'import time; time.sleep(60)'], start_new_session=True);"
    " print(p.pid, flush=True); time.sleep(60)",
]


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(is_so: Callable[[], bool], *, seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.05)


def start(children: Children, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return children.start("node", command, environment=os.environ, cwd=folder).process


def test_children_and_grandchildren_end_with_the_block(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "node.log"

    with Children(tmp_path / "logs") as children:
        process = start(children, WITH_GRANDCHILD, tmp_path)
        wait_until(lambda: log.read_text().strip().isdigit())
        grandchild = int(log.read_text())
        assert is_running(grandchild)

    assert not is_running(process.pid)
    assert not is_running(grandchild)


def test_children_end_when_the_block_fails(tmp_path: Path) -> None:
    processes = []

    def fail() -> None:
        with Children(tmp_path / "logs") as children:
            processes.append(start(children, SLEEP, tmp_path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()

    assert not is_running(processes[0].pid)


def test_processes_of_others_are_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen(SLEEP)
    try:
        with Children(tmp_path / "logs") as children:
            start(children, SLEEP, tmp_path)

        assert is_running(other.pid)
    finally:
        other.kill()
        other.wait()


def test_a_child_that_ends_early_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with Children(tmp_path / "logs") as children:
        process = start(children, [sys.executable, "-c", "print('last words')"], tmp_path)
        process.wait()

        with pytest.raises(ExchangeError, match="last words"):
            children.check()


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with Children(tmp_path / "logs") as children, pytest.raises(ExchangeError, match="absent"):
        start(children, [str(tmp_path / "absent")], tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the kernel's signal")
def test_children_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from server_side.children import Children\n"
        f"with Children(Path({str(tmp_path)!r})) as children:\n"
        "    child = children.start('node', [sys.executable, '-c',"
        " 'import time; time.sleep(60)'], environment=os.environ, cwd=Path.cwd())\n"
        "    print(child.process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())

    parent.kill()
    parent.wait()
    parent.stdout.close()

    wait_until(lambda: not is_running(child))


def test_what_a_child_prints_gets_the_form_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "link.log"
    command = [sys.executable, "-c", "print('INFO :      Started'); print('two words')"]

    with Children(tmp_path / "logs") as children:
        children.start(
            "link",
            command,
            environment=os.environ,
            cwd=tmp_path,
            entries=(LogFormat.JSON, LogLevel.INFO),
        )
        wait_until(lambda: log.is_file() and len(log.read_text().splitlines()) == 2)

    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(entry["where"], entry["message"]) for entry in entries] == [
        ("link", "Started"),
        ("link", "two words"),
    ]
