"""An allowed client speaks for itself alone: what it tries under another client's name.

The server's register says for which client each node key and each signing key speaks. Mallory is in
it, by keys of her own; so every attack here comes from somebody whom gateway and link let in.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.errors import AdmissionCode, AdmissionError
from protocol.ledger import ProxyKind
from protocol.messages import TrainingRequest
from protocol.wire import encode_bytes
from server_side.admission import admit
from server_side.exchange.admission_terms import admission_terms
from server_side.exchange.collecting import RELEASES, load_collected
from tests.support.clients import RUN_ID, server_config
from tests.support.hostile import Client, Exchange
from tests.support.releases import OTHER_KEY, SIGNING_KEY

HONEST = ["alice generator", "alice reward"]


@pytest.fixture
def exchange(tmp_path: Path, tiny_llama: Path) -> Exchange:
    return Exchange(
        config=server_config(tiny_llama),
        folder=tmp_path,
        is_registered=True,
        is_hostile_first=True,
    )


def impostor(exchange: Exchange) -> Client:
    """Mallory as alice, under a key of her own."""
    return Client(base_model=Path(exchange.config.base_model), name="alice", key=OTHER_KEY)


def test_both_are_let_in_under_their_own_names(exchange: Exchange) -> None:
    """So that what follows is refused for what it tries, and not for who tries it."""
    exchange.meet()

    assert exchange.answers()["reward"] == "admitted"
    assert exchange.stored() == [*HONEST, "mallory generator", "mallory reward"]


def test_who_comes_first_does_not_get_anothers_name(exchange: Exchange) -> None:
    exchange.meet(hello=lambda client: client.hello("alice"))

    assert exchange.answers() == {"hello": "not admitted: client"}
    assert exchange.stored() == HONEST


def test_without_a_register_who_comes_first_would(exchange: Exchange) -> None:
    """The same attack where nobody is registered: what the register is for."""
    exchange = replace(exchange, is_registered=False)
    as_alice = impostor(exchange)
    for proxy in ProxyKind:
        exchange.attacks[proxy.value] = lambda _, proxy: encode_bytes(as_alice.honest(proxy))

    exchange.meet(hello=lambda client: as_alice.hello())

    assert exchange.answers()["reward"] == "admitted"
    stored = load_collected(exchange.config, run_id=RUN_ID, run_folder=exchange.folder)
    mallory = OTHER_KEY.public_key().public_bytes_raw()
    assert [item.client_name for item in stored] == ["alice", "alice"]
    assert {item.release.public_key for item in stored} == {mallory}


def test_a_release_in_anothers_name_is_refused(exchange: Exchange) -> None:
    """She says who she is and then delivers as alice, before alice does."""
    as_alice = impostor(exchange)
    exchange.attacks["generator"] = lambda _, proxy: encode_bytes(as_alice.honest(proxy))

    exchange.meet()

    assert exchange.answers()["generator"] == "not admitted: client"
    assert exchange.stored() == HONEST
    assert exchange.refused() == ["client"]


def test_a_key_that_is_allowed_signs_for_nobody_else(exchange: Exchange) -> None:
    """Whoever delivers it: also a file that was put into the run's folder."""
    policy, shapes = admission_terms(
        exchange.config, run_id=RUN_ID, client_keys=exchange.client_keys()
    )
    forged = encode_bytes(impostor(exchange).honest(ProxyKind.GENERATOR))

    with pytest.raises(AdmissionError, match="another client's") as caught:
        admit(forged, policy=policy, expected_shapes=shapes)
    assert caught.value.code is AdmissionCode.CLIENT

    releases = exchange.folder / RELEASES
    releases.mkdir()
    (releases / "alice.generator.release").write_bytes(forged)
    with pytest.raises(AdmissionError, match="another client's"):
        exchange.stored()


def test_a_key_that_is_nobodys_signs_for_nobody(exchange: Exchange) -> None:
    only_mallory = {"mallory": (exchange.client_keys() or {})["mallory"]}
    policy, shapes = admission_terms(exchange.config, run_id=RUN_ID, client_keys=only_mallory)
    alice = Client(base_model=Path(exchange.config.base_model), name="alice", key=SIGNING_KEY)

    with pytest.raises(AdmissionError) as caught:
        admit(
            encode_bytes(alice.honest(ProxyKind.GENERATOR)), policy=policy, expected_shapes=shapes
        )
    assert caught.value.code is AdmissionCode.UNKNOWN_KEY


def test_a_client_with_another_signing_key_is_not_asked_to_pay(exchange: Exchange) -> None:
    """Its releases could not be admitted, so it is told before it trains."""
    asked: list[TrainingRequest] = []
    exchange.attacks["generator"] = lambda client, proxy: asked.append(proxy) or b""

    exchange.meet(hello=lambda client: replace(client, key=SIGNING_KEY).hello())

    assert exchange.answers() == {"hello": "not admitted: unknown_key"}
    assert not asked
    assert exchange.stored() == HONEST


def test_a_client_that_changed_its_key_between_its_two_releases_is_not_asked_to_pay(
    exchange: Exchange,
) -> None:
    """Both releases of a run need one key, so the second could not be admitted."""
    exchange = replace(exchange, is_registered=False)
    exchange.attacks["reward"] = lambda client, proxy: b""
    exchange.meet()
    asked: list[ProxyKind] = []
    exchange.attacks["reward"] = lambda client, proxy: asked.append(proxy) or b""
    third = Ed25519PrivateKey.generate()

    exchange.meet(hello=lambda client: replace(client, key=third).hello())
    assert exchange.answers()["hello"] == "not admitted: unknown_key"
    assert not asked

    exchange.meet()
    assert asked == [ProxyKind.REWARD]
