"""The target's adapter on disk: a PEFT folder that appears only when whole, and how to use it.

The folder is what `peft.PeftModel.from_pretrained` reads. Inside the project it is read with
`read_adapter`, which takes safetensors and JSON and nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from peft import PeftModel

from lm.adapters import adapter_tensors, merge_adapter
from lm.disk import write_folder
from lm.errors import ModelFolderError
from protocol.artifacts import AdapterWeights, LoraShape
from protocol.errors import ConfigurationError

_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAdapter:
    """An adapter as it was read from its folder."""

    tensors: dict[str, npt.NDArray[np.float32]] = field(repr=False)
    """Weights by name, as `lm.adapters` names them."""
    lora: LoraShape
    """How to attach it."""


def read_adapter(folder: Path) -> StoredAdapter:
    """Read a PEFT folder that holds a LoRA adapter.

    Raises:
        ModelFolderError: The folder holds no adapter, or one of a kind that is not used here.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        stored = safetensors.numpy.load_file(folder / _WEIGHTS)
        if config["peft_type"] != "LORA" or config.get("use_dora"):
            raise ValueError
        layers = config["layers_to_transform"]
        lora = LoraShape(
            rank=config["r"],
            alpha=float(config["lora_alpha"]),
            target_modules=tuple(sorted(config["target_modules"])),
            num_upper_layers=None if layers is None else len(layers),
            use_rslora=config["use_rslora"],
        )
    except (OSError, ValueError, KeyError, TypeError, ConfigurationError) as error:
        raise ModelFolderError(
            f"Expected a LoRA adapter ({_CONFIG}, {_WEIGHTS}) in {folder}, found none that can be "
            f"read ({type(error).__name__}). Tune the target again."
        ) from error
    tensors = {name.removeprefix(_PEFT_PREFIX): value for name, value in stored.items()}
    return StoredAdapter(tensors=dict(sorted(tensors.items())), lora=lora)


def write_adapter(model: PeftModel, folder: Path) -> str:
    """Write a model's adapter as a PEFT folder.

    Args:
        model: The model that carries it.
        folder: Where to write; it appears only when whole. An older one there is replaced.

    Returns:
        SHA-256 of the weights.

    Raises:
        DiskError: The disk is full or refuses.
    """

    def fill(part: Path) -> None:
        # "auto" would ask the model hub whether the vocabulary has grown.
        model.save_pretrained(part, safe_serialization=True, save_embedding_layers=False)
        (part / "README.md").unlink(missing_ok=True)  # a form of PEFT's that nobody has filled in
        _settle(part / _CONFIG)

    write_folder(folder, fill, replaces=True)
    return AdapterWeights(tensors=adapter_tensors(model)).digest()


def adapter_digest(folder: Path) -> str:
    """Return the SHA-256 of a stored adapter's weights, as `write_adapter` did."""
    return AdapterWeights(tensors=read_adapter(folder).tensors).digest()


def merge_target(*, target_folder: Path, adapter: Path, out_folder: Path) -> Path:
    """Write the target with its adapter merged, as an ordinary model folder.

    Args:
        target_folder: Folder of the untuned target.
        adapter: PEFT folder of the adapter.
        out_folder: Where to write; an existing one is whole and is returned as it is.

    Returns:
        `out_folder`.
    """
    stored = read_adapter(adapter)
    return merge_adapter(target_folder, stored.tensors, stored.lora, out_folder=out_folder)


def _settle(config_path: Path) -> None:
    """Sort what PEFT keeps as sets, so that one training writes one file."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    config["inference_mode"] = True
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    config_path.write_text(text + "\n", encoding="utf-8")
