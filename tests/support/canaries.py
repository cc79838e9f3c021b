"""Look for a planted text in bytes, in every form in which it could cheaply be written down.

Covers: the usual encodings of text, JSON and percent escapes, hexadecimal, base64 at each of its
three alignments, and the text's token ids as numbers of several types.
Does not cover: encryption, or a compressed form; who searches unpacks first (`unpacked`).
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np


def disguises(text: str, *, token_ids: Sequence[int] = ()) -> Mapping[str, bytes]:
    """Write a text in every form that is looked for.

    Args:
        text: The planted text; at least ten characters, so that nothing matches by chance.
        token_ids: The same as the model reads it.

    Returns:
        Bytes by the name of the form.
    """
    assert len(text) >= 10, "a shorter text could stand anywhere by chance"
    data = text.encode()
    forms = {
        "utf-8": data,
        "upper": text.upper().encode(),
        "lower": text.lower().encode(),
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "utf-32-le": text.encode("utf-32-le"),
        "json": json.dumps(text)[1:-1].encode(),
        "escaped": "".join(f"\\u{ord(char):04x}" for char in text).encode(),
        "repr": ascii(text)[1:-1].encode(),
        "repr of bytes": repr(data)[2:-1].encode(),
        "percent": urllib.parse.quote(text).encode(),
        "hex": data.hex().encode(),
        "HEX": data.hex().upper().encode(),
        "reversed": data[::-1],
        **{f"base64+{shift}": _base64(data, shift) for shift in range(3)},
    }
    if token_ids:
        for kind in ("<i2", "<i4", "<i8", ">i4", ">i8", "<f2", "<f4", "<f8"):
            forms[f"token ids {kind}"] = np.array(token_ids).astype(kind).tobytes()
        for separator in (",", ", ", " ", "\n"):
            forms[f"token ids {separator!r}"] = separator.join(map(str, token_ids)).encode()
    return forms


def find(forms: Mapping[str, bytes], data: bytes) -> list[str]:
    """Name the forms that stand in some bytes."""
    return [name for name, form in forms.items() if form in data]


def unpacked(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Give some bytes, and what is packed in them: members of an archive, a compressed stream."""
    yield name, data
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from unpacked(f"{name}:{member}", archive.read(member))
    elif data.startswith(b"\x1f\x8b"):
        yield from unpacked(f"{name}:gzip", gzip.decompress(data))
    elif data[:2] in (b"\x78\x01", b"\x78\x9c", b"\x78\xda"):
        yield from unpacked(f"{name}:zlib", zlib.decompress(data))


def _base64(data: bytes, shift: int) -> bytes:
    """Give the characters of base64 that depend on this text alone, begun at any of 3 places."""
    whole = base64.b64encode(bytes(shift) + data)
    start = -(-shift * 8 // 6)
    end = (shift + len(data)) * 8 // 6
    return whole[start:end]
