"""The server's certificates: an authority of its own, and what it signs for the server.

Clients trust this one authority and no other, so nobody else's certificate opens a connection. Its
private key is needed to renew the server's certificate only, and may be kept elsewhere meanwhile.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import ConfigurationError
from server_side.exchange.folder import write_private_file
from server_side.exchange.network import LOOPBACK

AUTHORITY_DAYS: Final = 3650
"""How long the authority is good for."""

SERVER_DAYS: Final = 397
"""How long a server certificate is good for; renew it before."""

_BACKDATE: Final = timedelta(minutes=10)
"""A client whose clock is a little behind still finds the certificate valid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """What a server proves itself with."""

    authority: Path
    """Certificate of the authority that signed the server's; clients get it as well."""
    certificate: Path
    """The server's certificate."""
    key: Path
    """The server's private key."""

    @staticmethod
    def within(folder: Path) -> TlsFiles:
        """Return the files' usual places.

        Args:
            folder: Folder of the certificates.

        Returns:
            The places, whether or not anything lies there.
        """
        return TlsFiles(
            authority=folder / "authority.pem",
            certificate=folder / "server.pem",
            key=folder / "server.key",
        )


def make_authority(folder: Path, *, name: str) -> None:
    """Make an authority: certificate and private key.

    Args:
        folder: Where `authority.pem` and `authority.key` go.
        name: Whose it is; stands in the certificate.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(f"RewardDS authority of {name}")
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(subject=subject, issuer=subject, key=key.public_key(), days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    write_private_file(folder / "authority.key", _pem(key))
    (folder / "authority.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def make_server_certificate(folder: Path, *, host: str) -> None:
    """Sign a certificate for the server with the folder's authority; an older one is replaced.

    Args:
        folder: Where the authority lies and `server.pem` and `server.key` go.
        host: Name or address by which clients reach the server. Loopback is always added, where
            the server's own processes speak to each other.

    Raises:
        ConfigurationError: The authority's key is not there.
    """
    try:
        authority_key = serialization.load_pem_private_key(
            (folder / "authority.key").read_bytes(), password=None
        )
        authority = x509.load_pem_x509_certificate((folder / "authority.pem").read_bytes())
    except (OSError, ValueError):
        raise ConfigurationError(
            f"Expected the authority's certificate and key in {folder}, found no such pair. Bring "
            "authority.key back from where it is kept."
        ) from None
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP384R1())
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address(LOOPBACK)),
    ]
    own = _general_name(host)
    if own not in names:
        names.insert(0, own)
    certificate = (
        _builder(
            subject=_name(host), issuer=authority.subject, key=key.public_key(), days=SERVER_DAYS
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA384())
    )
    write_private_file(folder / "server.key", _pem(key))
    (folder / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def check_certificate(files: TlsFiles, *, host: str) -> datetime:
    """Make sure that the server's certificate can be used today, under this name.

    Args:
        files: What the server proves itself with.
        host: Name or address by which clients reach it.

    Returns:
        The day on which it ends.

    Raises:
        ConfigurationError: It or its key is missing, or it is out of date, for another name, of
            another authority or not that of the key.
    """
    found: str
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
        certificate.verify_directly_issued_by(authority)
        now = datetime.now(UTC)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            found = f"one that ends on {certificate.not_valid_after_utc:%Y-%m-%d}"
        elif _general_name(host) not in names:
            found = f"one for {', '.join(sorted(str(item.value) for item in names))}"
        elif key.public_key() != certificate.public_key():
            # As after a renewal that was killed between its two files.
            found = "one that is not that of server.key beside it"
        else:
            return certificate.not_valid_after_utc
    except OSError as error:
        found = f"{type(error).__name__} at {error.filename}"
    except Exception as error:  # whatever a broken certificate makes the library raise
        found = f"one that cannot be used ({type(error).__name__})"
    raise ConfigurationError(
        f"Expected a certificate for {host} in {files.certificate.parent}, found {found}. Run "
        "`rewardds-server renew` on this folder."
    )


def _builder(
    *, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common_name: str) -> x509.Name:
    # The field takes 64 characters; the names that count stand in the extension.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
