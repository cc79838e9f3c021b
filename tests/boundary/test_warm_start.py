"""Starting weights from a server: what fits is trained from, everything else costs nothing.

They are checked like anything that arrives. After each attack the lifetime ledger is what it was,
byte for byte, and no training was begun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from client_side.app import answer_bytes
from client_side.budget import BudgetLedger
from client_side.config import WarmStartConfig
from client_side.folder import ClientFolder
from client_side.warm_start import AdmittedStart
from lm.adapter_shapes import expected_adapter_shapes
from protocol import PROTOCOL_VERSION
from protocol.artifacts import AdapterWeights
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import (
    HelloReply,
    HelloRequest,
    Refusal,
    ReleaseReply,
    WarmTrainingRequest,
)
from protocol.wire import decode_bytes, encode_bytes
from tests.support.clients import client_config, make_client, training_request

Tensors = dict[str, npt.NDArray[np.float32]]
GENERATOR: Final = ProxyKind.GENERATOR


def make_taker(tmp_path: Path, base_model: Path, **warm_start: Any) -> ClientFolder:
    config = client_config(base_model)
    settings = WarmStartConfig(**{"accept": True, **warm_start})
    folder = make_client(tmp_path / "client-1", replace(config, warm_start=settings))
    BudgetLedger(folder.ledger_folder)  # its key is made at the first look
    return folder


@pytest.fixture
def taker(tmp_path: Path, tiny_llama: Path) -> ClientFolder:
    return make_taker(tmp_path, tiny_llama)


def hello(client: ClientFolder) -> HelloReply:
    request = encode_bytes(HelloRequest(protocol_version=PROTOCOL_VERSION))
    return decode_bytes(answer_bytes("hello", request, folder=client.path), HelloReply)


def fitting(client: ClientFolder, base_model: Path, proxy: ProxyKind = GENERATOR) -> Tensors:
    """Weights of the shape that the client states."""
    reply = hello(client)
    shape = reply.generator_start if proxy is GENERATOR else reply.reward_start
    assert shape is not None
    rng = np.random.default_rng(0)
    shapes = expected_adapter_shapes(base_model, shape, has_reward_head=proxy is ProxyKind.REWARD)
    return {
        # Far from zero, and so from where a fresh adapter and head begin.
        name: rng.normal(scale=0.5, size=size).astype(np.float32)
        for name, size in shapes.items()
    }


def warm_request(
    base_model: Path, tensors: Tensors, proxy: ProxyKind = GENERATOR
) -> WarmTrainingRequest:
    start = AdapterWeights(tensors=tensors)
    request = training_request(base_model, proxy, start_digest=start.digest())
    return WarmTrainingRequest(request=request, start=start)


def ask(client: ClientFolder, data: bytes, action: str = "generator") -> ReleaseReply | Refusal:
    return decode_bytes(answer_bytes(action, data, folder=client.path), ReleaseReply, Refusal)


def ledger_bytes(client: ClientFolder) -> Mapping[str, bytes]:
    return {
        str(file): file.read_bytes() for file in client.ledger_folder.rglob("*") if file.is_file()
    }


def assert_refused_for_nothing(client: ClientFolder, data: bytes, code: RefusalCode) -> None:
    before = ledger_bytes(client)

    assert ask(client, data) == Refusal(code=code)
    assert ledger_bytes(client) == before


def test_both_proxies_start_from_what_was_sent(taker: ClientFolder, tiny_llama: Path) -> None:
    """A is frozen, so the A that is released is the one that was sent, whatever was learnt.

    What is trained is two steps away. A step of Adam moves a weight by at most the learning rate
    times the root of the sum of w² / u, with w and u what the gradients so far weigh in the first
    and in the second moment. For two at the betas 0.9 and 0.99 that is 1.0011.
    """
    config = taker.load_config()
    assert (config.generator.adam_beta1, config.generator.adam_beta2) == (0.9, 0.99)
    farthest = 2 * config.generator.learning_rate * 1.01
    for proxy in ProxyKind:
        sent = fitting(taker, tiny_llama, proxy)
        request = warm_request(tiny_llama, sent, proxy)

        reply = ask(taker, encode_bytes(request), proxy.value)

        assert isinstance(reply, ReleaseReply)
        assert reply.release.certificate.start_digest == request.start.digest()
        released = reply.release.weights.tensors
        frozen = [name for name in sent if ".lora_A." in name]
        assert frozen
        assert all(np.array_equal(released[name], sent[name]) for name in frozen)
        trained = sent.keys() - frozen
        assert ("reward_head.weight" in trained) == (proxy is ProxyKind.REWARD)
        for name in trained:
            assert not np.array_equal(released[name], sent[name])
            assert np.abs(released[name] - sent[name]).max() <= farthest
    assert len(BudgetLedger(taker.ledger_folder).reservations()) == 1


def test_a_start_costs_no_privacy(taker: ClientFolder, tmp_path: Path, tiny_llama: Path) -> None:
    other = make_taker(tmp_path / "other", tiny_llama)
    warm = ask(taker, encode_bytes(warm_request(tiny_llama, fitting(taker, tiny_llama))))
    fresh = ask(other, encode_bytes(training_request(tiny_llama, GENERATOR)))

    assert isinstance(warm, ReleaseReply)
    assert isinstance(fresh, ReleaseReply)
    assert warm.release.certificate.privacy == fresh.release.certificate.privacy
    assert fresh.release.certificate.start_digest is None


def test_by_default_a_client_takes_no_start(tmp_path: Path, tiny_llama: Path) -> None:
    folder = make_taker(tmp_path, tiny_llama)
    tensors = fitting(folder, tiny_llama)
    client = make_client(tmp_path / "default", client_config(tiny_llama))
    BudgetLedger(client.ledger_folder)

    assert (hello(client).generator_start, hello(client).reward_start) == (None, None)
    assert_refused_for_nothing(
        client, encode_bytes(warm_request(tiny_llama, tensors)), RefusalCode.POLICY
    )


def _first(tensors: Tensors, change: Callable[[Any], Any]) -> Tensors:
    name = min(tensors)
    return {**tensors, name: change(tensors[name])}


ATTACKS: Final[dict[str, Callable[[Tensors], Tensors]]] = {
    "a tensor is missing": lambda t: {name: t[name] for name in sorted(t)[1:]},
    "a tensor too many": lambda t: {**t, "extra.weight": np.zeros(3, dtype=np.float32)},
    "a head for the generator": lambda t: {
        **t,
        "reward_head.weight": np.zeros((1, 32), dtype=np.float32),
    },
    "another name": lambda t: {name.replace("q_proj", "k_proj"): a for name, a in t.items()},
    "a higher rank": lambda t: _first(t, lambda a: np.concatenate([a, a])),
    "transposed": lambda t: _first(t, lambda a: np.ascontiguousarray(a.T)),
    "an empty tensor": lambda t: _first(t, lambda a: a[:0]),
    "not a number": lambda t: _first(t, lambda a: np.full_like(a, np.nan)),
    "infinite": lambda t: _first(t, lambda a: np.full_like(a, -np.inf)),
    # Numbers that overflow where a prompt holds a certain word, and nowhere else.
    "so large that it tells": lambda t: _first(t, lambda a: np.full_like(a, 2e37)),
    "larger than any of use": lambda t: _first(t, lambda a: a - np.float32(101.0)),
}


@pytest.mark.parametrize("has_records", [True, False], ids=["records", "no records"])
@pytest.mark.parametrize("name", ATTACKS)
def test_weights_that_do_not_fit_are_refused_before_any_record_is_read(
    taker: ClientFolder, tiny_llama: Path, name: str, has_records: bool
) -> None:
    """Whoever looks at a start after the records cannot call it a constant of the training."""
    attacked = ATTACKS[name](fitting(taker, tiny_llama))
    if not has_records:  # what gets as far as reading them is refused in another way
        (taker.path / "records.jsonl").unlink()

    assert_refused_for_nothing(
        taker, encode_bytes(warm_request(tiny_llama, attacked)), RefusalCode.MALFORMED
    )


def test_a_start_that_fits_gets_as_far_as_the_records_that_are_not_there(
    taker: ClientFolder, tiny_llama: Path
) -> None:
    (taker.path / "records.jsonl").unlink()

    assert_refused_for_nothing(
        taker,
        encode_bytes(warm_request(tiny_llama, fitting(taker, tiny_llama))),
        RefusalCode.INTERNAL,
    )


def test_weights_of_another_digest_are_refused(taker: ClientFolder, tiny_llama: Path) -> None:
    """The request's digest is what ledger, store and saved state know it by."""
    tensors = fitting(taker, tiny_llama)
    data = encode_bytes(warm_request(tiny_llama, tensors))
    own = AdapterWeights(tensors=tensors).to_bytes()
    other = AdapterWeights(tensors=_first(tensors, lambda a: a + 1)).to_bytes()
    assert data.endswith(own)

    assert_refused_for_nothing(taker, data.removesuffix(own) + other, RefusalCode.MALFORMED)


def test_a_start_that_is_named_and_not_sent_is_refused(
    taker: ClientFolder, tiny_llama: Path
) -> None:
    request = training_request(tiny_llama, GENERATOR, start_digest="ab" * 32)

    assert_refused_for_nothing(taker, encode_bytes(request), RefusalCode.MALFORMED)


def test_a_request_that_is_too_large_is_not_read(tmp_path: Path, tiny_llama: Path) -> None:
    small = make_taker(tmp_path, tiny_llama, max_bytes=900)
    data = encode_bytes(warm_request(tiny_llama, fitting(small, tiny_llama)))
    assert len(data) > 900

    assert_refused_for_nothing(small, data, RefusalCode.MALFORMED)
    assert_refused_for_nothing(small, b"\0" * 901, RefusalCode.MALFORMED)
    assert "Nothing was read" in small.status_file.read_text(encoding="utf-8")


def test_only_the_gate_makes_an_admitted_start() -> None:
    with pytest.raises(TypeError, match="admit_start"):
        AdmittedStart(tensors={}, digest="ab" * 32, token=None)
