from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lm.errors import DiskError
from protocol.errors import ConfigurationError, StageError
from server_side import run_store
from server_side.json_values import from_json, to_json
from server_side.run_store import RunStore
from server_side.samples import (
    Candidate,
    CandidateOrigin,
    OnProgress,
    Query,
    ScoredCandidate,
    StageResult,
)
from server_side.seeds import derive_seed

QUERIES = (
    Query(query_id="q1", prompt='a line\u2028and "another"\n', client_name="clinic"),
    Query(query_id="q2", prompt="ünïcödé", client_name="clinic"),
)


def open_store(folder: Path, *, seed: int = 0, **settings: object) -> RunStore:
    return RunStore(folder, settings={"seed": seed, **settings}, seed=seed)


class Work:
    """A stage that counts how often it was done."""

    def __init__(self, values: tuple[Query, ...] = QUERIES) -> None:
        self.times = 0
        self._values = values

    def __call__(self) -> StageResult[Query]:
        self.times += 1
        return StageResult(values=self._values, counts={"num_kept": len(self._values)})


def manifest(folder: Path) -> dict[str, dict[str, dict[str, object]]]:
    content: dict[str, dict[str, dict[str, object]]] = json.loads(
        (folder / "manifest.json").read_text()
    )
    return content


def test_whole_stage_is_read_and_not_done_again(tmp_path: Path) -> None:
    work = Work()
    with open_store(tmp_path) as store:
        first = store.values("07_queries", Query, work)

    with open_store(tmp_path) as store:
        second = store.values("07_queries", Query, work)

    assert first == second == QUERIES
    assert work.times == 1


def test_manifest_tells_files_counts_seconds_and_memory(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.values("07_queries", Query, Work())
        record = store.stages["07_queries"]

    assert record.counts == {"num_kept": 2}
    assert record.seconds >= 0
    assert record.peak_rss_bytes > 1_000_000
    assert list(record.files) == ["07_queries.jsonl"]
    assert to_json(record) == manifest(tmp_path)["stages"]["07_queries"]


def test_figures_of_a_stage_are_kept_beside_its_counts(tmp_path: Path) -> None:
    def measure() -> StageResult[Query]:
        return StageResult(values=QUERIES, figures={"correlation": -0.25})

    with open_store(tmp_path) as store:
        store.values("07_queries", Query, measure)
    with open_store(tmp_path) as store:
        assert store.stages["07_queries"].figures == {"correlation": -0.25}


def test_file_without_its_line_in_the_manifest_is_not_whole(tmp_path: Path) -> None:
    """What a kill leaves between writing the file and writing the manifest."""
    work = Work()
    (tmp_path / "07_queries.jsonl").write_text('{"half": ')

    with open_store(tmp_path) as store:
        values = store.values("07_queries", Query, work)

    assert values == QUERIES
    assert work.times == 1


def test_changed_file_is_made_again_with_all_that_came_after(tmp_path: Path) -> None:
    first, second = Work(), Work()
    with open_store(tmp_path) as store:
        store.values("07_queries", Query, first)
        store.values("08_more", Query, second)
    (tmp_path / "07_queries.jsonl").write_text("")

    with open_store(tmp_path) as store:
        store.values("07_queries", Query, first)
        store.values("08_more", Query, second)

    assert (first.times, second.times) == (2, 2)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with open_store(tmp_path, config={"filtering": {"k": 8}}):
        pass

    with pytest.raises(ConfigurationError, match=r"config\.filtering\.k"):
        open_store(tmp_path, config={"filtering": {"k": 4}})


def test_a_manifest_that_lost_its_end_is_refused_and_kept(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.values("07_queries", Query, Work())
    cut = (tmp_path / "manifest.json").read_bytes()[:-9]
    (tmp_path / "manifest.json").write_bytes(cut)

    with pytest.raises(StageError, match=r"manifest\.json as it was written"):
        open_store(tmp_path).__enter__()

    assert (tmp_path / "manifest.json").read_bytes() == cut


def test_second_process_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path), pytest.raises(StageError, match="another process"):
        open_store(tmp_path)


def test_failed_stage_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> StageResult[Query]:
        raise StageError("Expected more.")

    with open_store(tmp_path) as store, pytest.raises(StageError):
        store.values("07_queries", Query, fail)

    assert not (tmp_path / "07_queries.jsonl").exists()
    assert manifest(tmp_path)["stages"] == {}


def test_full_disk_is_one_clear_error_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_store(tmp_path) as store:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match=r"07_queries\.jsonl.*No space left"):
            store.values("07_queries", Query, Work())
    monkeypatch.undo()

    assert {path.name for path in tmp_path.iterdir()} == {".lock", "manifest.json"}
    with open_store(tmp_path) as store:
        assert store.values("07_queries", Query, Work()) == QUERIES


