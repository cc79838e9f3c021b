"""Write the invitation: what a client's operator needs to know of this server."""

from __future__ import annotations

from lm.model_folders import base_model_digest, resolve_base_model
from protocol import PROTOCOL_VERSION, SOFTWARE_VERSION
from protocol.bundle import bundle_digest
from protocol.introductions import Invitation, write_introduction
from server_side.exchange.certificates import TlsFiles
from server_side.exchange.folder import ServerFolder


def write_invitation(folder: ServerFolder) -> str:
    """Write `invitation.json` from the server's settings and sources as they are now.

    Args:
        folder: The server's folder.

    Returns:
        Its fingerprint, for its operator to say aloud.

    Raises:
        ModelFolderError: The base model cannot be found.
        ConfigurationError: The project is not installed from its source folder.
    """
    base = resolve_base_model(folder.load_config().base_model)
    invitation = Invitation(
        server=folder.load_network().address,
        authority=TlsFiles.within(folder.tls_folder).authority.read_text(encoding="ascii"),
        protocol_version=PROTOCOL_VERSION,
        software_version=SOFTWARE_VERSION,
        bundle_sha256=bundle_digest(),
        base_model_digest=base_model_digest(base),
    )
    return write_introduction(invitation, folder.invitation_file)
