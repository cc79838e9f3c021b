"""What runs in the process that is to be confined: give up everything, then run one program.

`server_side/sandbox/running.py` starts it with an empty environment and writes one JSON request to
it. The order is what makes it safe: files and network first, then limits, then capabilities, then
system calls, and only then the program. Each step is checked; when one fails, nothing is run and
the reason is written to the third descriptor, which the program never gets.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any, Final

from server_side.sandbox import kernel

READY: Final = "ready"
"""Written once the process is confined."""

_MAX_OPEN_FILES: Final = 32


def main() -> None:
    """Read the request, confine this process, run the program."""
    request = json.loads(sys.stdin.buffer.read())
    try:
        _confine(request)
    except OSError as problem:
        os.write(2, f"{problem.filename or 'open'}: {problem.strerror}".encode())
        os._exit(1)
    os.write(2, READY.encode())
    _keep_only_output()
    # Untrusted on purpose: this is what all of the above is for.
    exec(compile(request["program"], "<program>", "exec"), {"__name__": "__main__"})  # noqa: S102


def _confine(request: Any) -> None:  # a JSON object
    folder = request["folder"]
    if request["confinement"] == "namespaces":
        kernel.enter_namespaces(folder, scratch_bytes=request["file_bytes"])
    else:
        kernel.enter_landlock(folder)
    cpu_seconds = request["cpu_seconds"]
    # A second later the kernel kills a program that took no notice.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    for limit, value in (
        (resource.RLIMIT_AS, request["memory_bytes"]),
        (resource.RLIMIT_FSIZE, request["file_bytes"]),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    kernel.drop_capabilities()
    # Late, for the kernel forgets it when privileges change.
    kernel.die_with_parent(signal.SIGKILL)
    if os.getppid() != request["parent"]:
        os._exit(1)  # the server died before it could be watched
    kernel.allow_only_listed_calls()


def _keep_only_output() -> None:
    """Leave the program its output and nothing else of what this process was given."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 2)
    os.closerange(3, _MAX_OPEN_FILES)
    os.environ.clear()
    sys.argv[:] = [""]
