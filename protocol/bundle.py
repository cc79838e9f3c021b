"""The app bundle that a run ships: the listed source files and nothing else, and its digest.

Flower sends the server's app to each node and runs it there. So both parties must mean the same
bytes: the server ships this bundle, and a client's operator pins the digest of the one that his
own installed sources give. Flower walks the folder it is given and bundles what it finds, so it is
given a folder of its own that holds only what may travel; the repository, with its runs and
environments, is never walked.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Final

from protocol.errors import ConfigurationError

BUNDLED_PACKAGES: Final = (
    "client_side",
    "lm",
    "protocol",
    "server_side",
    "server_side/config",
    "server_side/exchange",
    "server_side/measuring",
    "server_side/sandbox",
    "server_side/tuning",
)
"""Folders of which every Python file travels; `pyproject.toml` lists the same."""


def stage_app(folder: Path) -> Path:
    """Copy the app's sources into a folder that `flwr run` can take.

    Args:
        folder: Where; emptied first if it exists.

    Returns:
        The folder.

    Raises:
        ConfigurationError: The project's `pyproject.toml` is not beside its packages.
    """
    root = Path(__file__).resolve().parent.parent
    project_file = root / "pyproject.toml"
    if not project_file.is_file():
        raise ConfigurationError(
            f"Expected pyproject.toml in {root}, found none. Install the project from its source "
            "folder with `pip install -e`, because a run ships its sources."
        )
    shutil.rmtree(folder, ignore_errors=True)
    for package in BUNDLED_PACKAGES:
        (folder / package).mkdir(parents=True)
        for source in sorted((root / package).glob("*.py")):
            shutil.copyfile(source, folder / package / source.name)
    shutil.copyfile(project_file, folder / "pyproject.toml")
    return folder


def sources_digest() -> str:
    """Return the SHA-256 over names and contents of all sources that travel.

    Returns:
        64 hexadecimal digits; unlike `bundle_digest` it needs neither Flower nor `pyproject.toml`.
    """
    root = Path(__file__).resolve().parent.parent
    total = hashlib.sha256()
    for package in BUNDLED_PACKAGES:
        for source in sorted((root / package).glob("*.py")):
            content = hashlib.sha256(source.read_bytes()).hexdigest()
            total.update(f"{package}/{source.name}\0{content}\n".encode())
    return total.hexdigest()


def bundle_digest() -> str:
    """Return the SHA-256 of the bundle that this installation's sources give.

    Returns:
        64 hexadecimal digits; the same sources give the same on every machine.

    Raises:
        ConfigurationError: The project is not installed from its source folder.
    """
    # Only now: Flower's command line takes a second to import.
    from flwr.cli.build import build_fab_from_disk

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # Flower's own build asks for a pattern class by its old name.
        warnings.simplefilter("ignore", DeprecationWarning)
        return hashlib.sha256(build_fab_from_disk(stage_app(Path(scratch) / "app"))).hexdigest()
