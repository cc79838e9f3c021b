"""Flower's client process, which here runs one pinned app bundle and refuses every other.

The node starts `flwr-clientapp` for each message; the shim that `client_side/supervising.py` puts
before it in the search path starts this file in its place. It is run by its path and imports
nothing of this project, because the project's packages are to come from the bundle that was
checked.

Covers: any bundle whose SHA-256 is not the pinned one; a bundle whose announced digest is not that
of its bytes; a run whose name or version, which are the server's text, leads to another folder than
that of the pinned bundle. Nothing of it is imported, and the server is told no more than that.
Does not cover: what the pinned bundle itself does; its operator has read and built it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

PIN_VARIABLE = "REWARDDS_BUNDLE_SHA256"
"""Environment variable with the digest of the only bundle that may run."""

AT_WORK_VARIABLE = "REWARDDS_CLIENT_PROCESS"
"""Environment variable with the file that holds the process's number for as long as it is at work;
left behind, it says that the process was killed."""

_OWN_PACKAGES = ("client_side", "lm", "protocol")


def main() -> None:
    """Run one message's client process, if it is of the pinned bundle."""
    import importlib

    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    # Any: what is replaced here is Flower's own import of a function, which it does not export.
    runtime: Any = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    pin_runtime(runtime)
    write_log()
    at_work = Path(os.environ[AT_WORK_VARIABLE])
    at_work.write_text(str(os.getpid()), encoding="ascii")
    try:
        flwr_clientapp()
    finally:
        at_work.unlink(missing_ok=True)


def pin_runtime(runtime: Any) -> None:
    """Let Flower's client process unpack the pinned bundle, and load what was unpacked.

    Args:
        runtime: Flower's module `run_clientapp`; two of its functions are replaced.

    Raises:
        SystemExit: It has not got the two functions that are to be replaced.
    """
    from flwr.clientapp.client_app import LoadClientAppError

    install = getattr(runtime, "install_from_fab", None)
    get_loader = getattr(runtime, "get_load_client_app_fn", None)
    if install is None or get_loader is None:
        # Without the places where the checks belong, nothing may run.
        sys.exit("Error: Expected Flower 1.41, found another. Install the pinned version.")
    unpacked: list[Path] = []

    def install_pinned(content: bytes, *arguments: Any, **named: Any) -> Any:
        # Privacy: whatever is unpacked and imported below this line may read the records.
        check_bundle(content, pinned=os.environ.get(PIN_VARIABLE, ""))
        unpacked.append(Path(install(content, *arguments, **named)))
        return unpacked[-1]

    def get_pinned_loader(*_: Any, **__: Any) -> Any:
        if not unpacked:
            raise LoadClientAppError("No app bundle was unpacked.")
        # Privacy: of its own, Flower would load the folder that the run's version names, which is
        # the server's text and may hold "../". Told the folder, it compares name and version.
        return get_loader(default_app_ref="", app_path=str(unpacked[-1]), multi_app=True)

    runtime.install_from_fab = install_pinned
    runtime.get_load_client_app_fn = get_pinned_loader


def write_log() -> None:
    """Write what this project logs to standard error, where the node's supervisor reads it."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    for name in _OWN_PACKAGES:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    # A library that gave the root logger a handler would have each of Flower's lines written twice.
    logging.getLogger("flwr").propagate = False


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Write one entry as one line."""
        return super().format(record).replace("\r", "\\r").replace("\n", "\\n")

    # Privacy: a traceback's text may quote a record; of an error its type is enough.
    def formatException(self, ei: Any) -> str:
        """Name an error's type."""
        return str(ei[0].__name__) if ei and ei[0] else "unknown error"


def check_bundle(content: bytes, *, pinned: str) -> None:
    """Refuse a bundle that is not the pinned one.

    Args:
        content: The bundle's bytes.
        pinned: SHA-256 of the only one that may run, in hexadecimal.

    Raises:
        LoadClientAppError: It is another one; Flower answers with a code and no text of it.
    """
    from flwr.clientapp.client_app import LoadClientAppError

    # Privacy: code of the server's choice would read the records; an empty pin lets none run.
    found = hashlib.sha256(content).hexdigest()
    if not pinned or found != pinned:
        print(
            f"ERROR: Expected the app bundle {pinned or '(none is pinned)'}, found {found}. "
            "Nothing of it was run. Agree with the server's operator on one version, then pin it "
            "with `rewardds-client join`.",
            file=sys.stderr,
            flush=True,
        )
        raise LoadClientAppError("The app bundle is not the pinned one.")


if __name__ == "__main__":
    main()
