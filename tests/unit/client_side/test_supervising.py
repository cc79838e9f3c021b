"""A node that ends is started again, and nothing that it started outlives it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from client_side import supervising
from client_side.folder import ClientFolder
from client_side.pinning import check_bundle
from client_side.supervising import (
    at_work_file,
    keep_running,
    make_shims,
    read_node_status,
    running_file,
)
from lm.locks import held
from protocol.errors import ConfigurationError

# Starts a process that would live on, writes its number, and ends.
_WITH_ORPHAN = (
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time;"
    " time.sleep(60)']); open('orphans', 'a').write(f'{p.pid}\\n');"
    " print('ERROR :   last words', flush=True); sys.exit(3)"
)


@pytest.fixture
def folder(tmp_path: Path) -> ClientFolder:
    return ClientFolder(path=tmp_path)


def times(number: int) -> Callable[[], bool]:
    """Let a loop run so often."""
    left = [number]

    def may_go_on() -> bool:
        left[0] -= 1
        return left[0] > 0

    return may_go_on


def run(folder: ClientFolder, script: str, *, starts: int) -> None:
    keep_running(
        folder,
        [sys.executable, "-c", script],
        os.environ,
        restart_seconds=0.01,
        may_go_on=times(starts),
    )


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_node_that_ends_is_started_again(folder: ClientFolder) -> None:
    run(folder, "open('starts', 'a').write('x')", starts=3)

    assert (folder.path / "starts").read_text() == "xxx"
    status = read_node_status(folder)
    assert status is not None
    assert status["num_starts"] == 3


def test_what_it_started_ends_with_it(folder: ClientFolder) -> None:
    run(folder, _WITH_ORPHAN, starts=2)

    orphans = [int(line) for line in (folder.path / "orphans").read_text().split()]
    assert len(orphans) == 2
    assert not [pid for pid in orphans if is_running(pid)]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ERROR: Failed to send message x", "given again"),
        # The answer that is waited for would then stay with the node, also when it is ready.
        ("INFO : Run ID 7 is not in `RUNNING` status. Ignoring reply message x.", "starts afresh"),
    ],
)
def test_a_node_that_lost_its_answer_is_started_anew(
    folder: ClientFolder, said: str, reason: str
) -> None:
    """It would go on and wait for the next question, and the server for this answer."""
    lost = f"import time; print('{said}', flush=True); time.sleep(60)"

    run(folder, lost, starts=2)

    status = read_node_status(folder)
    assert status is not None
    assert status["num_starts"] == 2
    assert reason in str(status["reason"])


_ANSWERING = "import time; print('INFO : Sending: train.generator message (ID: x)', flush=True);"


def test_a_node_whose_client_process_died_in_the_middle_of_an_answer_is_started_anew(
    folder: ClientFolder,
) -> None:
    """It would wait for the rest of the answer, and the server for all of it, for ever."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    at_work_file(folder).write_text(str(dead.pid))

    run(folder, f"{_ANSWERING} time.sleep(60)", starts=2)

    status = read_node_status(folder)
    assert status is not None
    assert status["num_starts"] == 2
    assert "in the middle of an answer" in str(status["reason"])


