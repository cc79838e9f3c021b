"""What a hostile client may try, attack by attack: the code it gets, and that nothing came of it.

Each attack goes through the whole exchange, beside an honest client: what was sent is not among the
admitted releases, it is kept in `refused` for people to look at, and the honest client's releases
are there. `test_admission.py` takes the checks one by one.
"""

from __future__ import annotations

import json
import pickle
import resource
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol import PROTOCOL_VERSION
from protocol.errors import AdmissionCode, AdmissionError, ConfigurationError, ProtocolError
from protocol.ledger import DpSgdEvent, PrivacyUnit, ProxyKind
from protocol.wire import encode_bytes
from server_side import admission_checks
from server_side.admission import admission_code, admit
from server_side.exchange.admission_terms import admission_terms
from server_side.exchange.collecting import RELEASES
from tests.support.clients import RUN_ID, server_config
from tests.support.hostile import (
    Attack,
    Client,
    Exchange,
    edited,
    instead_of_everything,
    instead_of_weights,
    rename,
    reshape,
    with_certificate,
    with_ledger,
    with_tensors,
    with_values,
)
from tests.support.releases import LORA, PUBLIC_KEY, SIGNING_KEY, make_events

TEN_GIGABYTES: Final = 10 * 2**30

HONEST: Final = ["alice generator", "alice reward"]


@pytest.fixture
def exchange(tmp_path: Path, tiny_llama: Path) -> Exchange:
    return Exchange(config=server_config(tiny_llama), folder=tmp_path)


def assert_nothing_came_of_it(
    exchange: Exchange, code: str, *, action: str = "generator", others: list[str] | None = None
) -> None:
    exchange.meet()

    assert exchange.answers()[action] == f"not admitted: {code}"
    assert exchange.stored() == [*HONEST, *(others or [])]
    assert exchange.refused() == [code]


