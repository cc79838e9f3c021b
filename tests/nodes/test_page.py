"""`docs/deploying.md` leads to a finished run: its own commands, in its order, on two machines."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.folder import ClientFolder
from lm.settings import save_settings
from server_side.measuring.metrics import read_metrics
from tests.support.clients import client_config
from tests.support.deployment import quick_server_config
from tests.support.machines import ROOT, Machine, World, wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(900)]

_MODULES = {"rewardds-client": "client_side.node", "rewardds-server": "server_side.node"}


def commands_of_the_page() -> list[list[str]]:
    """Read the page's commands, up to the end of the run."""
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    way = page[: page.index("## Ports")]
    blocks = re.findall(r"```sh\n(.*?)```", way, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("rewardds-")]


def test_the_page_leads_to_a_finished_run(world: World, base: Path, tmp_path: Path) -> None:
    server, client = tmp_path / "run-1", tmp_path / "ward"
    records = tmp_path / "notes.jsonl"
    rows = [{"prompt": f"Question {n}", "response": f"Answer {n}"} for n in range(3000)]
    records.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    records.chmod(0o600)
    places = {
        "/srv/rewardds/run-1": str(server),
        "/srv/rewardds/ward": str(client),
        "rewardds.example.org": world.server.address,
        "/data/notes.jsonl": str(records),
        "invitation.json": str(server / "invitation.json"),
        "introduction.json": str(client / "introduction.json"),
    }
    said: dict[str, str] = {}
    collecting = None
    for program, command, *words in commands_of_the_page():
        machine = world.server if program == "rewardds-server" else world.clients[0]
        arguments = [command, *(places.get(word, word) for word in words)]
        if command == "collect":
            collecting = start(machine, program, arguments, tmp_path)
            wait_until(lambda: "waiting for 1" in (tmp_path / "collect.log").read_text(),
                       what="an open door")  # fmt: skip
            continue
        if command == "start":
            start(machine, program, arguments, tmp_path)
            assert collecting is not None
            assert collecting.wait(400) == 0, (tmp_path / "collect.log").read_text()
            continue
        done = machine.run(_MODULES[program], *arguments, cwd=tmp_path, seconds=400)
        assert done.returncode == 0, done.stdout + done.stderr
        said[f"{program} {command}"] = done.stdout
        if command == "init":
            edit_as_the_page_says(program, server, client, base, records)

    # What the two operators read to each other.
    for made, taken in (
        ("rewardds-server invite", "rewardds-client join"),
        ("rewardds-client init", "rewardds-server allow-client"),
    ):
        assert fingerprints(said[made]) == fingerprints(said[taken]) != set()
    assert "failed" not in said["rewardds-client check"]
    assert "Exchange      over" in said["rewardds-server status"]
    read_metrics(server / "metrics.json")
    assert (server / "report.html").is_file()


def start(
    machine: Machine, program: str, arguments: list[str], folder: Path
) -> subprocess.Popen[bytes]:
    log = folder / f"{arguments[0]}.log"
    return machine.start(_MODULES[program], *arguments, log=log, cwd=folder)


def fingerprints(text: str) -> set[str]:
    return set(re.findall(r"(?:[0-9a-f]{4} ){7}[0-9a-f]{4}", text))


def edit_as_the_page_says(
    program: str, server: Path, client: Path, base: Path, records: Path
) -> None:
    """Name models, records and sizes; tiny ones, so that this takes a minute."""
    if program == "rewardds-client":
        folder = ClientFolder(path=client)
        before = folder.load_config()
        tiny = client_config(base, name=before.name)
        kept = replace(
            tiny.records,
            path=before.records.path,
            declared_size=before.records.declared_size,
        )
        save_settings(replace(tiny, records=kept), folder.settings_file)
        return
    save_settings(quick_server_config(base, records), server / "server_node.yaml")
