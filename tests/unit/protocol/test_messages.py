from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import protocol
from protocol.errors import ConfigurationError
from protocol.ledger import ProxyKind
from protocol.messages import TrainingRequest

REQUEST = TrainingRequest(
    protocol_version=1, run_id="run-1", proxy=ProxyKind.GENERATOR, base_model_digest="ab" * 32
)


def test_same_request_has_the_same_digest() -> None:
    one = replace(REQUEST, target_epsilon=8)
    other = replace(REQUEST, target_epsilon=8.0)

    assert one.digest() == other.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "run-2"},
        {"proxy": ProxyKind.REWARD},
        {"base_model_digest": "ac" * 32},
        {"target_epsilon": 8.0},
        {"target_delta": 1e-5},
        {"steps": 10},
    ],
)
def test_another_request_has_another_digest(change: dict[str, object]) -> None:
    assert replace(REQUEST, **change).digest() != REQUEST.digest()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "../../etc/passwd"},
        {"run_id": ""},
        {"run_id": "a" * 65},
        {"base_model_digest": "/models/other"},
        {"target_epsilon": 0.0},
        {"target_epsilon": float("inf")},
        {"target_epsilon": float("nan")},
        {"target_delta": 1.0},
        {"steps": 0},
        {"steps": 10**12},
    ],
)
def test_request_out_of_range_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        replace(REQUEST, **change)  # type: ignore[arg-type]


def test_software_version_is_the_one_of_the_package() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', text, flags=re.MULTILINE)

    assert found is not None
    assert found[1] == protocol.SOFTWARE_VERSION


def test_public_surface_of_the_package_is_what_it_lists() -> None:
    public = {
        name
        for name, value in vars(protocol).items()
        if not name.startswith("_") and isinstance(value, (int, str))
    }

    assert sorted(public) == protocol.__all__
