"""A server's certificates and invitation, made once for all tests that need some."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from protocol import PROTOCOL_VERSION, SOFTWARE_VERSION
from protocol.bundle import bundle_digest
from protocol.introductions import Invitation
from server_side.exchange.certificates import make_authority, make_server_certificate


@functools.cache
def invitation() -> Invitation:
    """Give an invitation of a server that has the same sources."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_authority(folder, name="server.test")
        make_server_certificate(folder, host="server.test")
        authority = (folder / "authority.pem").read_text(encoding="ascii")
    return Invitation(
        server="server.test:9443",
        authority=authority,
        protocol_version=PROTOCOL_VERSION,
        software_version=SOFTWARE_VERSION,
        bundle_sha256=bundle_digest(),
        base_model_digest="0" * 64,
    )
