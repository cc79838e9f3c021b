"""Lay out the Flower app that a run ships: the listed source files and nothing else.

Flower walks the folder it is given and bundles what it finds, so it is given a folder of its own
that holds only what may travel. The repository, with its runs and environments, is never walked.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from protocol.errors import ConfigurationError

BUNDLED_PACKAGES: Final = ("client_side", "lm", "protocol", "server_side")
"""Packages of which every Python file travels; `pyproject.toml` lists the same."""


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
