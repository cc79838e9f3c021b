"""Three machines for all tests here, and the tiny base model of both parties."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machines import World, machines
from tests.support.tiny_models import build_tiny_model


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with machines() as made:
        if not made.is_isolated:
            warnings.warn(
                "No network namespaces here (root and iproute2 make them): the same tests run on "
                "loopback, and those that pull a cable are skipped.",
                pytest.PytestWarning,
                stacklevel=1,
            )
        yield made


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def cables(world: World) -> World:
    if not world.is_isolated:
        pytest.skip("needs network namespaces: there is no cable to pull on loopback")
    return world
