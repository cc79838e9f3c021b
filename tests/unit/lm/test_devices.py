from __future__ import annotations

import pytest
import torch

from lm.devices import best_device, fastest_dtype, resolve_dtype


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


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_auto_is_bfloat16_only_where_a_processor_computes_in_it_natively(
    capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert fastest_dtype("cpu") == resolve_dtype("auto", "cpu") == expected


@pytest.mark.parametrize("is_native", [True, False])
def test_emulation_by_an_accelerator_is_not_taken_for_native(
    is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_supported(*, including_emulation: bool) -> bool:
        return including_emulation or is_native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)

    expected = torch.bfloat16 if is_native else torch.float32
    assert resolve_dtype("auto", "cuda:1") == expected


def test_a_named_dtype_is_taken_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})

    assert resolve_dtype("bfloat16", "cpu") == torch.bfloat16
    assert resolve_dtype("float32", "cpu") == torch.float32
