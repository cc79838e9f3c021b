"""Stages that several runs share: keyed by all that decides them, done once, never half taken."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from server_side.run_store import RunStore
from server_side.samples import OnProgress, Query, StageResult
from server_side.shared_stages import (
    NoFingerprintError,
    SharedStages,
    fingerprint,
    library_versions,
    stage_key,
)

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Config:
    size: int = 1


class Counter:
    """What a stage was done by: counts, and is no part of the key."""

    fingerprint = "counter"

    def __init__(self) -> None:
        self.times = 0


def write_queries(
    counter: Counter, text: str, *, config: Config, seed: int, on_progress: OnProgress
) -> StageResult[Query]:
    counter.times += 1
    query = Query(query_id=f"q{seed}", prompt=f"{text} {config.size}", client_name="a")
    return StageResult(values=(query,), counts={"num_kept": 1})


def fill(
    counter: Counter, *, config: Config, output_folder: Path, seed: int, on_progress: OnProgress
) -> None:
    counter.times += 1
    (output_folder / "deep").mkdir(exist_ok=True)
    (output_folder / "deep" / "weights").write_text(f"{config.size} {seed}", encoding="utf-8")


def run(
    folder: Path, shared: Path, counter: Counter, *, text: str = "t", size: int = 1, seed: int = 0
) -> tuple[tuple[Query, ...], str]:
    settings = {"text": text, "size": size, "seed": seed}
    store = RunStore(folder, settings=settings, seed=seed, shared=SharedStages(shared))
    with store:
        config = Config(size)
        values = store.drawn("07_q", Query, partial(write_queries, counter, text, config=config))
        target = store.subfolder("11_t", partial(fill, counter, config=config))
        return values, (target / "deep" / "weights").read_text(encoding="utf-8")


def test_a_second_run_takes_what_the_first_one_did(tmp_path: Path) -> None:
    first, second = Counter(), Counter()

    one = run(tmp_path / "a", tmp_path / "shared", first)
    two = run(tmp_path / "b", tmp_path / "shared", second)

    assert one == two
    assert (first.times, second.times) == (2, 0)
    manifests = [json.loads((tmp_path / x / "manifest.json").read_text()) for x in "ab"]
    assert manifests[0]["stages"] == manifests[1]["stages"]
    assert not manifests[0]["taken"]
    assert set(manifests[1]["taken"]) == {"07_q", "11_t"}


@pytest.mark.parametrize("change", [{"text": "other"}, {"size": 2}, {"seed": 1}])
def test_whatever_a_stage_reads_parts_the_runs(tmp_path: Path, change: dict[str, object]) -> None:
    second = Counter()
    run(tmp_path / "a", tmp_path / "shared", Counter())

    run(tmp_path / "b", tmp_path / "shared", second, **change)  # type: ignore[arg-type]

    assert second.times == (1 if "text" in change else 2)  # the folder stage reads no text


def test_a_taken_stage_stays_with_the_run_when_the_shared_folder_goes(tmp_path: Path) -> None:
    run(tmp_path / "a", tmp_path / "shared", Counter())
    run(tmp_path / "b", tmp_path / "shared", Counter())
    for file in (tmp_path / "shared").rglob("*"):
        if file.is_file():
            file.unlink()
    again = Counter()

    run(tmp_path / "b", tmp_path / "elsewhere", again)

    assert again.times == 0


@pytest.mark.parametrize("damage", ["truncated", "no record", "file gone"])
def test_a_damaged_entry_is_done_again(tmp_path: Path, damage: str) -> None:
    run(tmp_path / "a", tmp_path / "shared", Counter())
    for entry in (item for item in (tmp_path / "shared").iterdir() if item.is_dir()):
        (file,) = (item for item in (entry / "files").rglob("*") if item.is_file())
        match damage:
            case "truncated":
                file.unlink()
                file.write_text("{", encoding="utf-8")
            case "no record":  # as a kill leaves it between the files and the record
                (entry / "record.json").unlink()
            case "file gone":
                file.unlink()
    second, third = Counter(), Counter()

    values = run(tmp_path / "b", tmp_path / "shared", second)
    run(tmp_path / "c", tmp_path / "shared", third)

    assert values == run(tmp_path / "a", tmp_path / "none", Counter())
    assert (second.times, third.times) == (2, 0)


def test_what_watches_a_stage_is_no_part_of_its_key() -> None:
    plain = partial(write_queries, Counter(), "t", config=Config(), seed=1)

    watched = partial(plain, on_progress=lambda done, total: None)

    assert stage_key("s", watched) == stage_key("s", plain)
    assert stage_key("s", watched) != stage_key("other", plain)


def test_a_path_is_known_by_what_lies_there(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(text, encoding="utf-8")

    a, b, c = (fingerprint(tmp_path / name) for name in "abc")

    assert a == b
    assert a != c


def test_what_has_no_fingerprint_is_named_and_its_stage_is_done_by_each(tmp_path: Path) -> None:
    with pytest.raises(NoFingerprintError, match="object"):
        fingerprint({"a": [object()]})
    with pytest.raises(NoFingerprintError, match="function"):
        fingerprint(lambda: None)
    times = []

    for name in "ab":
        store = RunStore(tmp_path / name, settings={}, seed=0, shared=SharedStages(tmp_path / "s"))
        with store:
            store.values("07_q", Query, lambda: times.append(1) or StageResult(values=()))  # type: ignore[func-returns-value]

    assert len(times) == 2


_WORKER = """
import sys, time
from pathlib import Path
from functools import partial
from server_side.run_store import RunStore
from server_side.samples import Query, StageResult
from server_side.shared_stages import SharedStages

