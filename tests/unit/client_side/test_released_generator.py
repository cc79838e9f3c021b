"""Nothing but this client's own generator release may write negatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client_side.released_generator import ReleasedGenerator
from protocol.artifacts import AdapterWeights, Release
from protocol.errors import UnaccountedReleaseError
from protocol.ledger import ProxyKind
from tests.support.releases import OTHER_KEY, SIGNING_KEY, make_reply, make_tensors

OWN = SIGNING_KEY.public_key().public_bytes_raw()


def refused(release: Release, *, reason: str) -> None:
    with pytest.raises(UnaccountedReleaseError, match=reason):
        ReleasedGenerator(release=release, public_key=OWN)


def test_an_own_generator_release_is_taken() -> None:
    release = make_reply().release

    generator = ReleasedGenerator(release=release, public_key=OWN)

    assert generator.digest == release.certificate.weights_digest
    assert generator.lora == release.certificate.lora


def test_weights_that_were_tuned_elsewhere_are_refused() -> None:
    """As in the published procedure, where a model tuned without noise writes half of the pairs."""
    tensors = {name: tensor + np.float32(1) for name, tensor in make_tensors().items()}

    refused(
        replace(make_reply().release, weights=AdapterWeights(tensors=tensors)),
        reason="not those that were signed",
    )


def test_a_release_of_another_key_is_refused() -> None:
    refused(make_reply(signing_key=OTHER_KEY).release, reason="signed by another key")


def test_a_certificate_that_was_changed_is_refused() -> None:
    release = make_reply().release
    certificate = replace(release.certificate, run_id="another")

    refused(replace(release, certificate=certificate), reason="signature")


def test_a_reward_proxy_is_refused() -> None:
    refused(make_reply(proxy=ProxyKind.REWARD).release, reason="reward proxy")
