from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from protocol import accounting, prompts


@pytest.mark.parametrize("module", [accounting, prompts], ids=lambda module: module.__name__)
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    failures, attempted = doctest.testmod(module)

    assert failures == 0
    assert attempted > 0
