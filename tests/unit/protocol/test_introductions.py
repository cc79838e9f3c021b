"""Invitation and introduction: what is written is read back, and nothing else passes."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.errors import ConfigurationError, MalformedMessageError
from protocol.introductions import (
    Introduction,
    Invitation,
    fingerprint,
    read_introduction,
    write_introduction,
)


def node_key(curve: ec.EllipticCurve | None = None) -> str:
    public = ec.generate_private_key(curve or ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


INTRODUCTION = Introduction(client_name="ward", node_key=node_key(), signing_key="a" * 64)
INVITATION = Invitation(
    server="server.test:9443",
    authority="-----BEGIN CERTIFICATE-----\n",
    protocol_version=1,
    software_version="0.1.0",
    bundle_sha256="b" * 64,
    base_model_digest="c" * 64,
)


@pytest.mark.parametrize("value", [INTRODUCTION, INVITATION], ids=["introduction", "invitation"])
def test_read_gives_what_was_written(value: Invitation | Introduction, tmp_path: Path) -> None:
    spoken = write_introduction(value, tmp_path / "file")

    again = read_introduction(type(value), tmp_path / "file")

    assert again == value
    assert fingerprint(again) == spoken


def test_a_disk_that_fills_up_leaves_no_torn_file_and_the_older_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One torn file in an allow-list would shut every client out."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    write_introduction(INTRODUCTION, tmp_path / "ward.json")
    monkeypatch.setattr(os, "fsync", refuse)

    for name in ("ward", "clinic"):
        with pytest.raises(OSError, match="no room"):
            write_introduction(
                replace(INTRODUCTION, client_name="clinic"), tmp_path / f"{name}.json"
            )

    assert [file.name for file in tmp_path.iterdir()] == ["ward.json"]
    assert read_introduction(Introduction, tmp_path / "ward.json") == INTRODUCTION


def test_a_kill_while_a_file_is_written_leaves_nothing_that_a_list_would_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Path]] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(list(tmp_path.glob("*.json"))))

    write_introduction(INTRODUCTION, tmp_path / "ward.json")

    assert seen == [[]]
    assert (tmp_path / "ward.json").is_file()


CHANGES: list[tuple[Invitation | Introduction, dict[str, Any]]] = [
    (INTRODUCTION, {"client_name": "ward1"}),
    (INTRODUCTION, {"node_key": node_key()}),
    (INTRODUCTION, {"signing_key": "d" * 64}),
    (INVITATION, {"server": "server.test:9444"}),
    (INVITATION, {"authority": "-----BEGIN CERTIFICATE-----\nother"}),
    (INVITATION, {"protocol_version": 2}),
    (INVITATION, {"software_version": "0.1.1"}),
    (INVITATION, {"bundle_sha256": "d" * 64}),
    (INVITATION, {"base_model_digest": "d" * 64}),
]


@pytest.mark.parametrize(("value", "change"), CHANGES, ids=[next(iter(c)) for _, c in CHANGES])
def test_every_entry_changes_the_fingerprint(
    value: Invitation | Introduction, change: dict[str, Any]
) -> None:
    assert fingerprint(replace(value, **change)) != fingerprint(value)


@pytest.mark.parametrize("value", [INTRODUCTION, INVITATION], ids=["introduction", "invitation"])
def test_no_entry_is_left_out_when_fingerprints_are_tried(
    value: Invitation | Introduction,
) -> None:
    assert asdict(value).keys() == {
        name for changed, change in CHANGES if changed is value for name in change
    }


def test_a_fingerprint_is_128_bits_in_groups_that_can_be_read_out() -> None:
    """Whoever makes keys until one fits must need more tries than there is time for."""
    for value in (INTRODUCTION, INVITATION):
        assert re.fullmatch(r"([0-9a-f]{4} ){7}[0-9a-f]{4}", fingerprint(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({"kind": "introduction"}),
        json.dumps({"kind": "invitation", **asdict(INTRODUCTION)}),
        json.dumps({"kind": "introduction", **asdict(INTRODUCTION), "more": 1}),
        json.dumps({"kind": "introduction", **asdict(INTRODUCTION), "client_name": "../x"}),
        json.dumps({"kind": "introduction", **asdict(INTRODUCTION), "client_name": 1}),
        json.dumps({"kind": "introduction", **asdict(INTRODUCTION), "node_key": "ssh-rsa AAAA"}),
        json.dumps({"kind": "introduction", **asdict(INTRODUCTION), "signing_key": "A" * 64}),
        "[" * 100_000,
        "x" * 100_000,
    ],
)
def test_anything_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text, encoding="utf-8")

    with pytest.raises(MalformedMessageError, match="Expected an introduction at"):
        read_introduction(Introduction, tmp_path / "file")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MalformedMessageError, match="FileNotFoundError"):
        read_introduction(Invitation, tmp_path / "absent")


def test_a_node_key_on_another_curve_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="P-384"):
        replace(INTRODUCTION, node_key=node_key(ec.SECP256R1()))
