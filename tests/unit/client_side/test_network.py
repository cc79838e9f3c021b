"""A node's network files are whole, or what they were, whatever happens while they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from client_side.folder import ClientFolder
from client_side.network import NodeFiles, join, make_node_files
from lm.settings import SettingsError
from protocol.errors import ConfigurationError
from tests.support.clients import client_config, make_client
from tests.support.parties import invitation


@pytest.fixture
def joined(tmp_path: Path) -> ClientFolder:
    folder = make_client(tmp_path / "node", client_config(tmp_path))
    make_node_files(folder)
    join(folder, invitation())
    return folder


def test_network_settings_that_lost_their_end_are_never_read_as_others(
    joined: ClientFolder,
) -> None:
    """A join that was killed, or an editor on a full disk."""
    files = NodeFiles(folder=joined)
    found = files.load()
    whole = files.settings_file.read_text(encoding="utf-8")
    refused = 0

    for end in range(0, len(whole), 7):
        files.settings_file.write_text(whole[:end], encoding="utf-8")
        try:
            assert files.load() == found
        except (SettingsError, ConfigurationError):
            refused += 1

    assert refused > len(whole) / 7 * 0.9


@pytest.mark.parametrize("file", ["network.yaml", "server_authority.pem", "introduction.json"])
def test_what_finds_no_room_stays_what_it_was(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    before = {path.name: path.read_bytes() for path in joined.path.iterdir() if path.is_file()}
    replace_with, name = Path.replace, file

    def full(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(28, "No space left on device")
        return replace_with(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        make_node_files(joined) if file == "introduction.json" else join(joined, invitation())

    after = {path.name: path.read_bytes() for path in joined.path.iterdir() if path.is_file()}
    assert after == before