def safetensors(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def only(*proxies: ProxyKind) -> list[DpSgdEvent]:
    return [event for event in make_events() if event.proxy in proxies]


def endless_events() -> list[DpSgdEvent]:
    return [
        DpSgdEvent(
            proxy=ProxyKind.GENERATOR,
            noise_multiplier=0.05 + index / 997,
            sample_rate=(index + 1) / 1024,
            steps=1_000_000,
        )
        for index in range(1024)
    ]


class Bomb:
    """Unpickling it would call `print`; anything else leaves it alone."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("A hostile client ran code on the server.",)


ANNOUNCED: Final[dict[str, Attack]] = {
    "10 GB of weights announced": instead_of_weights(
        safetensors(
            {"w": {"dtype": "F32", "shape": [TEN_GIGABYTES], "data_offsets": [0, 4 * 10 * 2**30]}}
        )
    ),
    "10 GB of header announced": instead_of_weights(TEN_GIGABYTES.to_bytes(8, "little") + b"{}"),
    "10 GB of document announced": instead_of_everything(
        b"RewardDS\x01\n" + TEN_GIGABYTES.to_bytes(8, "big") + b"{}"
    ),
    "more than there are numbers for": instead_of_everything(b"RewardDS\x01\n" + b"\xff" * 40),
    "a tensor of no size": instead_of_weights(
        safetensors({"w": {"dtype": "F32", "shape": [2**31, 0], "data_offsets": [0, 0]}})
    ),
    "brackets without end": instead_of_everything(
        b"RewardDS\x01\n" + (1_000_000).to_bytes(8, "big") + b"[" * 1_000_000
    ),
}

ATTACKS: Final[dict[str, tuple[Attack, str]]] = {
    "not a number": (with_values(np.nan), "not_finite"),
    "infinity": (with_values(np.inf), "not_finite"),
    "minus infinity": (with_values(-np.inf), "not_finite"),
    "a wrong name": (rename("layers.0.q_proj.lora_C.weight"), "tensor_names"),
    "a path as a name": (rename("../../etc/passwd"), "tensor_names"),
    "a missing tensor": (with_tensors(lambda tensors: tensors.popitem()), "tensor_names"),
    "one tensor more": (
        with_tensors(lambda tensors: tensors.update(x=np.zeros(1, dtype=np.float32))),
        "tensor_names",
    ),
    "a wrong shape": (reshape(2, 2), "tensor_shapes"),
    "a large shape": (reshape(4096, 32), "tensor_shapes"),
    "another rank than stated": (
        with_certificate(lambda certificate: replace(certificate, lora=replace(LORA, rank=4096))),
        "tensor_shapes",
    ),
    "other layers than stated": (
        with_certificate(
            lambda certificate: replace(certificate, lora=replace(LORA, target_modules=("exec",)))
        ),
        "tensor_names",
    ),
    "a pickle for weights": (instead_of_weights(pickle.dumps(Bomb())), "malformed"),
    "a pickle for everything": (instead_of_everything(pickle.dumps(Bomb())), "malformed"),
    "nothing": (instead_of_everything(b""), "malformed"),
    **{name: (attack, "malformed") for name, attack in ANNOUNCED.items()},
    "another run's release": (
        lambda client, proxy: encode_bytes(client.honest(proxy, run_id="run-0")),
        "run",
    ),
    "another client's release": (
        lambda client, proxy: encode_bytes(
            Client(base_model=client.base_model, name="alice", key=SIGNING_KEY).honest(proxy)
        ),
        "client",
    ),
    "another client's release under its own name": (
        edited(lambda body: body["certificate"].update(client_name="alice")),
        "signature",
    ),
    "another client's key under its own signature": (
        edited(lambda body: body.update(public_key=PUBLIC_KEY)),
        "signature",
    ),
    "the other proxy": (
        lambda client, proxy: encode_bytes(client.honest(ProxyKind.REWARD)),
        "proxy",
    ),
    "another base model": (
        lambda client, proxy: encode_bytes(client.honest(proxy, base_model_digest="ef" * 32)),
        "base_model",
    ),
    "a later protocol": (
        with_certificate(
            lambda certificate: replace(certificate, protocol_version=PROTOCOL_VERSION + 1)
        ),
        "version",
    ),
    "an understated epsilon": (with_ledger(epsilon=0.1), "arithmetic"),
    "an epsilon of nothing": (with_ledger(epsilon=0.0), "arithmetic"),
    "no noise behind a finite claim": (
        with_ledger(
            events=[replace(event, noise_multiplier=0.0) for event in make_events()], epsilon=1.0
        ),
        "arithmetic",
    ),
    "a ledger without the proxy": (with_ledger(events=only(ProxyKind.REWARD)), "unaccounted"),
    "a ledger that is too dear": (
        with_ledger(events=[replace(event, noise_multiplier=0.3) for event in make_events()]),
        "epsilon",
    ),
    "a ledger at a large delta": (with_ledger(delta=0.1), "delta"),
    "a ledger at a delta that nobody can compute with": (
        with_ledger(delta=1e-10, epsilon=1.0),
        "delta",
    ),
    "more noise than numbers have room for": (
        edited(
            lambda body: body["certificate"]["privacy"]["events"][0].update(noise_multiplier=1e200)
        ),
        "malformed",
    ),
    "a sample rate that numbers have no room for": (
        with_ledger(
            events=[replace(event, sample_rate=5e-324) for event in make_events()], epsilon=1.0
        ),
        "arithmetic",
    ),
    "a ledger of predictable noise": (with_ledger(reproducible_noise=True), "reproducible_noise"),
    "a ledger without any privacy": (
        with_ledger(events=[replace(event, noise_multiplier=0.0) for event in make_events()]),
        "not_private",
    ),
    "a ledger that is long to add up": (
        with_ledger(events=endless_events(), epsilon=1.0),
        "arithmetic",
    ),
}


@pytest.mark.parametrize("error", [OverflowError, ConfigurationError, MemoryError])
def test_a_ledger_on_which_the_accountant_fails_hinders_nobody_else(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """The hostile client is looked at first; whatever its numbers do, the honest one follows."""
    exchange = replace(exchange, is_hostile_first=True)
    odd = [replace(event, steps=13) for event in make_events()]
    exchange.attacks["generator"] = with_ledger(events=odd)
    compose = admission_checks.composed_epsilon

    def fail_on_odd_ones(events: Sequence[DpSgdEvent], *, delta: float) -> float:
        if events[0].steps == 13:
            raise error("out of range")
        return compose(events, delta=delta)

    monkeypatch.setattr(admission_checks, "composed_epsilon", fail_on_odd_ones)

    assert_nothing_came_of_it(exchange, "arithmetic")


@pytest.mark.parametrize("name", ATTACKS)
def test_sending(exchange: Exchange, name: str) -> None:
    attack, code = ATTACKS[name]
    exchange.attacks["generator"] = attack

    assert_nothing_came_of_it(exchange, code)


def test_the_same_client_is_admitted_when_it_does_none_of_this(exchange: Exchange) -> None:
    exchange.meet()

    assert exchange.stored() == [*HONEST, "mallory generator", "mallory reward"]
    assert exchange.refused() == []


@pytest.mark.parametrize("name", ANNOUNCED)
def test_what_is_announced_takes_no_memory(tiny_llama: Path, name: str) -> None:
    """Neither Python's and numpy's allocations nor the process as a whole grow by it."""
    policy, shapes = admission_terms(server_config(tiny_llama), run_id=RUN_ID)
    data = ANNOUNCED[name](Client(base_model=tiny_llama), ProxyKind.GENERATOR)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises((AdmissionError, ProtocolError)) as caught:
            admit(data, policy=policy, expected_shapes=shapes)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    grown_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert isinstance(caught.value, (AdmissionError, ProtocolError))
    assert admission_code(caught.value) is AdmissionCode.MALFORMED
    assert peak_bytes < 32 * 2**20
    assert grown_kilobytes < 64 * 2**10


def test_more_bytes_than_allowed_are_neither_read_nor_kept(exchange: Exchange) -> None:
    limited = replace(exchange.config.admission, max_release_bytes=100_000)
    exchange = replace(exchange, config=replace(exchange.config, admission=limited))
    exchange.attacks["generator"] = instead_of_weights(b"\x00" * 200_000)

    assert_nothing_came_of_it(exchange, "oversize")
    kept = list((exchange.folder / RELEASES / "refused").iterdir())
    assert [file.name for file in kept] == ["001-oversize.json"]


def test_what_was_refused_is_kept_as_it_came(exchange: Exchange) -> None:
    data = pickle.dumps(Bomb())
    exchange.attacks["generator"] = instead_of_everything(data)

    exchange.meet()

    kept = exchange.folder / RELEASES / "refused" / "001-malformed.bytes"
    assert kept.read_bytes() == data


# What can be tried with the second proxy.


def test_sending_the_generator_again_as_the_reward_proxy(exchange: Exchange) -> None:
    exchange.attacks["reward"] = lambda client, _: encode_bytes(client.honest(ProxyKind.GENERATOR))

    assert_nothing_came_of_it(exchange, "proxy", action="reward", others=["mallory generator"])


def test_a_price_for_each_proxy_and_none_for_both(exchange: Exchange) -> None:
    """Each claim is right by itself; together they leave out that the two compose."""
    exchange.attacks["generator"] = with_ledger(events=only(ProxyKind.GENERATOR))
    exchange.attacks["reward"] = with_ledger(events=only(ProxyKind.REWARD))

    assert_nothing_came_of_it(
        exchange, "unaccounted", action="reward", others=["mallory generator"]
    )


def test_forgetting_what_the_generator_cost(exchange: Exchange) -> None:
    exchange.attacks["reward"] = with_ledger(events=only(ProxyKind.REWARD))

    assert_nothing_came_of_it(
        exchange, "unaccounted", action="reward", others=["mallory generator"]
    )


def test_forgetting_that_the_generator_was_paid_for_twice(exchange: Exchange) -> None:
    """Both events are the same, so that only their number tells."""
    generator = only(ProxyKind.GENERATOR)
    exchange.attacks["generator"] = with_ledger(events=[*generator, *generator])
    exchange.attacks["reward"] = with_ledger(events=[*generator, *only(ProxyKind.REWARD)])

    assert_nothing_came_of_it(
        exchange, "unaccounted", action="reward", others=["mallory generator"]
    )


def test_counting_persons_for_one_proxy_and_records_for_the_other(exchange: Exchange) -> None:
    exchange.attacks["generator"] = with_certificate(
        lambda certificate: replace(
            certificate, privacy=replace(certificate.privacy, unit=PrivacyUnit.GROUP)
        )
    )

    assert_nothing_came_of_it(
        exchange, "unaccounted", action="reward", others=["mallory generator"]
    )


def test_signing_the_second_proxy_with_another_key(exchange: Exchange) -> None:
    exchange.attacks["reward"] = lambda client, proxy: encode_bytes(
        client.honest(proxy, signing_key=Ed25519PrivateKey.generate())
    )

    assert_nothing_came_of_it(exchange, "client", action="reward", others=["mallory generator"])


# What can be tried before anything is asked for.


def test_calling_itself_by_another_clients_name(exchange: Exchange) -> None:
    exchange.meet(hello=lambda client: client.hello("alice"))

    assert exchange.answers() == {"hello": "not admitted: client"}
    assert exchange.stored() == HONEST


@pytest.mark.parametrize("name", ["../alice", "", "a" * 65, "alice\nalice", "alice/reward"])
def test_calling_itself_by_a_name_that_is_a_path_or_a_line(exchange: Exchange, name: str) -> None:
    exchange.meet(hello=lambda client: client.hello(name))

    assert exchange.answers() == {"hello": "not admitted: malformed"}
    assert exchange.stored() == HONEST


def test_a_hello_that_is_none(exchange: Exchange) -> None:
    exchange.meet(hello=lambda client: pickle.dumps(Bomb()))

    assert exchange.answers() == {"hello": "not admitted: malformed"}
    assert exchange.stored() == HONEST
