"""A deployment on the three machines of a world: folders, keys, invitations, running nodes."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from client_side.config import ClientConfig
from client_side.folder import ClientFolder
from client_side.network import NodeFiles, join, make_node_files
from lm.settings import save_settings
from protocol.introductions import Introduction, Invitation, read_introduction
from server_side.config import (
    EvaluationConfig,
    FilteringConfig,
    FinetuningConfig,
    RefinementConfig,
    SamplingConfig,
    ServerConfig,
    SynthesisConfig,
)
from server_side.exchange.certificates import make_authority, make_server_certificate
from server_side.exchange.clients import allow_client
from server_side.exchange.folder import ServerFolder, make_server_folder
from server_side.exchange.inviting import write_invitation
from server_side.exchange.outcome import read_outcome
from server_side.exchange.submitting import free_port
from tests.support.clients import client_config, make_client, server_config
from tests.support.machines import Machine, World, end, read_json, wait_until


@dataclass(kw_only=True)
class Deployment:
    """A server's folder and two clients' folders, known to each other."""

    world: World
    root: Path
    server: ServerFolder
    clients: dict[str, ClientFolder]

    def machine(self, name: str) -> Machine:
        """Give the machine of a client."""
        return next(machine for machine in self.world.clients if machine.name == name)

    def start_client(self, name: str) -> subprocess.Popen[bytes]:
        """Start a client's node under its supervisor."""
        return self.machine(name).start(
            "client_side.node",
            "start",
            str(self.clients[name].path),
            log=self.root / f"{name}.log",
            cwd=self.root,
        )

    def start_collecting(self, command: str = "collect") -> subprocess.Popen[bytes]:
        """Start the exchange, or with `run` the long work after it as well."""
        return self.world.server.start(
            "server_side.node",
            command,
            str(self.server.path),
            log=self.root / "server.log",
            cwd=self.root,
        )

    def log(self, name: str) -> str:
        """Read what a party wrote."""
        file = self.root / f"{name}.log"
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def exchange_log(self) -> str:
        """Read what the exchange wrote."""
        file = self.server.path / "exchange.log"
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def answers(self) -> dict[str, dict[str, str]]:
        """Give each client's answers, once the exchange is over."""
        outcome = read_outcome(self.server.path)
        assert outcome is not None, self.log("server")
        clients = outcome["clients"]
        assert isinstance(clients, list)
        return {client["name"]: client["answers"] for client in clients}

    def ledger(self, name: str) -> Counter[str]:
        """Count a ledger's entries by kind."""
        file = self.clients[name].ledger_folder / "ledger.jsonl"
        if not file.is_file():
            return Counter()
        lines = file.read_text(encoding="utf-8").splitlines()
        return Counter(_kind(json.loads(line)) for line in lines)

    def is_training(self, name: str, proxy: str) -> bool:
        """Tell whether a client is in the middle of a training."""
        status = read_json(self.clients[name].status_file)
        done, total = status.get("done"), status.get("total")
        return (
            status.get("proxy") == proxy
            and status.get("phase") == "training"
            and isinstance(done, int)
            and isinstance(total, int)
            and 0 < done < total
        )

    def processes(self, folder: Path, *parts: str) -> list[psutil.Process]:
        """Find living processes of one party by its Flower home and their command line."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            line = " ".join(process.info["cmdline"] or [])
            if process.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            if not all(part in line for part in parts):
                continue
            with contextlib.suppress(psutil.Error):
                home = process.environ().get("FLWR_HOME", "")
                if home == str(folder.resolve() / "flower"):
                    found.append(process)
        return found

    def kill(self, folder: Path, *parts: str) -> None:
        """Kill processes of one party that must be there."""
        wait_until(lambda: bool(self.processes(folder, *parts)), what=f"a process {parts}")
        for process in self.processes(folder, *parts):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.contextmanager
def deployment(
    world: World,
    root: Path,
    base: Path,
    *,
    min_clients: int = 2,
    steps: int = 2,
    **network: object,
) -> Iterator[Deployment]:
    """Make folders that know each other; whatever was started ends with the block."""
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    server = make_server_folder(root / "server", host=world.server.address, port=port)
    make_authority(server.tls_folder, name="test")
    make_server_certificate(server.tls_folder, host=world.server.address)
    save_settings(server_config(base, min_clients=min_clients), server.settings_file)
    settings = replace(
        server.load_network(), local_port=free_port(), wait_seconds=300.0, deadline_seconds=400.0
    )
    save_settings(replace(settings, **network), server.network_file)  # type: ignore[arg-type]
    write_invitation(server)
    clients = {}
    for machine in world.clients:
        config = slow_client_config(base, name=f"client-{machine.name}", steps=steps)
        folder = make_client(root / machine.name, config)
        make_node_files(folder)
        join(folder, read_introduction(Invitation, server.invitation_file))
        files = NodeFiles(folder=folder)
        files.save(replace(files.load(), runtime_port=free_port(), restart_seconds=2.0))
        allow_client(server.clients_folder, read_introduction(Introduction, files.introduction))
        clients[machine.name] = folder
    made = Deployment(world=world, root=root, server=server, clients=clients)
    try:
        yield made
    finally:
        for machine in (world.server, *world.clients):
            for process in machine.started:
                end(process)
            machine.started.clear()


def slow_client_config(base: Path, *, name: str, steps: int) -> ClientConfig:
    """Give settings under which a training can be interrupted and paid for more than once."""
    config = client_config(base, name=name)
    return replace(
        config,
        budget=replace(config.budget, target_epsilon=4.0, lifetime_epsilon_cap=40.0),
        generator=replace(config.generator, steps=steps),
        reward_proxy=replace(config.reward_proxy, steps=steps),
    )


def quick_server_config(base: Path, records: Path, *, min_clients: int = 1) -> ServerConfig:
    """Give settings under which the long work on tiny models takes seconds."""
    # Random models end a text by chance, one token in 260; so much room that most do.
    sampling = SamplingConfig(max_new_tokens=250, top_p=1.0)
    return replace(
        server_config(base, min_clients=min_clients),
        synthesis=SynthesisConfig(
            num_queries=6, num_candidates=6, prompt_sampling=sampling, response_sampling=sampling,
            min_prompt_words=1, min_response_words=1, max_attempts_factor=10.0,
            engine="transformers",
        ),
        filtering=FilteringConfig(k=2.0),
        refinement=RefinementConfig(num_rounds=1, min_response_words=1, engine="transformers"),
        finetuning=FinetuningConfig(
            lora_rank=2, target_modules=["q_proj"], num_epochs=1, dtype="float32", report_to="none",
        ),
        evaluation=EvaluationConfig(
            path=str(records), max_rows=4, max_new_tokens=16, num_resamples=50,
            dtype="float32", engine="transformers",
        ),
    )  # fmt: skip


def releases(folder: Path) -> dict[str, bytes]:
    """Read all stored releases."""
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.release"))}


def _kind(entry: dict[str, object]) -> str:
    body = entry.get("entry", entry)
    assert isinstance(body, dict)
    return str(body.get("kind", "unknown"))
