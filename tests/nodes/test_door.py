"""The server's door: what gets in, and what is refused, seen from a client's machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client_side.network import NodeFiles
from client_side.node import supernode_command
from server_side.exchange.certificates import make_authority
from server_side.exchange.clients import revoke_client
from server_side.exchange.gateway import FLEET_PATHS
from server_side.exchange.submitting import free_port
from tests.support.deployment import Deployment, deployment
from tests.support.machines import Machine, World, environment, wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(600)]

# Runs on a client's machine: one request each, and what came of it as JSON.
_ASK = """
import base64, datetime, json, ssl, sys, urllib.error, urllib.request
base, authority, key_file, paths = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
context = ssl.create_default_context(cafile=authority)
headers = {"content-type": "application/protobuf", "accept": "application/protobuf"}
if key_file:
    from cryptography.hazmat.primitives import serialization as s
    key = s.load_ssh_private_key(open(key_file, "rb").read(), None).public_key()
    pem = key.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    headers["flwr-public-key"] = base64.b64encode(pem).decode()
    headers["flwr-timestamp"] = datetime.datetime.now(datetime.UTC).isoformat()
    headers["flwr-signature"] = base64.b64encode(b"signed by nobody").decode()
found = {}
for path in paths:
    request = urllib.request.Request(base + path, data=b"", headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            found[path] = answer.status
    except urllib.error.HTTPError as error:
        found[path] = error.code
    except urllib.error.URLError as error:
        found[path] = type(error.reason).__name__
    except OSError as error:
        found[path] = type(error).__name__
print(json.dumps(found))
"""

_CONTROL_PATHS = (
    "/v1/control/start-run",
    "/v1/control/list-runs",
    "/v1/control/register-node",
    "/v1/control/unregister-node",
    "/v1/runtime/acquire-task",
    "/v1/runtime/push-object",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/docs",
    "/openapi.json",
    "/health",
    "/",
)


_SIGNS = {
    "no key": "404 Not Found",
    "wrong key": "terminated gracefully",
    "wrong authority": "CERTIFICATE_VERIFY_FAILED",
    "no TLS": "Failed to initialize the connection",
}
"""What Flower's node says of each refusal; it ends itself on a 401 without naming it."""


@pytest.fixture(scope="module")
def open_door(
    world: World, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A server that waits for clients, none of which is started."""
    with deployment(world, tmp_path_factory.mktemp("door"), base) as made:
        made.start_collecting()
        wait_until(
            lambda: "waiting for" in made.log("server") and is_open(made), what="an open door"
        )
        yield made


def is_open(made: Deployment) -> bool:
    answer = ask(made, made.server.load_network().address, "/")
    return answer == {"/": 404}


def ask(
    made: Deployment,
    address: str,
    *paths: str,
    key: Path | None = None,
    scheme: str = "https",
    authority: Path | None = None,
    machine: Machine | None = None,
) -> dict[str, object]:
    where = machine or made.world.clients[0]
    certificate = authority or NodeFiles(folder=made.clients["a"]).authority
    done = subprocess.run(
        where.command(
            sys.executable, "-c", _ASK, f"{scheme}://{address}", str(certificate),
            str(key) if key else "", *paths,
        ),
        capture_output=True, text=True, check=True, timeout=120, env=environment(),
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_only_fleet_paths_pass(open_door: Deployment) -> None:
    key = NodeFiles(folder=open_door.clients["a"]).node_key
    address = open_door.server.load_network().address

    answers = ask(open_door, address, *_CONTROL_PATHS, key=key)

    assert set(answers.values()) == {404}


def test_fleet_paths_want_an_allowed_key(open_door: Deployment, tmp_path: Path) -> None:
    address = open_door.server.load_network().address
    stranger = new_key(tmp_path / "stranger")

    without = ask(open_door, address, *FLEET_PATHS)
    with_another = ask(open_door, address, *FLEET_PATHS, key=stranger)

    assert set(without.values()) == {401}
    assert set(with_another.values()) == {401}


def test_an_allowed_key_wants_its_owners_signature(open_door: Deployment) -> None:
    """A public key is no secret; whoever copied one gets past the gateway and no further."""
    key = NodeFiles(folder=open_door.clients["a"]).node_key
    address = open_door.server.load_network().address

    answers = ask(open_door, address, *FLEET_PATHS, key=key)

    assert set(answers.values()) == {401}


def test_the_link_itself_cannot_be_reached_from_elsewhere(
    open_door: Deployment, cables: World
) -> None:
    port = open_door.server.load_network().local_port

    answers = ask(open_door, f"{cables.server.address}:{port}", "/v1/control/list-runs")

    assert answers == {"/v1/control/list-runs": "ConnectionRefusedError"}


def test_whoever_reaches_the_link_commands_it(open_door: Deployment) -> None:
    """Why the gateway is there: on the server's own loopback no login is asked for."""
    port = open_door.server.load_network().local_port

    answers = ask(
        open_door,
        f"127.0.0.1:{port}",
        "/v1/control/list-runs",
        "/v1/control/list-nodes",
        machine=open_door.world.server,
    )

    assert set(answers.values()) == {200}


def test_plain_http_is_refused(open_door: Deployment) -> None:
    address = open_door.server.load_network().address

    answers = ask(open_door, address, "/v1/fleet/activate-node", scheme="http")

    assert answers["/v1/fleet/activate-node"] not in (200, 401, 404)


def test_another_authority_is_refused_by_the_client(open_door: Deployment, tmp_path: Path) -> None:
    make_authority(tmp_path, name="somebody else")
    address = open_door.server.load_network().address

    answers = ask(open_door, address, "/", authority=tmp_path / "authority.pem")

    assert answers == {"/": "SSLCertVerificationError"}


@pytest.mark.parametrize("flaw", ["no key", "wrong key", "wrong authority", "no TLS"])
def test_a_node_that_lacks_something_does_not_get_in(
    open_door: Deployment, tmp_path: Path, flaw: str
) -> None:
    """With Flower's own node, as a client would start it."""
    folder, machine = open_door.clients["b"], open_door.world.clients[1]
    files = NodeFiles(folder=folder)
    authority: Path | None = files.authority
    key: Path | None = files.node_key
    match flaw:
        case "no key":
            key = None
        case "wrong key":
            key = new_key(tmp_path / "stranger")
        case "wrong authority":
            make_authority(tmp_path, name="somebody else")
            authority = tmp_path / "authority.pem"
        case "no TLS":
            authority, key = None, None
    command = supernode_command(
        folder,
        superlink=open_door.server.load_network().address,
        runtime_port=free_port(),
        insecure=flaw == "no TLS",
        root_certificates=authority,
        node_key=key,
    )

    with (tmp_path / "log").open("wb") as log:
        node = subprocess.Popen(
            machine.command(*command, "--max-retries", "0"),
            stdout=log, stderr=log, start_new_session=True,
            env=environment() | {"FLWR_HOME": str(tmp_path / "flower")},
        )  # fmt: skip
        try:
            node.wait(60)
        finally:
            # What it started outlives it; a supervisor ends the whole group as well.
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()
    said = (tmp_path / "log").read_text(encoding="utf-8")

    assert _SIGNS[flaw] in said
    assert "SuperNode ID" not in said
    assert "Activated" not in (open_door.server.logs_folder / "link.log").read_text()


def test_a_revoked_client_is_out_at_once(open_door: Deployment) -> None:
    """Without a restart, and before the link is asked, which still knows the key."""
    address = open_door.server.load_network().address
    key = NodeFiles(folder=open_door.clients["b"]).node_key
    log = open_door.server.logs_folder / "link.log"

    def ask_and_count() -> int:
        assert ask(open_door, address, FLEET_PATHS[0], key=key) == {FLEET_PATHS[0]: 401}
        return log.read_text(encoding="utf-8").count("POST /v1/fleet/")

    before, reached_link = ask_and_count(), ask_and_count()

    revoke_client(open_door.server.clients_folder, "client-b")

    assert reached_link == before + 1
    assert ask_and_count() == reached_link


# Runs on the server's machine, where the link listens: shut a client out, and bring its key back.
_BRING_BACK = """
import sys
from pathlib import Path
from protocol.errors import ConfigurationError
from server_side.exchange import serving
from server_side.exchange.certificates import TlsFiles
from server_side.exchange.clients import load_clients
from server_side.exchange.folder import ServerFolder
folder = ServerFolder(path=Path(sys.argv[1]))
files = TlsFiles.within(folder.tls_folder)
link = serving._link(folder, folder.load_network(), files)
clients = load_clients(folder.clients_folder)
others = {name: item for name, item in clients.items() if name != sys.argv[2]}
serving.sync_nodes(link, others)
try:
    serving.sync_nodes(link, clients)
except ConfigurationError as error:
    print(error)
"""


def test_a_key_that_the_link_has_unregistered_does_not_come_back(open_door: Deployment) -> None:
    """The link refuses it for ever, and its own words name neither the client nor the way out."""
    done = subprocess.run(
        open_door.world.server.command(
            sys.executable, "-c", _BRING_BACK, str(open_door.server.path), "client-a"
        ),
        capture_output=True, text=True, check=False, timeout=120, env=environment(),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "node key of client-a that was never revoked" in done.stdout


def test_check_names_what_is_wrong_with_the_server(open_door: Deployment) -> None:
    files = NodeFiles(folder=open_door.clients["a"])
    before = files.load()
    files.save(replace(before, server=f"{open_door.world.server.address}:{free_port()}"))
    try:
        done = open_door.world.clients[0].run(
            "client_side.node", "check", str(files.folder.path), cwd=open_door.root
        )
    finally:
        files.save(before)

    assert done.returncode != 0
    assert "Ask its operator whether `rewardds-server collect` is running" in done.stdout
    assert "trouble with: server." in done.stderr


def new_key(file: Path) -> Path:
    key = ec.generate_private_key(ec.SECP384R1())
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    return file
