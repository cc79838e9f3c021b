"""What is refused, and what is said, of runs that differ in more than their arm."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lm.settings import save_settings
from protocol.errors import StageError
from server_side.measuring.comparing import ComparingConfig, Comparison, compare_runs
from simulations.compare_checks import (
    origin_notes,
    read_origin,
    require_one_test,
    untuned_notes,
)
from simulations.config import SimulateConfig, TunedOn
from tests.support.arms import run_of

VALUES = [0.1, 0.2, 0.3]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_run(
        arm: str,
        *,
        seed: int = 1,
        config: SimulateConfig | None = None,
        releases: str | None = "one draw",
        epsilon: float | None = 8.0,
        code: str = "code",
        resumed_by: str | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        target: str = "target",
        test_records: str | None = None,
    ) -> Path:
        folder = tmp_path / f"{arm}-{seed}"
        folder.mkdir()
        tuned_on = TunedOn.SYNTHETIC if releases else TunedOn.PRIVATE_RECORDS
        config = replace(config or SimulateConfig(), arm=arm, seed=seed, tuned_on=tuned_on)
        save_settings(config, folder / "simulate.yaml")
        digests = {
            "target_model": target,
            "test_records": test_records or f"records of seed {seed}",
            "releases": {"north/generator": f"{releases} {seed}"} if releases else {},
        }
        facts = {
            "sources_digest": code,
            "device": device,
            **({} if dtype is None else {"dtype": dtype}),
            "resumed": [{"sources_digest": resumed_by, "device": device}] if resumed_by else [],
            "digests": digests,
            "ledgers": {"north": {"epsilon": epsilon}},
        }
        (folder / "provenance.json").write_text(json.dumps(facts), encoding="utf-8")
        return folder

    return write_run


def compared(*num_samples_seen: int) -> Comparison:
    runs = [
        replace(run_of(name, VALUES), num_samples_seen=count)
        for name, count in zip(("dp_generate", "rewardds"), num_samples_seen, strict=True)
    ]
    return compare_runs(runs, config=ComparingConfig(num_resamples=20, num_permutations=9))


def notes_on(*folders: Path) -> str:
    origins = [read_origin(folder) for folder in folders]
    require_one_test(origins)
    return "\n".join(origin_notes(origins, compared(128, 128)))


def test_of_arms_that_differ_in_nothing_else_nothing_is_said(write: Write) -> None:
    """Seeds have releases and test records of their own, and a ceiling has no price."""
    folders = [
        *(write(arm, seed=seed) for arm in ("rewardds", "dp_generate") for seed in (1, 2)),
        write("private_no_dp", releases=None, epsilon=None),
    ]

    assert notes_on(*folders) == ""


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"target": "another"}, "target model"),
        ({"test_records": "others"}, "test records"),
    ],
)
def test_another_target_or_test_is_refused(
    write: Write, change: dict[str, str], named: str
) -> None:
    origins = [read_origin(write("rewardds")), read_origin(write("dp_generate", **change))]

    with pytest.raises(StageError, match=f"another {named} in .*dp_generate-1"):
        require_one_test(origins)


def test_another_test_is_refused_also_where_the_first_run_says_nothing_of_its_own(
    write: Write,
) -> None:
    silent = write("rewardds")
    (silent / "provenance.json").unlink()
    runs = [silent, write("dp_generate"), write("with_consensus", test_records="others")]

    with pytest.raises(StageError, match=r"another test records in .*with_consensus-1"):
        require_one_test([read_origin(run) for run in runs])


def test_a_test_that_is_taken_in_another_way_is_refused(write: Write) -> None:
    plain = SimulateConfig()
    evaluation = replace(plain.server_side.evaluation, temperature=0.05)
    greedy = replace(plain, server_side=replace(plain.server_side, evaluation=evaluation))
    origins = [read_origin(write("rewardds")), read_origin(write("dp_generate", config=greedy))]

    with pytest.raises(StageError, match=r"another evaluation\.temperature"):
        require_one_test(origins)


@pytest.mark.parametrize("part", ["evaluation", "records"])
def test_a_test_under_another_instruction_is_refused(write: Write, part: str) -> None:
    """Where the test names none, it is taken under that of the clients."""
    plain = SimulateConfig()
    server, client, said = plain.server_side, plain.client_side, "Answer in French."
    changes: dict[str, Any] = {
        "evaluation": {
            "server_side": replace(server, evaluation=replace(server.evaluation, instruction=said))
        },
        "records": {
            "client_side": replace(client, records=replace(client.records, instruction=said))
        },
    }
    other = replace(plain, **changes[part])
    origins = [read_origin(write("rewardds")), read_origin(write("dp_generate", config=other))]

    with pytest.raises(StageError, match=r"another evaluation\.instruction"):
        require_one_test(origins)


def test_another_interval_or_another_place_of_the_rows_is_the_same_test(write: Write) -> None:
    plain = SimulateConfig()
    evaluation = replace(plain.server_side.evaluation, num_resamples=50, path="elsewhere.jsonl")
    moved = replace(plain, server_side=replace(plain.server_side, evaluation=evaluation))

    require_one_test([read_origin(write("a")), read_origin(write("b", config=moved))])


def test_releases_of_one_seed_that_were_trained_anew_are_said(write: Write) -> None:
    said = notes_on(write("rewardds"), write("dp_generate", releases="another draw"))

    assert "Trained anew" in said
    assert "rewardds" in said


def test_an_arm_that_asks_the_clients_for_something_else_has_releases_of_its_own(
    write: Write,
) -> None:
    plain = SimulateConfig()
    budget = replace(plain.client_side.budget, reward_noise_ratio=20.0)
    shifted = replace(plain, client_side=replace(plain.client_side, budget=budget))

    said = notes_on(
        write("rewardds"),
        write("ablation_generator_budget", config=shifted, releases="another draw"),
    )

    assert said == ""


@pytest.mark.parametrize(("epsilon", "shown"), [(2.0, "2"), (None, "inf")])
def test_unlike_budgets_are_said(write: Write, epsilon: float | None, shown: str) -> None:
    said = notes_on(write("rewardds"), write("dp_generate", epsilon=epsilon))

    assert "Different budgets" in said
    assert f"dp_generate at ε = {shown}" in said
    assert "rewardds at ε = 8" in said


def test_unlike_code_is_said(write: Write) -> None:
    assert "Different code" in notes_on(write("rewardds"), write("dp_generate", code="older"))


def test_code_that_only_finished_a_run_is_said(write: Write) -> None:
    """A sweep that was resumed after an update is not the arm's doing."""
    said = notes_on(write("rewardds", resumed_by="newer"), write("dp_generate"))

    assert "Different code" in said
    assert notes_on(write("similarity_filter", resumed_by="code")) == ""


