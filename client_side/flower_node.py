"""Flower's node, made to end when it stops working.

Flower's SuperNode serves its own processes from a thread that outlives everything else: an error
that ends its main loop, or its heartbeat, leaves a process that lives and does nothing, and no
supervisor would start it again. So does an end of the child that starts the client processes: the
messages that still come are answered by nobody. Here any such end is the end of the process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Final

import psutil

_EXECUTOR: Final = "flower-superexec"
_LOOK_SECONDS: Final = 1.0
_NUM_NAME_CHARS: Final = 15


def main() -> None:
    """Run Flower's SuperNode with this process's arguments; never returns."""
    from flwr.supernode.cli import flower_supernode

    def end(arguments: threading.ExceptHookArgs) -> None:
        kind = arguments.exc_type.__name__
        print(f"ERROR: A thread of the node ended with {kind}.", file=sys.stderr, flush=True)
        os._exit(1)

    threading.excepthook = end
    threading.Thread(target=end_with_executor, daemon=True).start()
    code: object = 1
    try:
        flower_supernode()
    except SystemExit as ending:
        code = ending.code
    # Whatever it was, the process must not outlive its main loop.
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def end_with_executor() -> None:
    """End this process as soon as the child that starts client processes has ended.

    Flower starts it once and never looks at it again.
    """
    executor: psutil.Process | None = None
    while executor is None:
        time.sleep(_LOOK_SECONDS)
        executor = _executor()
    # It stays a zombie until somebody waits for it, so that the number cannot be another's.
    executor.wait()
    print("ERROR: The node's part that starts client processes ended.", file=sys.stderr, flush=True)
    os._exit(1)


def _executor() -> psutil.Process | None:
    for child in psutil.Process().children():
        # A child that has just been forked bears this process's words until it becomes another.
        with suppress(psutil.NoSuchProcess):
            if _is_executor(child):
                return child
    return None


def _is_executor(child: psutil.Process) -> bool:
    try:
        return any(word.endswith(_EXECUTOR) for word in child.cmdline())
    except psutil.ZombieProcess:
        # It ended before anybody looked. Its words are gone, and of its name the system keeps the
        # first 15 characters.
        name: str = child.name()
        return name == _EXECUTOR[:_NUM_NAME_CHARS]


if __name__ == "__main__":
    main()
