"""On which device this machine computes, and in what: the one place where that is chosen."""

from __future__ import annotations

import os
from typing import Final

import torch

AUTO: Final = "auto"
"""The dtype that is fastest on the device, as a setting."""


def best_device() -> str:
    """Return `cuda` where there is an accelerator that torch can use, otherwise `cpu`.

    Of several processes that work together, each takes the accelerator of its own number.
    """
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"


def fastest_dtype(device: str) -> torch.dtype:
    """Return bfloat16 where the device computes in it natively, otherwise float32."""
    match torch.device(device).type:
        case "cpu":
            capabilities = torch.cpu.get_capabilities()
            is_native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        case "cuda":
            is_native = torch.cuda.is_bf16_supported(including_emulation=False)
        case _:
            is_native = False
    return torch.bfloat16 if is_native else torch.float32


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """Return the dtype that a setting names.

    Args:
        name: `auto` for `fastest_dtype`, or a dtype of torch, such as `float32`.
        device: A torch device.
    """
    if name == AUTO:
        return fastest_dtype(device)
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