def slow(place):
    marks = Path(place)
    (marks / f"begun-{len(list(marks.iterdir()))}").touch()
    while not (marks.parent / "go").exists():
        time.sleep(0.02)
    return StageResult(values=(Query(query_id="q", prompt="p", client_name="a"),))

folder, shared, marks = map(Path, sys.argv[1:])
store = RunStore(folder, settings={}, seed=0, shared=SharedStages(shared))
with store:
    store.values("07_q", Query, partial(slow, str(marks)))
"""


def start(tmp_path: Path, name: str) -> subprocess.Popen[bytes]:
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(_WORKER), encoding="utf-8")
    (tmp_path / "marks").mkdir(exist_ok=True)
    folders = [str(tmp_path / folder) for folder in (name, "s", "marks")]
    return subprocess.Popen(
        [sys.executable, str(script), *folders], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def wait_for(tmp_path: Path, number: int) -> None:
    give_up = time.monotonic() + 60
    while len(list((tmp_path / "marks").iterdir())) < number:
        assert time.monotonic() < give_up, "no process began the stage"
        time.sleep(0.02)


def wait_until_blocked(process: subprocess.Popen[bytes]) -> None:
    """Wait until the kernel lists a process among those that wait for a lock."""
    give_up = time.monotonic() + 60
    locks = Path("/proc/locks")
    while not re.search(rf"-> FLOCK .* {process.pid} ", locks.read_text(encoding="utf-8")):
        assert time.monotonic() < give_up, "the second process never waited"
        time.sleep(0.02)


def test_a_second_process_waits_and_takes_what_the_first_one_did(tmp_path: Path) -> None:
    first = start(tmp_path, "a")
    wait_for(tmp_path, 1)
    second = start(tmp_path, "b")
    try:
        wait_until_blocked(second)

        (tmp_path / "go").touch()

        assert (first.wait(60), second.wait(60)) == (0, 0)
        assert len(list((tmp_path / "marks").iterdir())) == 1
        one, two = ((tmp_path / name / "07_q.jsonl").read_text() for name in "ab")
        assert one == two
    finally:
        first.kill()
        second.kill()


def test_a_killed_process_frees_the_stage_for_the_one_that_waits(tmp_path: Path) -> None:
    first = start(tmp_path, "a")
    wait_for(tmp_path, 1)
    second = start(tmp_path, "b")
    try:
        wait_until_blocked(second)

        first.send_signal(signal.SIGKILL)
        first.wait(60)

        wait_for(tmp_path, 2)  # the second one does the stage itself
        (tmp_path / "go").touch()
        assert second.wait(60) == 0
        assert (tmp_path / "b" / "07_q.jsonl").is_file()
        assert not (tmp_path / "a" / "07_q.jsonl").exists()
    finally:
        first.kill()
        second.kill()


def test_a_library_that_is_not_there_has_no_version() -> None:
    found = library_versions(["numpy", "no-such-library"])

    assert found["numpy"]
    assert found["no-such-library"] is None