def filler(times: list[int], *, is_killed: bool = False) -> Callable[..., None]:
    def fill(*, output_folder: Path, seed: int, on_progress: OnProgress) -> None:
        times.append(len(list(output_folder.iterdir())))
        (output_folder / "checkpoint").write_text("half")
        if is_killed:
            raise KeyboardInterrupt
        (output_folder / "adapter").mkdir(exist_ok=True)
        (output_folder / "adapter" / "weights").write_text("whole")

    return fill


def test_folder_stage_goes_on_from_what_a_killed_start_left(tmp_path: Path) -> None:
    files_found: list[int] = []
    with open_store(tmp_path) as store, pytest.raises(KeyboardInterrupt):
        store.subfolder("11_target_r1", filler(files_found, is_killed=True))
    assert not (tmp_path / "11_target_r1").exists()

    with open_store(tmp_path) as store:
        folder = store.subfolder("11_target_r1", filler(files_found))
        again = store.subfolder("11_target_r1", filler(files_found))

    assert files_found == [0, 1]
    assert folder == again == tmp_path / "11_target_r1"
    assert (folder / "adapter" / "weights").read_text() == "whole"
    assert not (tmp_path / "11_target_r1.part").exists()


def test_a_folder_stage_starts_afresh_where_an_earlier_stage_had_to_be_done_again(
    tmp_path: Path,
) -> None:
    files_found: list[int] = []
    with open_store(tmp_path) as store:
        store.values("07_queries", Query, Work())
        with pytest.raises(KeyboardInterrupt):
            store.subfolder("11_target_r1", filler(files_found, is_killed=True))
    (tmp_path / "07_queries.jsonl").write_text("damaged")

    with open_store(tmp_path) as store:
        store.values("07_queries", Query, Work())
        store.subfolder("11_target_r1", filler(files_found))

    assert files_found == [0, 0]


def test_a_folder_stage_that_is_killed_while_its_files_are_hashed_is_not_done_again_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a large model that takes a minute, and the training before it hours."""

    def killed(file: Path) -> str:
        raise KeyboardInterrupt

    files_found: list[int] = []
    monkeypatch.setattr(run_store, "file_digest", killed)
    with open_store(tmp_path) as store, pytest.raises(KeyboardInterrupt):
        store.subfolder("11_target_r1", filler(files_found))
    monkeypatch.undo()

    with open_store(tmp_path) as store:
        store.subfolder("11_target_r1", filler(files_found))
        record = store.stages["11_target_r1"]

    assert files_found == [0, 2]
    assert list(record.files) == ["11_target_r1/adapter/weights", "11_target_r1/checkpoint"]


def test_each_stage_draws_from_a_seed_of_its_own(tmp_path: Path) -> None:
    seeds: list[int] = []

    def draw(*, seed: int, on_progress: OnProgress) -> StageResult[Query]:
        seeds.append(seed)
        return StageResult(values=QUERIES)

    with open_store(tmp_path, seed=3) as store:
        store.drawn("08_candidates_r1", Query, draw)
        store.drawn("08_candidates_r2", Query, draw)

    assert seeds == [derive_seed(3, "08_candidates_r1"), derive_seed(3, "08_candidates_r2")]
    assert seeds[0] != seeds[1]


def test_watcher_is_told_of_each_stage(tmp_path: Path) -> None:
    events: list[object] = []

    class Watcher:
        def start(self, stage: str) -> None:
            events.append(("start", stage))

        def advance(self, done: int, total: int) -> None:
            events.append((done, total))

        def end(self, stage: str, *, seconds: float, was_whole: bool) -> None:
            events.append(("end", was_whole))

    def draw(*, seed: int, on_progress: OnProgress) -> StageResult[Query]:
        on_progress(1, 2)
        return StageResult(values=QUERIES)

    with RunStore(tmp_path, settings={}, seed=0, progress=Watcher()) as store:
        store.drawn("07_queries", Query, draw)
        store.drawn("07_queries", Query, draw)

    assert events == [
        ("start", "07_queries"),
        (1, 2),
        ("end", False),
        ("start", "07_queries"),
        ("end", True),
    ]


def test_values_survive_the_way_through_json() -> None:
    value = ScoredCandidate(
        candidate=Candidate(
            query_id="q1",
            candidate_id="q1-r1-c1",
            round_index=1,
            response="x",
            origin=CandidateOrigin.REWRITE,
        ),
        reward=0.1 + 0.2,
        rewards_by_client={"clinic": 1e-300},
        perplexity=7.0,
    )

    assert from_json(ScoredCandidate, json.loads(json.dumps(to_json(value)))) == value


@pytest.mark.parametrize(
    "bad",
    [{}, {"query_id": "q"}, {"query_id": 1, "prompt": "p", "client_name": "c"}, [], "q"],
)
def test_json_of_another_shape_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="Expected"):
        from_json(Query, bad)
