"""Flower's node, made to end when it stops working.

Flower's SuperNode serves its own processes from a thread that outlives everything else: an error
that ends its main loop, or its heartbeat, leaves a process that lives and does nothing, and no
supervisor would start it again. Here any such end is the end of the process.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback


def main() -> None:
    """Run Flower's SuperNode with this process's arguments; never returns."""
    from flwr.supernode.cli import flower_supernode

    def end(arguments: threading.ExceptHookArgs) -> None:
        kind = arguments.exc_type.__name__
        print(f"ERROR: A thread of the node ended with {kind}.", file=sys.stderr, flush=True)
        os._exit(1)

    threading.excepthook = end
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


if __name__ == "__main__":
    main()
