"""The gradient of each row of a batch, from one forward and one backward pass.

For a linear layer y = x Wᵀ the gradient of row n is gₙᵀ xₙ, where g is the gradient with respect to
y. Both are at hand during the backward pass anyway, so hooks on the adapted layers keep x, take g,
and multiply; autograd is told not to add the rows up into gradients of its own, which is what made
general hooks dearer than training without privacy (docs/performance.md).

Covers: linear layers without bias, called with rows first; layers called more than once.
Does not cover: any other trainable layer; it is refused.

Reference: Opacus (arXiv 2109.12298), section 2.4, whose hooks are the oracle in the tests.

Shapes: `R` rows, `T` positions of a row, `i` and `o` inputs and outputs of a layer.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn


class RowGradients:
    """While open, each backward pass leaves a `grad_sample` (R, o, i) on every trained weight."""

    def __init__(self, model: nn.Module, *, also_whole: bool) -> None:
        """Find the layers; `__enter__` puts the hooks on them.

        Args:
            model: Model whose trainable weights are those of linear layers without bias.
            also_whole: Leave autograd's own gradient on the weights as well, for comparison.

        Raises:
            RuntimeError: Something else is trainable.
        """
        self._layers = [
            module
            for module in model.modules()
            if isinstance(module, nn.Linear) and module.weight.requires_grad
        ]
        covered = {id(layer.weight) for layer in self._layers}
        for name, parameter in model.named_parameters():
            # Privacy: a weight without gradients by row would be trained without a clip.
            if parameter.requires_grad and id(parameter) not in covered:
                raise RuntimeError(
                    f"Expected every trainable weight to be that of a linear layer, found {name}."
                )
        self._also_whole = also_whole
        self._handles: list[Any] = []  # torch gives no public name to their type

    def __enter__(self) -> RowGradients:
        for layer in self._layers:
            layer.weight.requires_grad_(self._also_whole)
            self._handles.append(layer.register_forward_hook(_watch))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        place: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for layer in self._layers:
            layer.weight.requires_grad_(True)
            clear(layer.weight)


def clear(weight: torch.Tensor) -> None:
    """Drop a weight's gradients, by row and whole."""
    weight.grad = None
    weight.grad_sample = None  # type: ignore[attr-defined]


def _watch(
    layer: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
) -> torch.Tensor:
    kept = [inputs[0].detach()]  # (R, ..., i)
    if not output.requires_grad:
        # The lowest adapted layers read what needs no gradient; a gradient must reach them still.
        output = output.detach().requires_grad_()

    # Privacy: rows come first and stay apart: everything behind them is flattened, and the products
    # are made row by row. A sum over rows in here would mix units before the clip.
    def keep(gradient: torch.Tensor) -> None:
        g = gradient.flatten(1, -2) if gradient.ndim > 2 else gradient[:, None]  # (R, T, o)
        # Taken out, not looked at: the graph outlives the backward pass, these values must not.
        values = kept.pop()
        x = values.flatten(1, -2) if values.ndim > 2 else values[:, None]  # (R, T, i)
        rows = torch.bmm(g.transpose(1, 2), x)  # (R, o, i)
        earlier = getattr(layer.weight, "grad_sample", None)
        total = rows if earlier is None else earlier + rows
        layer.weight.grad_sample = total  # type: ignore[attr-defined]

    output.register_hook(keep)
    return output