def test_a_crash_is_told_to_the_server_by_flowers_own_word(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server counts such answers, and leaves a client out that dies again and again."""
    monkeypatch.setattr(supervising, "_HANDING_OVER_SECONDS", 0.5)
    at_work_file(folder).write_text("4194304")  # above every number of a process
    script = f"import time; time.sleep(1.5); {_ANSWERING} time.sleep(1.0)"

    run(folder, script, starts=1)

    status = read_node_status(folder)
    assert status is not None
    assert "it ended with code 0" in str(status["reason"])


def test_a_number_that_another_process_has_by_now_does_not_make_a_node_run(
    folder: ClientFolder,
) -> None:
    """After a restart of the machine its old numbers belong to others."""
    note = {"state": "running", "since": 0, "pid": os.getpid(), "num_starts": 1, "reason": ""}
    (folder.path / "node.json").write_text(json.dumps(note | {"supervisor": os.getpid()}))

    left_behind = read_node_status(folder)
    with held(running_file(folder), busy=AssertionError()):
        running = read_node_status(folder)

    assert left_behind is not None
    assert running is not None
    assert (left_behind["state"], running["state"]) == ("stopped", "running")


@pytest.mark.parametrize("case", ["lives", "ended in order", "answer was sent", "no number yet"])
def test_a_node_that_still_sends_is_left_alone(folder: ClientFolder, case: str) -> None:
    script = f"{_ANSWERING} time.sleep(1.5)"
    if case == "lives":
        at_work_file(folder).write_text(str(os.getpid()))
    elif case == "answer was sent":
        at_work_file(folder).write_text("4194304")  # above every number of a process
        script = f"{_ANSWERING} print('INFO : Sent successfully', flush=True); time.sleep(1.5)"
    elif case == "no number yet":
        at_work_file(folder).write_text("")

    run(folder, script, starts=1)

    status = read_node_status(folder)
    assert status is not None
    assert "it ended with code 0" in str(status["reason"])


def test_its_output_becomes_log_entries_of_their_level(
    folder: ClientFolder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(folder, "print('\\x1b[91mERROR \\x1b[0m:     bad'); print('plain')", starts=1)

    said = [(entry.levelname, entry.getMessage()) for entry in caplog.records]
    assert ("ERROR", "bad") in said
    assert ("INFO", "plain") in said


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("[code: 2004] Failed to activate SuperNode.", "still takes this node for present"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED]", "not of the authority that we trust"),
        ("grpc: 401 Unauthorized", "does not know this node's key"),
        ("run 8840176 of node 4a401b", "it ended with code 0"),
        ("nothing special", "it ended with code 0"),
    ],
)
def test_status_says_in_plain_words_why_it_ended(
    folder: ClientFolder, said: str, reason: str
) -> None:
    run(folder, f"print({said!r})", starts=1)

    status = read_node_status(folder)
    assert status is not None
    assert reason in str(status["reason"])


def test_a_node_that_was_killed_is_said_to_be_killed_whatever_it_said(folder: ClientFolder) -> None:
    killed = "import os; print('SSL', flush=True); os.kill(os.getpid(), 9)"

    run(folder, killed, starts=1)

    status = read_node_status(folder)
    assert status is not None
    assert status["reason"] == "it was killed by signal 9"


def test_a_full_disk_does_not_keep_a_node_from_being_started_again(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervising, "write_private_file", full)

    run(folder, "open('starts', 'a').write('x')", starts=2)

    assert (folder.path / "starts").read_text() == "xx"
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"state"', b"\xff"])
def test_a_damaged_note_of_the_node_is_told_in_words(folder: ClientFolder, content: bytes) -> None:
    (folder.path / "node.json").write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"node\.json as it was written"):
        read_node_status(folder)


def test_a_node_ends_when_its_supervisor_is_killed(folder: ClientFolder) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from client_side.folder import ClientFolder\n"
        "from client_side.supervising import keep_running\n"
        f"keep_running(ClientFolder(path=Path({str(folder.path)!r})), [sys.executable, '-c',"
        " \"import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)\"],"
        " os.environ, restart_seconds=1.0)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script])
    wait_until(lambda: (folder.path / "pid").is_file() and (folder.path / "pid").read_text() != "")
    node = int((folder.path / "pid").read_text())

    supervisor.kill()
    supervisor.wait()

    wait_until(lambda: not is_running(node))
    status = read_node_status(folder)
    assert status is not None
    assert status["state"] == "stopped"


def test_at_every_moment_the_programs_of_a_node_are_whole_and_can_be_run(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that runs while a second start is tried would find Flower's program in their place."""
    shims = make_shims(folder)
    seen: list[dict[str, tuple[int, bytes]]] = []

    def look() -> dict[str, tuple[int, bytes]]:
        found = (file for file in shims.iterdir() if file.suffix != ".part")
        return {file.name: (file.stat().st_mode & 0o777, file.read_bytes()) for file in found}

    def fail_at_the_second_program(_: int) -> None:
        seen.append(look())
        if len(seen) == 2:
            raise OSError(28, "No space left on device")

    before = look()
    monkeypatch.setattr(os, "fsync", fail_at_the_second_program)
    monkeypatch.setattr(os, "chmod", lambda *_, **__: seen.append(look()))
    with pytest.raises(OSError, match="No space left"):
        make_shims(folder)

    assert {mode for mode, _ in before.values()} == {0o700}
    assert [*seen, look()] == [before] * 3


def wait_until(is_so: Callable[[], bool], *, seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("pinned", ["", "0" * 64])
def test_another_bundle_than_the_pinned_one_is_refused(
    pinned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from flwr.clientapp.client_app import LoadClientAppError

    with pytest.raises(LoadClientAppError) as caught:
        check_bundle(b"bundle", pinned=pinned)

    # What goes to the server names no digest of ours; the operator reads both.
    assert str(caught.value) == "The app bundle is not the pinned one."
    assert "Nothing of it was run" in capsys.readouterr().err


def test_the_pinned_bundle_passes() -> None:
    check_bundle(
        b"bundle", pinned="1e6ed65d77d6364eeaed5a745ba5c4985ae2b700dd85d7cf7f027bdf294a33fc"
    )


def test_a_client_process_logs_one_line_an_entry_and_no_text_of_others(tmp_path: Path) -> None:
    """In a process of its own, as it runs: without a log, what was refused would not be seen."""
    code = (
        "from client_side.pinning import write_log\n"
        "import logging\n"
        "write_log()\n"
        "log = logging.getLogger('client_side.answering')\n"
        "log.info('goes on after step 7')\n"
        "try:\n"
        "    raise ValueError('quotes a record')\n"
        "except ValueError:\n"
        "    log.exception('first\\nsecond')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stderr.splitlines() == [
        "INFO: goes on after step 7",
        "ERROR: first\\nsecond\\nValueError",
    ]
