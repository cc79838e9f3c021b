"""The simulated world: who owns which records, and what the test may not share with training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.config import Unit
from lm.errors import ModelFolderError, TableError
from lm.tables import normalise_prompt
from protocol.errors import ConfigurationError, RecordsError, StageError
from server_side import public_texts
from server_side.config import EvaluationConfig, JudgeConfig, ServerConfig, SynthesisConfig
from server_side.public_texts import read_test_rows
from simulations.clinic import compose_messages
from simulations.config import TINY_MODEL, SimulateConfig, SplitConfig, SplitKind
from simulations.prepare import delta_warnings, prepare_world
from tests.support.laid_out import rows_of, simulation, with_records, write_rows


def test_the_shipped_records_are_split_and_share_no_prompt_with_the_test(tmp_path: Path) -> None:
    world = prepare_world(simulation(), tmp_path)

    first, second = rows_of(world)
    test_file = (world.server_folder / "evaluation.jsonl").read_text(encoding="utf-8")
    prompts = [
        {normalise_prompt(row["prompt"]) for row in rows}
        for rows in (first, second, [json.loads(line) for line in test_file.splitlines()])
    ]
    assert (len(first), len(second)) == (30, 30)
    assert not prompts[0] & prompts[1]
    assert not (prompts[0] | prompts[1]) & prompts[2]
    assert world.num_evaluation == 10


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.1, 20), (0.35, 70), (0.4, 80), (0.9, 180), (0.96, 192)]
)
def test_the_test_is_the_share_that_was_asked_for(
    fraction: float, expected: int, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Question {n}", "response": f"Answer {n}"} for n in range(200)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    start = with_records(simulation(evaluation_fraction=fraction), path=path)

    world = prepare_world(start, tmp_path / "run")

    assert world.num_evaluation == expected
    assert sum(map(len, rows_of(world))) == 200 - expected


@pytest.mark.parametrize(
    ("fraction", "num_rows", "said"),
    [
        (0.001, 200, "evaluation_fraction=0.001 of the records for the test: Expected at least"),
        (0.9999, 200, "evaluation_fraction=0.9999"),
        (0.1, 10, "found 1 that evaluation_fraction=0.1 keeps"),
    ],
)
def test_a_share_that_leaves_no_test_is_refused_by_its_name(
    fraction: float, num_rows: int, said: str, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Question {n}", "response": f"Answer {n}"} for n in range(num_rows)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    start = with_records(simulation(evaluation_fraction=fraction), path=path)

    with pytest.raises(TableError, match=said):
        prepare_world(start, tmp_path / "run")


def test_another_seed_gives_other_records(tmp_path: Path) -> None:
    first = rows_of(prepare_world(simulation(), tmp_path / "a"))
    again = rows_of(prepare_world(simulation(), tmp_path / "b"))
    other = rows_of(prepare_world(simulation(seed=2), tmp_path / "c"))

    assert first == again
    assert first != other


def test_copies_of_a_prompt_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Question {number // 3}", "response": f"Answer {number}"}
        for number in range(90)
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)

    world = prepare_world(with_records(simulation(), path=path), tmp_path / "run")

    first, second = ({row["prompt"] for row in rows} for rows in rows_of(world))
    assert not first & second


def test_records_of_one_person_stay_on_one_side_and_count_as_one(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Question {number}", "response": "Answer", "who": f"person {number // 4}"}
        for number in range(160)
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    start = with_records(
        simulation(), path=path, group_column="who", privacy_unit=Unit.GROUP, max_records_per_unit=4
    )

    world = prepare_world(start, tmp_path / "run")

    first, second = ({row["group"] for row in rows} for rows in rows_of(world))
    assert not first & second
    assert world.clients[0].load_config().records.declared_size == len(first)


@pytest.mark.parametrize(("is_selected_from", "counted"), [(False, (3, 2)), (True, (0, 5))])
def test_test_rows_whose_prompt_stands_in_training_are_dropped_where_that_is_paid_for_by_nobody(
    tmp_path: Path, is_selected_from: bool, counted: tuple[int, int]
) -> None:
    """A private selection's score may read no record, nor be taken on what they decide."""
    rows = [{"prompt": f"Question {n}", "response": "Answer"} for n in range(40)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    others = [{"prompt": f"Something else {n}", "response": "Answer"} for n in range(2)]
    test_path = write_rows(tmp_path / "test.jsonl", [*rows[:3], *others])
    start = with_records(simulation(), path=path)
    evaluation = EvaluationConfig(path=test_path)

    world = prepare_world(
        replace(start, server_side=replace(start.server_side, evaluation=evaluation)),
        tmp_path / "run",
        is_selected_from=is_selected_from,
    )

    assert (world.num_overlapping, world.num_evaluation) == counted


def test_a_single_test_row_that_is_not_trained_on_is_too_few(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}", "response": "Answer"} for n in range(40)]
    test_rows = [*rows[:3], {"prompt": "Something else", "response": "Answer"}]
    start = with_records(simulation(), path=write_rows(tmp_path / "rows.jsonl", rows))
    evaluation = EvaluationConfig(path=write_rows(tmp_path / "test.jsonl", test_rows))

    with pytest.raises(TableError, match="found 1 whose prompts stand in no training"):
        prepare_world(
            replace(start, server_side=replace(start.server_side, evaluation=evaluation)),
            tmp_path / "run",
        )

    assert not (tmp_path / "run" / "clients").exists()


def test_without_a_test_file_some_records_are_kept_for_the_test(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}", "response": "Answer"} for n in range(100)]
    path = write_rows(tmp_path / "rows.jsonl", rows)

    world = prepare_world(with_records(simulation(), path=path), tmp_path / "run")

    assert world.num_evaluation == 10
    assert sum(map(len, rows_of(world))) == 90


def test_each_party_knows_its_own_only(tmp_path: Path) -> None:
    world = prepare_world(simulation(), tmp_path)

    first, second = (client.load_config() for client in world.clients)
    assert (first.name, second.name) == ("client-1", "client-2")
    assert first.records.path == "records.jsonl"
    assert len(set(world.server.admission.allowed_public_keys or ())) == 2


def test_a_world_is_laid_out_once(tmp_path: Path) -> None:
    prepare_world(simulation(), tmp_path)
    records = tmp_path / "clients" / "client-1" / "records.jsonl"
    before = records.stat().st_mtime_ns

    world = prepare_world(simulation(), tmp_path)

    assert records.stat().st_mtime_ns == before
    assert world == prepare_world(simulation(), tmp_path)


def test_clients_are_never_taken_for_ones_of_other_settings(tmp_path: Path) -> None:
    start = simulation()
    prepare_world(start, tmp_path)
    budget = replace(start.client_side.budget, target_epsilon=1.0)
    other = replace(start, client_side=replace(start.client_side, budget=budget))

    with pytest.raises(
        ConfigurationError, match=r"values of client_side\.budget\.target_epsilon\."
    ):
        prepare_world(other, tmp_path)

    assert prepare_world(start, tmp_path).clients[0].load_config().budget != budget


def test_a_world_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    prepare_world(simulation(), tmp_path)
    file = tmp_path / "world.json"
    file.write_bytes(file.read_bytes()[:-9])

    with pytest.raises(StageError, match=r"world\.json as it was written"):
        prepare_world(simulation(), tmp_path)


def test_a_world_cut_off_is_laid_out_again(tmp_path: Path) -> None:
    whole = prepare_world(simulation(), tmp_path / "a")
    prepare_world(simulation(), tmp_path / "b")
    (tmp_path / "b" / "world.json").unlink()
    (tmp_path / "b" / "clients" / "client-2" / "records.jsonl").write_text("{", encoding="utf-8")

    again = prepare_world(simulation(), tmp_path / "b")

    assert rows_of(again) == rows_of(whole)


def test_too_few_records_for_a_batch_is_said_before_any_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected_batch_size=4"):
        prepare_world(simulation(num_records=6), tmp_path)

    assert not (tmp_path / "clients").exists()


def test_a_wrong_declared_size_is_said_before_any_folder_is_made(tmp_path: Path) -> None:
    start = with_records(simulation(declare_sizes=False), declared_size=500)

    with pytest.raises(RecordsError, match="declared_size=500"):
        prepare_world(start, tmp_path)

    assert not (tmp_path / "clients").exists()


def test_a_delta_that_promises_little_is_warned_about(tmp_path: Path) -> None:
    start = simulation()
    budget = replace(start.client_side.budget, target_delta=0.1)
    server = replace(
        start.server_side, admission=replace(start.server_side.admission, max_delta=0.2)
    )
    world = prepare_world(
        replace(start, client_side=replace(start.client_side, budget=budget), server_side=server),
        tmp_path,
    )

    assert len(delta_warnings(world)) == 2


def test_the_shipped_records_are_split_by_their_complaints(tmp_path: Path) -> None:
    """The clients' topics differ; their files tell nothing of topics."""
    start = simulation(split=SplitConfig(kind=SplitKind.BY_TOPIC, concentration=0.01))
    topics = {m.prompt: m.topic for m in compose_messages(60, seed=start.seed, split="train")}

    first, second = rows_of(prepare_world(start, tmp_path))

    owners = [{topics[row["prompt"]] for row in rows} for rows in (first, second)]
    assert len(owners[0] & owners[1]) <= 4
    assert set(first[0]) == {"prompt", "response"}
    assert min(len(first), len(second)) >= 4


def test_own_records_are_split_by_a_column(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Question {n}", "response": "Answer", "ward": f"ward {n % 2}"}
        for n in range(60)
    ]
    start = with_records(simulation(), path=write_rows(tmp_path / "rows.jsonl", rows))
    split = SplitConfig(kind=SplitKind.BY_TOPIC, concentration=0.001, topic_column="ward")

    first, _ = rows_of(prepare_world(replace(start, split=split), tmp_path / "run"))

    wards = [int(row["prompt"].split()[1]) % 2 for row in first]
    assert max(wards.count(0), wards.count(1)) >= 0.8 * len(wards)


def test_a_missing_topic_column_is_told_before_a_model_is_looked_for(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}", "response": "Answer"} for n in range(60)]
    start = with_records(simulation(), path=write_rows(tmp_path / "rows.jsonl", rows))
    start = replace(
        start,
        split=SplitConfig(kind=SplitKind.BY_TOPIC, topic_column="ward"),
        client_side=replace(start.client_side, base_model=str(tmp_path / "absent")),
        server_side=replace(start.server_side, base_model=str(tmp_path / "absent")),
    )

    with pytest.raises(TableError, match="'ward'"):
        prepare_world(start, tmp_path / "run")


def test_a_missing_package_is_told_before_records_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is tuned an hour into a run."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    start = with_records(simulation(), path=str(tmp_path / "absent.jsonl"))
    finetuning = replace(start.server_side.finetuning, method="qlora")

    with pytest.raises(ConfigurationError, match="package bitsandbytes"):
        prepare_world(
            replace(start, server_side=replace(start.server_side, finetuning=finetuning)),
            tmp_path / "run",
        )


def test_a_missing_judge_is_told_before_any_folder_is_made(tmp_path: Path) -> None:
    judge = JudgeConfig(kind="local", model="./no-such-judge")
    start = simulation()
    evaluation = replace(start.server_side.evaluation, judge=judge)

    with pytest.raises(ModelFolderError, match="no-such-judge"):
        prepare_world(
            replace(start, server_side=replace(start.server_side, evaluation=evaluation)),
            tmp_path / "run",
        )

    assert not (tmp_path / "run" / "clients").exists()


def test_tests_of_code_travel_to_the_server_with_their_rows(tmp_path: Path) -> None:
    tests = ["assert f(1) == 2", "assert f(2) == 3"]
    row = {"solution": "def f(x): return x + 1", "checks": tests}
    rows = [{"task": task, **row} for task in ("Write f.", "Write f again.")]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    world = prepare_world(simulation(server_side=_server_with(path, "checks")), tmp_path / "run")

    found = read_test_rows(world.server.evaluation)
    assert [row.tests for row in found] == [tuple(tests)] * 2
    assert world.server.evaluation.tests_column == "tests"


@pytest.mark.parametrize("checks", [["assert f( == 1"], ["# nothing"], "assert f(1) == 2", []])
def test_tests_that_cannot_be_run_are_said_before_any_folder_is_made(
    tmp_path: Path, checks: object
) -> None:
    row = {"task": "Write f.", "solution": "def f(x): return x", "checks": checks}
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")

    with pytest.raises(TableError, match=r"row 1"):
        prepare_world(simulation(server_side=_server_with(path, "checks")), tmp_path / "run")
    assert not (tmp_path / "run" / "clients").exists()


def test_a_tests_column_without_a_file_of_test_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"server_side\.evaluation\.path"):
        prepare_world(simulation(server_side=_server_with(None, "checks")), tmp_path)


