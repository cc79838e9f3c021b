"""Commented settings read back as they were, and say of each key what the code says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import client_side.network
import server_side.exchange.network
from client_side.config import ClientConfig, GeneratorConfig
from lm.commented_settings import field_comments, save_commented_settings
from lm.settings import load_settings
from server_side.config import ServerConfig

KINDS = [
    ClientConfig,
    ServerConfig,
    client_side.network.NetworkConfig,
    server_side.exchange.network.NetworkConfig,
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_reads_back(kind: type, tmp_path: Path) -> None:
    save_commented_settings(kind(), tmp_path / "file.yaml", head=["For the test."])

    assert load_settings(kind, tmp_path / "file.yaml") == kind()
    assert (tmp_path / "file.yaml").read_text(encoding="utf-8").startswith("# For the test.\n")


@pytest.mark.parametrize("kind", KINDS)
def test_each_key_has_its_comment(kind: type, tmp_path: Path) -> None:
    save_commented_settings(kind(), tmp_path / "file.yaml")

    lines = (tmp_path / "file.yaml").read_text(encoding="utf-8").splitlines()
    keys = [
        number
        for number, line in enumerate(lines)
        if ":" in line and not line.lstrip().startswith(("#", "-"))
    ]
    assert len(keys) > 5
    assert not [lines[number] for number in keys if not lines[number - 1].lstrip().startswith("#")]


def test_inherited_fields_have_comments_too() -> None:
    assert set(field_comments(GeneratorConfig)) == {
        item.name for item in dataclasses.fields(GeneratorConfig)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_comment_names_a_constant_of_the_code(kind: type, tmp_path: Path) -> None:
    save_commented_settings(kind(), tmp_path / "file.yaml")

    text = (tmp_path / "file.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", text)) <= {"REWARDDS_JUDGE_API_KEY"}
