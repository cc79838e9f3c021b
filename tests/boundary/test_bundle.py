"""Gate 7: the app bundle that travels holds the listed source files and nothing else."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from client_side.running_code import code_digest
from protocol.artifacts import digest_code
from protocol.bundle import BUNDLED_PACKAGES, bundle_digest, stage_app

# Flower's own build asks for a pattern class by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    data = build_fab_from_disk(stage_app(tmp_path_factory.mktemp("app") / "app"))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_bundle_holds_exactly_the_sources_of_the_listed_folders(
    bundle: dict[str, bytes],
) -> None:
    expected = {
        f"{package}/{file.name}"
        for package in BUNDLED_PACKAGES
        for file in ROOT.glob(f"{package}/*.py")
    }

    assert set(bundle) == expected | {"pyproject.toml", ".info/CONTENT"}


def test_the_bundle_holds_no_data_file(bundle: dict[str, bytes]) -> None:
    suffixes = {Path(name).suffix for name in bundle}

    assert suffixes == {".py", ".toml", ""}


def test_records_beside_the_sources_stay_behind(tmp_path: Path) -> None:
    """Flower takes every YAML and JSON-lines file unless told otherwise."""
    app = stage_app(tmp_path / "app")
    (app / "client_side" / "records.jsonl").write_text("{}\n", encoding="utf-8")
    (app / "records.jsonl").write_text("{}\n", encoding="utf-8")
    (app / "client_node.yaml").write_text("name: x\n", encoding="utf-8")

    data = build_fab_from_disk(app)

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert not [name for name in archive.namelist() if name.endswith(("jsonl", "yaml"))]


def test_bundled_code_has_the_digest_that_certificates_state(tmp_path: Path) -> None:
    app = stage_app(tmp_path / "app")

    digest = digest_code([app / name for name in ("client_side", "lm", "protocol")])

    assert digest == code_digest()


def test_the_same_sources_give_the_same_bundle(tmp_path: Path) -> None:
    """Otherwise an operator could not pin the hash of what he signed off."""
    hashes = {
        hashlib.sha256(build_fab_from_disk(stage_app(tmp_path / name))).hexdigest()
        for name in ("a", "b")
    }

    assert hashes == {bundle_digest()}
