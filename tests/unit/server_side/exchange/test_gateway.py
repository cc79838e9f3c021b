"""The gateway passes an explicit list of paths, for allowed keys, up to a size."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette

from protocol.introductions import Introduction
from server_side.exchange import gateway
from server_side.exchange.clients import allow_client, revoke_client
from server_side.exchange.gateway import FLEET_PATHS, KEY_HEADER, AllowedKeys, build_gateway

LINK = "https://127.0.0.1:1"
# What a node of Flower asks of its link; more would open a way in, and less would end exchanges.
PATHS = (
    "/v1/fleet/activate-node",
    "/v1/fleet/deactivate-node",
    "/v1/fleet/send-node-heartbeat",
    "/v1/fleet/pull-messages",
    "/v1/fleet/push-messages",
    "/v1/fleet/get-run",
    "/v1/fleet/get-fab",
    "/v1/fleet/pull-object",
    "/v1/fleet/push-object",
    "/v1/fleet/confirm-message-received",
)


def new_client(name: str) -> tuple[Introduction, str]:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    introduction = Introduction(
        client_name=name, node_key=line, signing_key=f"{len(name):02x}" * 32
    )
    return introduction, base64.b64encode(pem).decode()


class Link:
    """Stands for the link; keeps what reached it."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.is_up = True

    def answer(self, request: httpx.Request) -> httpx.Response:
        if not self.is_up:
            raise httpx.ConnectError("down")
        self.requests.append((request.url.path, request.content, request.headers))
        return httpx.Response(200, content=b"answer", headers={"flwr-note": "1", "x-other": "2"})


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    made = Link()
    real = httpx.AsyncClient

    def client(**settings: object) -> httpx.AsyncClient:
        assert settings["trust_env"] is False
        return real(base_url=LINK, transport=httpx.MockTransport(made.answer))

    monkeypatch.setattr(gateway.httpx, "AsyncClient", client)
    return made


@pytest.fixture
def header(tmp_path: Path) -> str:
    introduction, header = new_client("ward")
    allow_client(tmp_path, introduction)
    return header


@pytest.fixture
def app(link: Link, header: str, tmp_path: Path) -> Starlette:
    return build_gateway(link=LINK, verify=False, keys=AllowedKeys(tmp_path), max_request_bytes=100)


def send(
    app: Starlette,
    path: str,
    *,
    header: str = "",
    body: bytes = b"question",
    method: str = "POST",
    more: Mapping[str, str] | None = None,
) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            headers = {**({KEY_HEADER: header} if header else {}), **(more or {})}
            return await client.request(method, path, content=body, headers=headers)

    # Only the gateway's own client, made before, stands for the link.
    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _own_client(monkeypatch: pytest.MonkeyPatch, app: Starlette) -> None:
    monkeypatch.undo()


def test_what_is_listed_is_what_nodes_need() -> None:
    assert sorted(FLEET_PATHS) == sorted(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_fleet_paths_pass_for_an_allowed_key(
    app: Starlette, link: Link, header: str, path: str
) -> None:
    answer = send(app, path, header=header, more={"cookie": "x", "flwr-signature": "s"})

    assert (answer.status_code, answer.content) == (200, b"answer")
    ((reached, body, headers),) = link.requests
    assert (reached, body) == (path, b"question")
    assert headers["flwr-signature"] == "s"
    assert "cookie" not in headers
    assert "x-other" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/pull-messages/",
        "//v1/control/start-run",
        "/docs",
        "/",
    ],
)
def test_nothing_else_passes(app: Starlette, link: Link, header: str, path: str) -> None:
    answer = send(app, path, header=header)

    assert answer.status_code in (404, 307)
    assert not link.requests


def test_only_post_passes(app: Starlette, link: Link, header: str) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        assert send(app, FLEET_PATHS[0], header=header, method=method).status_code == 405
    assert not link.requests


@pytest.mark.parametrize(
    "make",
    [
        lambda _: "",
        lambda _: new_client("stranger")[1],
        lambda _: "no base64 !",
        lambda _: base64.b64encode(b"no key").decode(),
    ],
    ids=["none", "stranger", "no base64", "no key"],
)
def test_a_key_that_is_not_listed_does_not_pass(
    app: Starlette, link: Link, header: str, make: Callable[[str], str]
) -> None:
    assert send(app, FLEET_PATHS[0], header=make(header)).status_code == 401
    assert not link.requests


@pytest.mark.parametrize(("num_comment_bytes", "status"), [(100, 200), (5000, 401)])
def test_a_listed_key_passes_after_a_comment_unless_that_is_too_long(
    app: Starlette, header: str, num_comment_bytes: int, status: int
) -> None:
    """Whoever reads the key skips the comment, but would have to read all of it."""
    pem = b"#" * num_comment_bytes + b"\n" + base64.b64decode(header)

    answer = send(app, FLEET_PATHS[0], header=base64.b64encode(pem).decode())

    assert answer.status_code == status


def test_a_revoked_key_does_not_pass_any_more(
    app: Starlette, link: Link, header: str, tmp_path: Path
) -> None:
    assert send(app, FLEET_PATHS[0], header=header).status_code == 200

    revoke_client(tmp_path, "ward")

    assert send(app, FLEET_PATHS[0], header=header).status_code == 401


@pytest.mark.parametrize("is_revoked", [False, True])
def test_a_list_that_cannot_be_read_lets_nobody_in_until_it_can(
    app: Starlette, header: str, tmp_path: Path, is_revoked: bool
) -> None:
    """What was read before counts no more: whoever was let in may have been revoked since."""
    assert send(app, FLEET_PATHS[0], header=header).status_code == 200
    torn = tmp_path / "torn.json"

    torn.write_text("{", encoding="utf-8")
    if is_revoked:
        revoke_client(tmp_path, "ward")
    met = send(app, FLEET_PATHS[0], header=header).status_code
    torn.unlink()

    assert met == 401
    assert send(app, FLEET_PATHS[0], header=header).status_code == (401 if is_revoked else 200)


def test_a_file_that_goes_away_while_the_list_is_read_costs_that_request_alone(
    app: Starlette, link: Link, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: Path) -> None:
        raise FileNotFoundError(self)

    assert send(app, FLEET_PATHS[0], header=header).status_code == 200
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", gone)
        met = send(app, FLEET_PATHS[0], header=header).status_code

    assert met == 401
    assert send(app, FLEET_PATHS[0], header=header).status_code == 200


def test_a_large_body_does_not_pass(app: Starlette, link: Link, header: str) -> None:
    announced = send(app, FLEET_PATHS[0], header=header, body=b"x" * 101)
    lied = send(app, FLEET_PATHS[0], header=header, body=b"x" * 101, more={"content-length": "1"})

    assert (announced.status_code, lied.status_code) == (413, 413)
    assert send(app, FLEET_PATHS[0], header=header, body=b"x" * 100).status_code == 200
    assert len(link.requests) == 1


def test_a_link_that_is_down_is_a_reason_to_try_again(
    app: Starlette, link: Link, header: str
) -> None:
    """Flower's nodes try again on 503 and give up on most other codes."""
    link.is_up = False

    assert send(app, FLEET_PATHS[0], header=header).status_code == 503