def test_unlike_devices_are_said(write: Write) -> None:
    said = notes_on(write("rewardds"), write("dp_generate", device="cuda"))

    assert "Different devices (cpu, cuda)" in said


def test_machines_that_compute_in_unlike_dtypes_are_said(write: Write) -> None:
    first = write("rewardds", dtype="float32")
    said = notes_on(first, write("dp_generate", dtype="bfloat16"))

    assert "some computed fastest in bfloat16 and some in float32" in said
    # A run of an earlier version does not say.
    assert notes_on(first, write("similarity_filter")) == ""


def test_untuned_targets_that_answered_differently_are_said() -> None:
    alike = [run_of("rewardds", VALUES), run_of("dp_generate", VALUES)]

    assert untuned_notes([*alike, run_of("rewardds", VALUES, seed=2, untuned=0.2)]) == []
    (said,) = untuned_notes([*alike, run_of("similarity_filter", VALUES, untuned=0.2)])
    assert "seed 1" in said


def test_unlike_amounts_of_tuning_are_said(write: Write) -> None:
    origins = [read_origin(write("rewardds")), read_origin(write("dp_generate"))]

    (said,) = origin_notes(origins, compared(384, 128))

    assert "rewardds saw 128 samples, dp_generate 384" in said
    assert "finetuning.num_steps" in said
