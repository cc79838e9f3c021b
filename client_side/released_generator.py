"""The generator proxy as it was released: the only tuned model that may write negatives.

A model that was tuned without noise on the same records would carry them into the rejected side of
everybody's pairs, and then no finite ε exists for the reward proxy. So what writes negatives is not
an adapter that somebody hands in, but a release: signed by this client's own key, which egress
alone uses, and egress lets nothing pass that no ledger event pays for.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass

from protocol.artifacts import LoraShape, Release
from protocol.errors import SignatureError, UnaccountedReleaseError
from protocol.ledger import ProxyKind


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasedGenerator:
    """A generator release of this very client, checked when it is made.

    Raises:
        UnaccountedReleaseError: It is not signed by this client, is another proxy's, or its weights
            are not those that were signed.

    Privacy:
        Public: these bytes left the client. Whatever reads them alone is post-processing.
    """

    release: Release
    """What was released."""
    public_key: InitVar[bytes]
    """The client's own Ed25519 key, 32 raw bytes."""

    def __post_init__(self, public_key: bytes) -> None:
        """Check that this client released exactly these weights as a generator."""
        certificate = self.release.certificate
        try:
            self.release.verify_signature()
        except SignatureError as error:
            raise _not_released(str(error)) from None
        # Privacy: a foreign key signs whatever it likes; our own signs what egress let through.
        if self.release.public_key != public_key:
            raise _not_released("It was signed by another key.")
        if certificate.proxy is not ProxyKind.GENERATOR:
            raise _not_released(f"It is a {certificate.proxy.value} proxy.")
        # Privacy: the very weights that were paid for, not some that stand beside the certificate.
        if certificate.weights_digest != self.digest:
            raise _not_released("Its weights are not those that were signed.")

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return self.release.weights.digest()

    @property
    def lora(self) -> LoraShape:
        """Shape of the adapter."""
        return self.release.certificate.lora


def _not_released(reason: str) -> UnaccountedReleaseError:
    return UnaccountedReleaseError(
        "Expected negatives to be written by a generator proxy that this client released, found "
        f"another model. {reason} Ask for the generator proxy of this run first."
    )
