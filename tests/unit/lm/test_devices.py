from __future__ import annotations

import pytest
import torch

from lm.devices import best_device


def test_without_an_accelerator_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "1")

    assert best_device() == "cpu"


def test_each_of_several_processes_takes_its_own_accelerator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    alone = best_device()
    monkeypatch.setenv("LOCAL_RANK", "1")

    assert (alone, best_device()) == ("cuda", "cuda:1")
