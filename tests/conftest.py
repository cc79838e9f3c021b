"""What all tests share: no network, few threads, and tiny models built once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any library reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from hypothesis import HealthCheck, settings

from server_side.memory import set_aside_imports
from tests.support.tiny_models import build_tiny_model

torch.set_num_threads(1)
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True, scope="module")
def libraries_out_of_the_collectors_sight() -> None:
    """Set aside what the imports left behind: some 400,000 objects that stay until the end.

    To look at them again at every collection took half of the processor time of a tiny pipeline.
    """
    set_aside_imports()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama with a byte tokenizer."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "llama", architecture="llama")


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Qwen2, with biased projections."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "qwen2", architecture="qwen2")


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def tiny_model(request: pytest.FixtureRequest, tiny_llama: Path, tiny_qwen2: Path) -> Path:
    """Each of the two architectures in turn."""
    return tiny_llama if request.param == "llama" else tiny_qwen2
