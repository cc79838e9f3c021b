"""Flower's client process runs the pinned bundle, from where that bundle was unpacked."""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.config import get_project_dir
from flwr.supercore.fab import Fab
from flwr.supercore.task_identity import TaskIdentity

from client_side.pinning import PIN_VARIABLE, pin_runtime

VERSION = "1.0"
_PROJECT = """
[project]
name = "app"
version = "{version}"
[tool.flwr.app]
publisher = "clinic"
[tool.flwr.app.components]
clientapp = "{module}:app"
serverapp = "{module}:app"
"""
_APP = """
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def query(message, context):
    return Message(RecordDict(), reply_to=message)
"""


def make_bundle() -> bytes:
    """Write a bundle as Flower builds one: files, and a list of their digests."""
    files = {
        "pyproject.toml": _PROJECT.format(version=VERSION, module="pinned_app").encode(),
        "pinned_app.py": _APP.encode(),
    }
    lines = [f"{name},{hashlib.sha256(data).hexdigest()},0" for name, data in files.items()]
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(".info/CONTENT", "\n".join(lines))
    return target.getvalue()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Flower's own client process, without its network and its end of the process."""
    # Any: Flower does not export what is replaced here.
    runtime: Any = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    for name in ("install_from_fab", "get_load_client_app_fn"):
        monkeypatch.setattr(runtime, name, getattr(runtime, name))
    for name in ("event", "register_signal_handlers", "flwr_exit", "push_task_output"):
        monkeypatch.setattr(runtime, name, lambda *args, **named: None)
    monkeypatch.setattr(runtime, "HeartbeatSender", lambda *args: SimpleNamespace(
        start=lambda: None, is_running=False
    ))  # fmt: skip
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    yield runtime
    for module in ("pinned_app", "trap_app"):
        sys.modules.pop(module, None)


def run(
    runtime: Any, monkeypatch: pytest.MonkeyPatch, *, bundle: bytes, name: str, version: str
) -> Message:
    """Let Flower's client process do one message of a run, and return what it would send."""
    message = Message(content=RecordDict(), message_type="query", dst_node_id=1)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
    task = SimpleNamespace(run_id=1, fab_id=name, fab_version=version)
    replies: list[Message] = []
    monkeypatch.setattr(runtime, "pull_task_input", lambda _: (message, context, task, fab))
    monkeypatch.setattr(runtime, "push_message", lambda _, reply, __: replies.append(reply))
    runtime.run_clientapp("127.0.0.1:1", "token", insecure=True)
    return replies[0]


def test_the_pinned_bundle_runs_from_where_it_was_unpacked(
    runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    monkeypatch.setenv(PIN_VARIABLE, hashlib.sha256(bundle).hexdigest())
    pin_runtime(runtime)

    reply = run(runtime, monkeypatch, bundle=bundle, name="clinic/app", version=VERSION)

    assert not reply.has_error()
    module = sys.modules["pinned_app"]
    assert Path(str(module.__file__)).is_relative_to(tmp_path / "flower" / "apps")


@pytest.mark.parametrize("is_same_name", [True, False])
def test_a_run_whose_version_leads_out_of_the_bundle_is_refused(
    runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_same_name: bool
) -> None:
    """The version is the server's text; by it, Flower would find a folder of another user's."""
    bundle = make_bundle()
    short = hashlib.sha256(bundle).hexdigest()[:8]
    version = f"{VERSION}.{short}/../../../trap"
    trap = tmp_path / f"trap.{short}"
    trap.mkdir()
    stated = version if is_same_name else VERSION
    project = _PROJECT.format(version=stated, module="trap_app")
    (trap / "pyproject.toml").write_text(project, encoding="utf-8")
    (trap / "trap_app.py").write_text(_APP, encoding="utf-8")
    monkeypatch.setenv(PIN_VARIABLE, hashlib.sha256(bundle).hexdigest())
    pin_runtime(runtime)

    reply = run(runtime, monkeypatch, bundle=bundle, name="clinic/app", version=version)

    assert get_project_dir("clinic/app", version, short).resolve() == trap
    assert reply.has_error()
    assert "trap" not in reply.error.reason
    assert not {"trap_app", "pinned_app"} & set(sys.modules)


def test_another_bundle_is_neither_unpacked_nor_loaded(
    runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PIN_VARIABLE, "0" * 64)
    pin_runtime(runtime)

    reply = run(runtime, monkeypatch, bundle=make_bundle(), name="clinic/app", version=VERSION)

    assert reply.has_error()
    assert "pinned_app" not in sys.modules
    assert not (tmp_path / "flower" / "apps").exists()


@pytest.mark.parametrize("missing", ["install_from_fab", "get_load_client_app_fn"])
def test_without_the_places_of_the_checks_nothing_runs(missing: str) -> None:
    known = {"install_from_fab": print, "get_load_client_app_fn": print}
    del known[missing]

    with pytest.raises(SystemExit, match=r"Expected Flower 1\.41"):
        pin_runtime(SimpleNamespace(**known))


def test_nothing_is_loaded_before_a_bundle_was_unpacked() -> None:
    from flwr.clientapp.client_app import LoadClientAppError

    runtime = SimpleNamespace(install_from_fab=print, get_load_client_app_fn=print)
    pin_runtime(runtime)

    with pytest.raises(LoadClientAppError):
        runtime.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
