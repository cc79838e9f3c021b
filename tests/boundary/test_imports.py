"""Gate 1: who may import whom, by static contracts and in processes that lack the other party."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_IMPORT_ALL_WITHOUT = """
import importlib, pkgutil, sys, warnings
party, *hidden = sys.argv[1:]

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden or name in hidden:
            raise ModuleNotFoundError(f"{name} is hidden from this process", name=name)

sys.meta_path.insert(0, Hide())
package = importlib.import_module(party)
names = [party]
if hasattr(package, "__path__"):
    names += [found.name for found in pkgutil.walk_packages(package.__path__, party + ".")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def import_all(party: str, *, without: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL_WITHOUT, party, *without],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_import_contracts_hold() -> None:
    result = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("party", "without"),
    [
        ("client_side", ["server_side", "simulations"]),
        ("server_side", ["client_side", "simulations", "opacus"]),
        ("protocol", ["client_side", "server_side", "simulations", "lm", "torch", "transformers"]),
        ("lm", ["client_side", "server_side", "simulations", "protocol", "opacus"]),
    ],
)
def test_package_imports_where_the_others_are_not_installed(party: str, without: list[str]) -> None:
    """Static contracts miss imports by name; a process without the other party does not."""
    result = import_all(party, without=without)

    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) > 1


def test_egress_works_where_records_cannot_be_imported() -> None:
    result = import_all(
        "client_side.egress",
        without=["client_side.records", "client_side.preferences", "server_side", "torch"],
    )

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("app", ["client_side.app", "server_side.app"])
def test_apps_start_where_no_library_of_models_is_installed(app: str) -> None:
    """What strangers send first should meet as little code as may be; training loads the rest."""
    result = import_all(app, without=["torch", "transformers", "peft", "trl"])

    assert result.returncode == 0, result.stderr
