"""Compute with 16-bit weights and keep float32 between the layers.

A model in bfloat16 rounds after every operation: products, the sum that runs through all its
blocks, attention, activation functions. Products of matrices are what takes the time, and only they
need 16 bits for speed. With everything between them in float32 scores lie half as far from those of
a float32 model (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

_SHORT = (torch.bfloat16, torch.float16)


@contextmanager
def float32_between_layers(model: nn.Module) -> Iterator[None]:
    """Let layers with 16-bit weights take and give float32 while this is open.

    What such a layer takes is rounded to what its weights are, since one product needs one type;
    what it gives is float32. Layers with other weights (adapters, quantised ones) stay as they are,
    and a model without 16-bit weights is not changed at all. For inference alone.

    Args:
        model: The model, or the part of it, whose layers are meant.
    """
    with ExitStack() as stack:
        for module in model.modules():
            for handle in _hooks(module):
                stack.callback(handle.remove)
        yield


def _hooks(module: nn.Module) -> Iterator[RemovableHandle]:
    own = [weight.dtype for weight in module.parameters(recurse=False) if weight.dtype in _SHORT]
    # A root-mean-square norm computes in float32 by itself and only scales by its weights.
    if not own or type(module).__name__.endswith("RMSNorm"):
        return

    def round_input(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        rounded = {name: _as(value, own[0]) for name, value in kwargs.items()}
        return tuple(_as(value, own[0]) for value in args), rounded

    yield module.register_forward_pre_hook(round_input, with_kwargs=True)
    yield module.register_forward_hook(lambda _, args, output: _as(output, torch.float32))


def _as(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.to(dtype)
    return value
