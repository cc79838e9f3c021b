"""An exchange is handed to the SuperLink once, however its commands fare."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from server_side.exchange import submitting
from server_side.exchange.collecting import Waiting
from server_side.exchange.outcome import RunLostError
from server_side.exchange.submitting import Link, submit


class FakeLink:
    """Answers Flower's commands; takes every run, and says so in time or not."""

    def __init__(self, *, num_late: int) -> None:
        self.num_late = num_late
        self.under_way: dict[str, str] = {}

    def __call__(self, link: Link, *arguments: str) -> subprocess.CompletedProcess[str]:
        match arguments[0]:
            case "run":
                number = str(len(self.under_way) + 1)
                self.under_way[number] = "running"
                if len(self.under_way) <= self.num_late:
                    raise subprocess.TimeoutExpired("flwr", 60)
                answer = {"success": True, "run-id": number}
            case "ls":
                runs = [{"run-id": run, "status": s} for run, s in self.under_way.items()]
                answer = {"success": True, "runs": runs}
            case "stop":
                self.under_way[arguments[1]] = "finished:stopped"
                answer = {"success": True}
        return subprocess.CompletedProcess(arguments, 0, stdout=json.dumps(answer), stderr="")


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    monkeypatch.setattr(submitting.time, "sleep", lambda seconds: None)
    return Link(run_folder=tmp_path, host="127.0.0.1", port=1, flower_home=tmp_path)


@pytest.mark.parametrize("num_late", [0, 1, 2])
def test_a_run_that_was_taken_too_late_is_stopped_before_it_is_handed_over_again(
    link: Link, monkeypatch: pytest.MonkeyPatch, num_late: int
) -> None:
    flower = FakeLink(num_late=num_late)
    monkeypatch.setattr(submitting, "_call", flower)

    taken = submit(link, run_id="run-1", waiting=Waiting(num_clients=1))

    assert [run for run, status in flower.under_way.items() if status == "running"] == [taken]
    assert len(flower.under_way) == num_late + 1


def test_a_link_that_never_answers_is_told_of_and_left_without_a_run(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    flower = FakeLink(num_late=99)
    monkeypatch.setattr(submitting, "_call", flower)

    with pytest.raises(RunLostError, match="to take the run, found: TimeoutExpired"):
        submit(link, run_id="run-1", waiting=Waiting(num_clients=1))

    assert "running" not in flower.under_way.values()
