"""Gate 4, at rest: what is read back from the disk passes every check again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from flwr.app import MetricRecord, RecordDict

from protocol.errors import (
    AdmissionCode,
    AdmissionError,
    MalformedMessageError,
    ProtocolError,
    VersionMismatchError,
)
from protocol.ledger import ProxyKind
from protocol.wire import encode, encode_bytes
from server_side.admission import (
    load_admitted,
    store_admitted,
    store_refused,
)
from tests.boundary.test_admission import ANY_KEY, POLICY, enter
from tests.support.releases import (
    OTHER_KEY,
    expected_shapes,
    make_reply,
)


def test_stored_releases_come_back_after_all_checks(tmp_path: Path) -> None:
    first = enter(make_reply())
    second = enter(make_reply(proxy=ProxyKind.REWARD), admitted=[first])
    store_admitted(second, tmp_path)
    store_admitted(first, tmp_path)

    loaded = load_admitted(tmp_path, policy=POLICY, expected_shapes=expected_shapes)

    assert [item.release for item in loaded] == [first.release, second.release]


def test_certificate_beside_a_stored_release_can_be_read_by_people(tmp_path: Path) -> None:
    store_admitted(enter(make_reply()), tmp_path)

    note = json.loads((tmp_path / "clinic-a.generator.certificate.json").read_text())

    assert note["privacy"]["unit"] == "record"


def test_a_changed_byte_in_a_stored_release_is_noticed(tmp_path: Path) -> None:
    path = store_admitted(enter(make_reply()), tmp_path)
    data = path.read_bytes()

    for position in range(0, len(data), max(1, len(data) // 60)):
        changed = bytearray(data)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises((AdmissionError, ProtocolError)):
            load_admitted(tmp_path, policy=POLICY, expected_shapes=expected_shapes)


def test_a_copy_of_a_stored_release_is_a_replay(tmp_path: Path) -> None:
    path = store_admitted(enter(make_reply()), tmp_path)
    (tmp_path / "zz.release").write_bytes(path.read_bytes())

    with pytest.raises(AdmissionError) as caught:
        load_admitted(tmp_path, policy=POLICY, expected_shapes=expected_shapes)

    assert caught.value.code is AdmissionCode.REPLAY


def test_stored_releases_of_one_client_have_one_key(tmp_path: Path) -> None:
    """Each was admitted by itself, as if the other had been put there behind the server's back."""
    reward = make_reply(proxy=ProxyKind.REWARD, signing_key=OTHER_KEY)
    for reply in (make_reply(), reward):
        store_admitted(enter(reply, policy=ANY_KEY), tmp_path)

    with pytest.raises(AdmissionError) as caught:
        load_admitted(tmp_path, policy=ANY_KEY, expected_shapes=expected_shapes)

    assert caught.value.code is AdmissionCode.CLIENT


def test_a_stored_release_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_admitted(enter(make_reply()), tmp_path)
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=AssertionError("it was read")))
    policy = replace(POLICY, max_release_bytes=100)

    with pytest.raises(AdmissionError) as caught:
        load_admitted(tmp_path, policy=policy, expected_shapes=expected_shapes)

    assert caught.value.code is AdmissionCode.OVERSIZE


def test_a_folder_that_is_not_there_holds_no_release(tmp_path: Path) -> None:
    assert load_admitted(tmp_path / "none", policy=POLICY, expected_shapes=expected_shapes) == ()


def test_refused_bytes_are_kept_with_their_code(tmp_path: Path) -> None:
    reply = make_reply(run_id="run-0")
    with pytest.raises(AdmissionError) as caught:
        enter(reply)

    path = store_refused(encode(reply), caught.value, tmp_path)

    assert path == tmp_path / "refused" / "001-run.json"
    assert json.loads(path.read_text())["code"] == "run"
    assert path.with_suffix(".bytes").read_bytes() == encode_bytes(reply)
    assert load_admitted(tmp_path, policy=POLICY, expected_shapes=expected_shapes) == ()


@pytest.mark.parametrize(
    "error",
    [
        MalformedMessageError("Expected a message, found none. Ask again."),
        VersionMismatchError("Expected version 1, found 2. Update."),
        AdmissionError("Expected less. Found more.", code=AdmissionCode.OVERSIZE),
    ],
)
def test_whatever_was_refused_can_be_kept(tmp_path: Path, error: AdmissionError) -> None:
    records = RecordDict({"strange": MetricRecord({"loss": 1.0})})

    first = store_refused(records, error, tmp_path)
    second = store_refused(records, error, tmp_path)

    assert first != second
