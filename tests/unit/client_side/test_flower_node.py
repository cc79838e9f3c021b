"""Flower's node ends when a part without which it does nothing has ended."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

# Runs what a node runs beside Flower, with a child that sleeps in the place of Flower's.
_NODE = (
    "import subprocess, sys\n"
    "subprocess.Popen([sys.executable, '-c', 'pass'])\n"
    "subprocess.Popen([sys.executable, sys.argv[1]])\n"
    "from client_side.flower_node import end_with_executor\n"
    "end_with_executor()\n"
)


def test_a_node_ends_when_nobody_starts_client_processes_any_more(tmp_path: Path) -> None:
    executor = tmp_path / "flower-superexec"
    executor.write_text("import time; time.sleep(60)", encoding="utf-8")
    command = [sys.executable, "-c", _NODE, str(executor)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as node:
        try:
            time.sleep(3.0)
            assert node.poll() is None, "another child of it ended long ago"
            (child,) = [
                child
                for child in psutil.Process(node.pid).children()
                if child.status() != psutil.STATUS_ZOMBIE
            ]

            child.kill()

            assert node.wait(20) == 1
            assert node.stderr is not None
            assert b"part that starts client processes ended" in node.stderr.read()
        finally:
            node.kill()


def test_a_node_ends_whose_executor_ended_before_anybody_looked(tmp_path: Path) -> None:
    executor = tmp_path / "flower-superexec"
    executor.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    executor.chmod(0o700)
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.argv[1]])\n"
        "from client_side.flower_node import end_with_executor\n"
        "end_with_executor()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(executor)], stderr=subprocess.PIPE
    ) as node:
        try:
            assert node.wait(20) == 1
            assert node.stderr is not None
            assert b"part that starts client processes ended" in node.stderr.read()
        finally:
            node.kill()
