"""Names and shapes of an adapter's tensors.

They follow from the base model and the LoRA shape alone, so that a party can check foreign weights
before it loads them, or any library that could.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from lm.errors import ModelFolderError

REWARD_HEAD = "reward_head.weight"
"""Name of the scalar head of a reward proxy among its tensors; shape (1, hidden)."""

ADAPTABLE: Final = re.compile(r"(?P<module>.*\.layers\.(?P<layer>\d+)\..*\.(?P<leaf>\w+))\.weight")
"""Names of weights that an adapter can update: `leaf` is what `target_modules` may name."""

Tensors = Mapping[str, npt.NDArray[np.float32]]


class LoraSpec(Protocol):
    """What one must know to rebuild an adapter's shape."""

    @property
    def rank(self) -> int:
        """Rank of each update."""

    @property
    def alpha(self) -> float:
        """Scale numerator."""

    @property
    def target_modules(self) -> Sequence[str]:
        """Names of the adapted linear layers."""

    @property
    def num_upper_layers(self) -> int | None:
        """Number of adapted blocks, counted from the last; None adapts all."""

    @property
    def use_rslora(self) -> bool:
        """Whether the scale is alpha ÷ √rank."""


def expected_adapter_shapes(
    base_folder: Path, lora: LoraSpec, *, has_reward_head: bool
) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor that an adapter of this shape must have.

    Args:
        base_folder: Folder of the base model; only headers are read.
        lora: Shape of the adapter.
        has_reward_head: Whether a scalar head belongs to it.

    Raises:
        ModelFolderError: The base model has no layer of one of the named modules, or weights of
            fewer layers than its configuration says.
    """
    config = json.loads((base_folder / "config.json").read_text(encoding="utf-8"))
    layers = adapted_layers(lora, int(config["num_hidden_layers"]))
    shapes: dict[str, tuple[int, ...]] = {}
    missing = set(lora.target_modules)
    absent = set(layers)
    for name, (num_out, num_in) in _weight_shapes(base_folder).items():
        match = ADAPTABLE.fullmatch(name)
        if not match or match["leaf"] not in lora.target_modules:
            continue
        if int(match["layer"]) not in layers:
            continue
        missing.discard(match["leaf"])
        absent.discard(int(match["layer"]))
        shapes[f"{match['module']}.lora_A.weight"] = (lora.rank, num_in)
        shapes[f"{match['module']}.lora_B.weight"] = (num_out, lora.rank)
    if missing:
        raise ModelFolderError(
            f"Expected linear layers named {', '.join(sorted(missing))} in {base_folder}, found "
            "none. Change lora.target_modules to names that this architecture has."
        )
    if absent:
        raise ModelFolderError(
            f"Expected weights of all {config['num_hidden_layers']} layers that config.json names "
            f"in {base_folder}, found none of layer {min(absent)}. Save the model there again."
        )
    if has_reward_head:
        shapes[REWARD_HEAD] = (1, int(config["hidden_size"]))
    return dict(sorted(shapes.items()))


def adapted_layers(lora: LoraSpec, num_layers: int) -> frozenset[int]:
    """Return the numbers of the blocks that an adapter updates, of so many.

    Args:
        lora: Shape of the adapter; only `num_upper_layers` is looked at.
        num_layers: Blocks of the base model.

    Returns:
        Numbers, from 0, of the last blocks; all of them where fewer are there than asked for.
    """
    count = num_layers if lora.num_upper_layers is None else min(lora.num_upper_layers, num_layers)
    return frozenset(range(num_layers - count, num_layers))


def _weight_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    shapes: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                shape = file.get_slice(name).get_shape()
                if len(shape) == 2:
                    shapes[name] = (shape[0], shape[1])
    return shapes