def test_a_machine_that_cannot_confine_code_is_refused_before_any_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ConfigurationError("Expected a Linux that can confine untrusted programs.")

    monkeypatch.setattr(public_texts, "find_confinement", refuse)
    row = {"task": "Write f.", "solution": "x", "checks": ["assert f(1) == 2"]}
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")

    with pytest.raises(ConfigurationError, match="can confine untrusted programs"):
        prepare_world(simulation(server_side=_server_with(path, "checks")), tmp_path / "run")
    assert not (tmp_path / "run" / "clients").exists()


def _server_with(path: Path | None, tests_column: str) -> ServerConfig:
    return ServerConfig(
        base_model=TINY_MODEL,
        target_model=TINY_MODEL,
        evaluation=EvaluationConfig(
            path=path and str(path),
            prompt_column="task",
            response_column="solution",
            tests_column=tests_column,
        ),
    )


def test_weights_that_pass_over_a_client_are_refused_before_any_folder_is_made(
    tmp_path: Path,
) -> None:
    """Its generator would write nothing, and its records pay in full."""

    def weighted(**weights: float) -> SimulateConfig:
        named = {name.replace("_", "-"): weight for name, weight in weights.items()}
        synthesis = SynthesisConfig(client_weights=named)
        return simulation(server_side=replace(simulation().server_side, synthesis=synthesis))

    with pytest.raises(ConfigurationError, match=r"client-1 and none for client-2.* weight 0 if"):
        prepare_world(weighted(client_1=1.0), tmp_path / "run")

    assert not (tmp_path / "run").exists()
    prepare_world(weighted(client_1=1.0, client_2=0.0), tmp_path / "run")
