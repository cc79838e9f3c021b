"""A hostile client beside an honest one: what it can craft, and an exchange in which they meet.

A `Client` can sign whatever it likes under its own key. An `Attack` is what it answers to a request
for a proxy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lm.adapter_shapes import expected_adapter_shapes
from lm.model_folders import base_model_digest
from protocol import PROTOCOL_VERSION
from protocol.artifacts import AdapterWeights, Certificate, sign_release
from protocol.documents import dump_canonical, parse_canonical
from protocol.ledger import PrivacyUnit, ProxyKind
from protocol.messages import HelloReply, ReleaseReply, TrainingRequest
from protocol.wire import decode_bytes, encode_bytes
from server_side.admission import AdmittedRelease
from server_side.app import BytesChannel
from server_side.config import ServerConfig
from server_side.exchange.collecting import RELEASES, Waiting, collect, load_collected
from server_side.exchange.outcome import read_outcome
from tests.support.clients import RUN_ID
from tests.support.releases import LORA, OTHER_KEY, SIGNING_KEY, make_ledger, make_reply

Change = Callable[[Certificate], Certificate]

_START: Final = len(b"RewardDS\x01\n") + 8


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client that can sign whatever it likes."""

    base_model: Path
    name: str = "mallory"
    key: Ed25519PrivateKey = OTHER_KEY

    def tensors(self, proxy: ProxyKind) -> dict[str, Any]:
        shapes = expected_adapter_shapes(
            self.base_model, LORA, has_reward_head=proxy is ProxyKind.REWARD
        )
        rng = np.random.default_rng(3)
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    def honest(self, proxy: ProxyKind, **changes: Any) -> ReleaseReply:
        """Give a release as the client's own egress makes it."""
        tensors = self.tensors(proxy)
        settings: dict[str, Any] = {
            "proxy": proxy,
            "client_name": self.name,
            "tensors": tensors,
            "shapes": {name: tensor.shape for name, tensor in tensors.items()},
            "base_model_digest": base_model_digest(self.base_model),
            "signing_key": self.key,
        }
        return make_reply(**{**settings, **changes})

    def forged(
        self,
        proxy: ProxyKind,
        change: Change = lambda certificate: certificate,
        *,
        tensors: dict[str, Any] | None = None,
    ) -> bytes:
        """Sign weights and statements that egress would not let out."""
        weights = AdapterWeights(tensors=self.tensors(proxy) if tensors is None else tensors)
        certificate = self.honest(proxy).release.certificate
        certificate = replace(change(certificate), weights_digest=weights.digest())
        release = sign_release(certificate, weights=weights, signing_key=self.key)
        return encode_bytes(ReleaseReply(release=release))

    def hello(self, name: str | None = None) -> bytes:
        """Say hello, under any name, also one that the types would not let through."""
        data = encode_bytes(
            HelloReply(
                protocol_version=PROTOCOL_VERSION,
                software_version="0.1.0",
                client_name=self.name,
                public_key=self.key.public_key().public_bytes_raw().hex(),
                base_model_digest=base_model_digest(self.base_model),
                declared_size=1000,
                privacy_unit=PrivacyUnit.RECORD,
            )
        )
        return data if name is None else edit_body(data, lambda body: body.update(client_name=name))


