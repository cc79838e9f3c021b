"""Clients of a simulation whose records are of another domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from protocol.errors import ConfigurationError
from simulations.config import DomainConfig, SimulateConfig
from simulations.prepare import prepare_world
from tests.support.laid_out import rows_of, simulation, write_rows


def test_a_client_of_another_domain_has_its_own_file_and_instruction(tmp_path: Path) -> None:
    """It gets all of its file, and the others share what they would have shared without it."""
    rows = [{"question": f"Bond {number}?", "answer": f"Sell {number}."} for number in range(20)]
    prompts = ["Bond 3?", "New?", "Also new?"]
    test_rows = [{"prompt": prompt, "response": "Sell."} for prompt in prompts]
    domain = DomainConfig(
        path=write_rows(tmp_path / "bonds.jsonl", rows),
        prompt_column="question",
        response_column="answer",
        instruction="Answer the investor.",
    )
    start = with_test_file(
        simulation(num_clients=3), write_rows(tmp_path / "test.jsonl", test_rows)
    )
    start = replace(start, domains={"client-2": domain})

    world = prepare_world(start, tmp_path / "run")

    first, second, third = rows_of(world)
    assert second == [{"prompt": row["question"], "response": row["answer"]} for row in rows]
    assert (len(first), len(third)) == (30, 30)
    assert world.num_records == (30, 20, 30)
    instructions = [client.load_config().records.instruction for client in world.clients]
    assert instructions == ["Answer the message.", "Answer the investor.", "Answer the message."]
    # Its prompts stand in training like all others.
    assert (world.num_evaluation, world.num_overlapping) == (2, 1)


def test_the_file_of_a_domain_cannot_be_called_public(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bonds.jsonl", [{"prompt": "Bond?", "response": "Sell."}] * 20)
    start = with_instruction(simulation())
    start = replace(
        start,
        domains={"client-2": DomainConfig(path=path, instruction="Answer the investor.")},
        server_side=replace(
            start.server_side,
            synthesis=replace(start.server_side.synthesis, public_prompts_path=path),
        ),
    )

    with pytest.raises(ConfigurationError, match=r"public_prompts_path to name public text"):
        prepare_world(start, tmp_path / "run")


@pytest.mark.parametrize(
    ("domains", "named"),
    [
        ({"client-3": {}}, "client-1 to client-2, got client-3"),
        ({"client-1": {}, "client-2": {}}, "client_side.records is nobody's"),
        ({"client-2": {"group_column": "who"}}, r"domains\.client-2\.group_column to be nothing"),
        ({"client-2": {"path": ""}}, "to have path"),
        ({"client-2": {"instruction": " "}}, "to have instruction"),
        ({"client-2": {"instruction": "Answer\u00a0it."}}, "printable characters"),
    ],
)
def test_domains_that_do_not_fit_are_refused(
    domains: dict[str, dict[str, str]], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        with_domains(with_instruction(simulation()), domains)


def test_where_instructions_differ_that_of_the_test_must_be_named() -> None:
    with pytest.raises(ConfigurationError, match=r"server_side\.evaluation\.instruction"):
        with_domains(simulation(), {"client-2": {}})


def with_domains(start: SimulateConfig, domains: dict[str, dict[str, str]]) -> SimulateConfig:
    plain = {"path": "bonds.jsonl", "instruction": "Answer the investor."}
    return replace(
        start, domains={name: DomainConfig(**{**plain, **own}) for name, own in domains.items()}
    )


def with_instruction(start: SimulateConfig) -> SimulateConfig:
    evaluation = replace(start.server_side.evaluation, instruction="Answer the message.")
    return replace(start, server_side=replace(start.server_side, evaluation=evaluation))


def with_test_file(start: SimulateConfig, path: str) -> SimulateConfig:
    start = with_instruction(start)
    evaluation = replace(start.server_side.evaluation, path=path)
    return replace(start, server_side=replace(start.server_side, evaluation=evaluation))
