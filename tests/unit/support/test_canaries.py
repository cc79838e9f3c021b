"""The search for canaries finds each form that it names, and the relay keeps every byte."""

from __future__ import annotations

import base64
import gzip
import io
import json
import socket
import struct
import threading
import zipfile
import zlib

import pytest

from tests.support.canaries import disguises, find, unpacked
from tests.support.recording import Recording, Relay

TEXT = "vermilion-quetzal-ü7Q"
TOKEN_IDS = (17, 900, 31_000, 5, 42, 8)
FORMS = disguises(TEXT, token_ids=TOKEN_IDS)


@pytest.mark.parametrize(
    "leak",
    [
        TEXT.encode(),
        TEXT.upper().encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32-le"),
        json.dumps({"x": TEXT}).encode(),
        repr(TEXT.encode()).encode(),
        TEXT.encode().hex().encode(),
        *(base64.b64encode(b"x" * n + TEXT.encode() + b"yz") for n in range(6)),
        struct.pack("<6h", *TOKEN_IDS),
        struct.pack("<6i", *TOKEN_IDS),
        struct.pack("<6q", *TOKEN_IDS),
        struct.pack(">6q", *TOKEN_IDS),
        struct.pack("<6f", *TOKEN_IDS),
        json.dumps(TOKEN_IDS).encode(),
        b"[17,900,31000,5,42,8]",
    ],
)
def test_a_leak_is_found_in_each_form(leak: bytes) -> None:
    assert find(FORMS, b"before " + leak + b" after")


def test_nothing_is_found_where_nothing_is() -> None:
    assert not find(FORMS, bytes(range(256)) * 100 + b"vermilion-quetzal")


def test_what_is_packed_is_searched_as_well() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.gz", gzip.compress(zlib.compress(TEXT.encode())))

    found = [name for name, data in unpacked("file", file.getvalue()) if find(FORMS, data)]

    assert found == ["file:inner.gz:gzip:zlib"]


def test_a_text_that_chunks_cut_in_two_is_put_together() -> None:
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ncana\r\n2\r\nry\r\n0\r\n\r\n"

    assert [body for _, body in Recording(raw=bytearray(raw * 2)).messages()] == [b"canary"] * 2


@pytest.mark.parametrize(
    "raw",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
        b"\x16\x03\x01 not HTTP at all",
    ],
)
def test_what_could_hide_something_is_an_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="Expected"):
        list(Recording(raw=bytearray(raw)).messages())


def test_the_relay_keeps_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(peer.recv(100)[::-1])

        thread = threading.Thread(target=echo)
        thread.start()
        with Relay(server.getsockname()[1]) as relay:
            host, _, port = relay.address.partition(":")
            with socket.create_connection((host, int(port))) as client:
                client.sendall(b"canary")
                answer = client.recv(100)
        thread.join()

    assert answer == b"yranac"
    (connection,) = relay.connections
    assert (bytes(connection.sent.raw), bytes(connection.received.raw)) == (b"canary", b"yranac")
