"""Three machines for all tests here, and the tiny base model of both parties."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machines import World, can_make_namespaces, machines
from tests.support.tiny_models import build_tiny_model


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with machines() as made:
        yield made


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def cables(world: World) -> World:
    if not world.is_isolated:
        pytest.skip("needs network namespaces: there is no cable to pull on loopback")
    return world


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say so where the machines were not really apart."""
    ended = [
        report
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.getreports(outcome)
    ]
    if any("tests/nodes/" in report.nodeid for report in ended) and not can_make_namespaces():
        terminalreporter.section("no network namespaces here")
        terminalreporter.write_line(
            "Root and iproute2 make them. The nodes ran on loopback, all on one machine, and the "
            "tests that pull a cable were skipped."
        )
