"""A server and two clients as machines of their own: network namespaces joined by a bridge.

Each namespace has its loopback and one cable (a veth pair) to the bridge, which lies in a namespace
of its own, so nothing here reaches or is reached by the network of this machine. Where namespaces
cannot be made, everything happens on loopback with ports of its own; `World.is_isolated` says
which, and what needs a cable is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lm.telemetry import QUIET_ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(kw_only=True)
class Machine:
    """One machine: a namespace, or this one's loopback."""

    name: str
    address: str
    namespace: str | None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *words: str) -> list[str]:
        """Give a command line that runs on this machine."""
        return [*(["ip", "netns", "exec", self.namespace] if self.namespace else []), *words]

    def start(self, *words: str, log: Path, cwd: Path) -> subprocess.Popen[bytes]:
        """Start a program of the project."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(sys.executable, "-m", *words),
                cwd=cwd,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.started.append(process)
        return process

    def run(self, *words: str, cwd: Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a program of the project to its end."""
        return subprocess.run(
            self.command(sys.executable, "-m", *words),
            cwd=cwd,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def cable(self, *, is_up: bool) -> None:
        """Plug the cable in or pull it."""
        assert self.namespace is not None
        ip("-n", self.namespace, "link", "set", "eth0", "up" if is_up else "down")

    def num_received_bytes(self) -> int:
        """Count what came through the cable."""
        assert self.namespace is not None
        (link,) = json.loads(ip("-n", self.namespace, "-s", "-j", "link", "show", "dev", "eth0"))
        return int(link["stats64"]["rx"]["bytes"])


@dataclass(kw_only=True)
class World:
    """Three machines that can reach each other."""

    server: Machine
    clients: tuple[Machine, Machine]
    is_isolated: bool


def environment() -> dict[str, str]:
    """Give the environment of a node: no proxies, one thread, nothing sent home."""
    kept = {
        name: value for name, value in os.environ.items() if name.lower() not in _PROXY_VARIABLES
    }
    return {
        **kept,
        **QUIET_ENVIRONMENT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def ip(*words: str) -> str:
    """Call `ip`."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout


def can_make_namespaces() -> bool:
    """Tell whether this user may make network namespaces here."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"rw-{secrets.token_hex(3)}"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except subprocess.SubprocessError:
        return False
    return True


@contextlib.contextmanager
def machines() -> Iterator[World]:
    """Make three machines, and remove them and all that still runs on them afterwards."""
    is_isolated = can_make_namespaces()
    mark = f"rw{secrets.token_hex(2)}"
    names = ("server", "a", "b")
    spaces = [f"{mark}-{name}" for name in names]
    switch = f"{mark}-switch"
    made = [
        Machine(
            name=name,
            address=f"10.77.0.{number + 1}" if is_isolated else "127.0.0.1",
            namespace=space if is_isolated else None,
        )
        for number, (name, space) in enumerate(zip(names, spaces, strict=True))
    ]
    try:
        if is_isolated:
            _wire(switch, made)
        yield World(server=made[0], clients=(made[1], made[2]), is_isolated=is_isolated)
    finally:
        for machine in made:
            for process in machine.started:
                end(process)
        if is_isolated:
            for space in [*spaces, switch]:
                _remove(space)


def _wire(switch: str, made: Sequence[Machine]) -> None:
    ip("netns", "add", switch)
    ip("-n", switch, "link", "add", "br0", "type", "bridge")
    ip("-n", switch, "link", "set", "br0", "up")
    for machine in made:
        assert machine.namespace is not None
        ip("netns", "add", machine.namespace)
        ip("-n", machine.namespace, "link", "set", "lo", "up")
        port = f"p-{machine.name}"
        ip("-n", machine.namespace, "link", "add", "eth0", "type", "veth",
           "peer", "name", port, "netns", switch)  # fmt: skip
        ip("-n", switch, "link", "set", port, "master", "br0", "up")
        ip("-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", "eth0")
        ip("-n", machine.namespace, "link", "set", "eth0", "up")


def _remove(space: str) -> None:
    with contextlib.suppress(subprocess.SubprocessError):
        for pid in ip("netns", "pids", space).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip("netns", "del", space)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process kindly, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(
    is_so: Callable[[], bool], *, what: str, seconds: float = 400.0, every: float = 0.1
) -> None:
    """Wait for something that must come."""
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up, f"waited {seconds:g} s in vain for {what}"
        time.sleep(every)


def read_json(file: Path) -> Mapping[str, object]:
    """Read a JSON object, or an empty one while it is not there."""
    try:
        value: Mapping[str, object] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value