Attack = Callable[[Client, ProxyKind], bytes]
"""What the client answers to a request for a proxy."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """An honest client, a hostile one, and the server's folder after they met."""

    config: ServerConfig
    folder: Path
    attacks: dict[str, Attack] = field(default_factory=dict)
    is_registered: bool = False
    """Whether the server knows for whom each node and each key speaks, as a deployed one does."""
    is_hostile_first: bool = False
    """Whether the hostile client is asked before the honest one."""

    def meet(
        self, *, hello: Callable[[Client], bytes] = Client.hello
    ) -> tuple[AdmittedRelease, ...]:
        base_model = Path(self.config.base_model)
        alice = Client(base_model=base_model, name="alice", key=SIGNING_KEY)
        mallory = Client(base_model=base_model)

        def answer_honestly(action: str, data: bytes) -> bytes:
            if action == "hello":
                return alice.hello()
            return encode_bytes(alice.honest(decode_bytes(data, TrainingRequest).proxy))

        def attack(action: str, data: bytes) -> bytes:
            if action == "hello":
                return hello(mallory)
            proxy = decode_bytes(data, TrainingRequest).proxy
            if action in self.attacks:
                return self.attacks[action](mallory, proxy)
            return encode_bytes(mallory.honest(proxy))

        hostile = 0 if self.is_hostile_first else 2
        names = {1: "alice", hostile: "mallory"} if self.is_registered else None
        return collect(
            BytesChannel({1: answer_honestly, hostile: attack}, names=names),
            config=self.config,
            client_keys=self.client_keys(),
            run_id=RUN_ID,
            run_folder=self.folder,
            waiting=Waiting(wait_seconds=0.1, poll_seconds=0.01),
        )

    def client_keys(self) -> dict[str, frozenset[str]] | None:
        """Give the register, if there is one: both clients are allowed, each by its own key."""
        if not self.is_registered:
            return None
        own = {"alice": SIGNING_KEY, "mallory": OTHER_KEY}
        return {
            name: frozenset({key.public_key().public_bytes_raw().hex()})
            for name, key in own.items()
        }

    def answers(self) -> dict[str, str]:
        """Give what became of the hostile client, by action."""
        outcome = read_outcome(self.folder)
        assert outcome is not None
        clients = outcome["clients"]
        assert isinstance(clients, list)
        answers: dict[str, str] = clients[0 if self.is_hostile_first else 1]["answers"]
        return answers

    def stored(self) -> list[str]:
        """Give whose releases the server's job would use."""
        stored = load_collected(
            self.config,
            run_id=RUN_ID,
            run_folder=self.folder,
            client_keys=self.client_keys(),
        )
        return [f"{item.client_name} {item.proxy.value}" for item in stored]

    def refused(self) -> list[str]:
        """Give the codes of what was kept for people to look at."""
        folder = self.folder / RELEASES / "refused"
        return [json.loads(file.read_text())["code"] for file in sorted(folder.glob("*.json"))]


def with_values(value: float) -> Attack:
    """Sign weights of which one has this value."""

    def attack(client: Client, proxy: ProxyKind) -> bytes:
        tensors = client.tensors(proxy)
        tensors[min(tensors)].reshape(-1)[-1] = value
        return client.forged(proxy, tensors=tensors)

    return attack


def with_tensors(change: Callable[[dict[str, Any]], object]) -> Attack:
    """Sign weights that were changed in place."""

    def attack(client: Client, proxy: ProxyKind) -> bytes:
        tensors = client.tensors(proxy)
        change(tensors)
        return client.forged(proxy, tensors=tensors)

    return attack


def rename(name: str) -> Attack:
    """Sign weights of which one has this name."""
    return with_tensors(lambda tensors: tensors.update({name: tensors.pop(min(tensors))}))


def reshape(*shape: int) -> Attack:
    """Sign weights of which one has this shape."""
    return with_tensors(
        lambda tensors: tensors.update({min(tensors): np.zeros(shape, dtype=np.float32)})
    )


def with_certificate(change: Change) -> Attack:
    """Sign other statements."""
    return lambda client, proxy: client.forged(proxy, change)


def with_ledger(**others: Any) -> Attack:
    """Sign another ledger."""
    return with_certificate(lambda certificate: replace(certificate, privacy=make_ledger(**others)))


def instead_of_weights(data: bytes) -> Attack:
    """Keep the signed certificate and put other bytes where its weights were."""

    def attack(client: Client, proxy: ProxyKind) -> bytes:
        whole = encode_bytes(client.honest(proxy))
        return whole[: _document_end(whole)] + data

    return attack


def instead_of_everything(data: bytes) -> Attack:
    """Answer with any bytes."""
    return lambda client, proxy: data


def edited(change: Callable[[Any], object]) -> Attack:
    """Change the document of a genuine release after it was signed."""
    return lambda client, proxy: edit_body(encode_bytes(client.honest(proxy)), change)


def edit_body(data: bytes, change: Callable[[Any], object]) -> bytes:
    """Change what a stored message says, and leave its weights and any signature.

    Args:
        data: A message as `encode_bytes` writes it.
        change: Is handed the body of its document and changes it in place.

    Returns:
        The message, well-formed again.
    """
    end = _document_end(data)
    document: Any = parse_canonical(data[_START:end])
    change(document["body"])
    text = dump_canonical(document)
    return data[: _START - 8] + len(text).to_bytes(8, "big") + text + data[end:]


def _document_end(data: bytes) -> int:
    return _START + int.from_bytes(data[_START - 8 : _START], "big")
