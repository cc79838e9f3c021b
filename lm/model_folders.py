"""Find a base model, check its folder and digest it: nothing here loads a model or its libraries.

A name is a folder, a hub name or the embedded default. A folder is checked (tokenizer, chat
template, weights) before anything large is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from lm.errors import ModelFolderError
from lm.paths import expanded

EMBEDDED_MODEL = "smollm2-135m"
# A change here makes a new cache folder, so an old materialisation is never taken for a new one.
_MATERIALISATION = "smollm2-135m-instruct-q4_1-v1"
_DIGESTED_SUFFIXES = (".safetensors",)
_SETTINGS_NAMES = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_DIGESTED_NAMES = ("config.json", "tokenizer.json")


def shown_model_name(name: str) -> str:
    """Return the name of a model as readers of other machines may see it.

    Args:
        name: As for `resolve_base_model`.

    Returns:
        The last part of a folder's path, or the name under which the model was fetched; any other
        name as it is.

    >>> shown_model_name("/srv/models/Qwen2.5-7B-Instruct/"), shown_model_name("Qwen/Qwen2.5-7B")
    ('Qwen2.5-7B-Instruct', 'Qwen/Qwen2.5-7B')
    >>> shown_model_name("/srv/hub/models--Qwen--Qwen2.5-7B/snapshots/7ae557604adf67be")
    'Qwen/Qwen2.5-7B'
    """
    if not (name.startswith((".", "/", "~")) or expanded(name).is_dir()):
        return name
    folder = expanded(name).resolve()
    if folder.parent.name == "snapshots":  # the hub's cache has a folder for each commit
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return EMBEDDED_MODEL if folder.name == _MATERIALISATION else folder.name


def resolve_base_model(name: str, *, cache_folder: Path | None = None) -> Path:
    """Find a base model and return the local folder that holds it.

    Args:
        name: A local folder, `smollm2-135m`, or a hub name such as `Qwen/Qwen2.5-0.5B-Instruct`.
        cache_folder: Where the embedded default is materialised; None takes
            `$REWARDDS_CACHE`, or `rewardds` in the user's cache folder.

    Returns:
        A folder with config, safetensors, tokenizer and chat template.

    Raises:
        ModelFolderError: Nothing usable has that name.
    """
    if name == EMBEDDED_MODEL:
        folder = (cache_folder or default_cache_folder()) / "models" / _MATERIALISATION
        # The folder gets this name only when whole, by a rename.
        if not folder.is_dir():
            from lm.embedded_model import materialise  # it loads a model, once for each user

            materialise(folder)
        return folder
    folder = expanded(name)
    if folder.is_dir():
        check_model_folder(folder)
        return folder.resolve()
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path:
        raise ModelFolderError(
            f"Expected a model folder, the hub name of a model or {EMBEDDED_MODEL!r}, found "
            f"nothing at {name!r}. Check the path."
        )
    return _fetch_from_hub(name)


def default_cache_folder() -> Path:
    """Return the folder for what can be made again: materialised and converted models."""
    if configured := os.environ.get("REWARDDS_CACHE"):
        return expanded(configured)
    # The specification takes an empty name for none.
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rewardds"


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds a usable instruct model, without reading its weights.

    Raises:
        ModelFolderError: Config, safetensors, tokenizer or chat template is missing, or a file of
            settings is torn.
    """
    needed = {"config.json": "the architecture", "tokenizer.json": "the tokenizer"}
    for file_name, what in needed.items():
        if not (folder / file_name).is_file():
            raise ModelFolderError(
                f"Expected {file_name} ({what}) in the model folder {folder}, found none. Save "
                "the model and its tokenizer there with save_pretrained."
            )
    if not any(folder.glob("*.safetensors")):
        raise ModelFolderError(
            f"Expected *.safetensors in the model folder {folder}, found none. Other formats can "
            "carry code and are not read; convert with save_pretrained(safe_serialization=True)."
        )
    for file_name in _SETTINGS_NAMES:
        _read_json(folder / file_name)
    if not _chat_template(folder):
        raise ModelFolderError(
            f"Expected a chat template in the model folder {folder}, found none. Use an instruct "
            "model, or add chat_template.jinja."
        )


def base_model_digest(folder: Path) -> str:
    """Return the SHA-256 over a model's config, weights, tokenizer and template, as hex.

    Two parties that state the same digest render, tokenise, stop and compute the same, in whichever
    of its files a model keeps its template.
    """
    files = sorted(
        path
        for path in folder.iterdir()
        if path.name in _DIGESTED_NAMES or path.suffix in _DIGESTED_SUFFIXES
    )
    total = hashlib.sha256()
    for path in files:
        content = _config_digest(path) if path.name == "config.json" else _file_digest(path)
        total.update(f"{path.name}\0{content}\n".encode())
    for name, value in _rendering(folder).items():
        content = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def _fetch_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelFolderError(
            f"Expected to reach the hub for {name!r}, got {type(error).__name__}. Download the "
            "model elsewhere and name its folder."
        ) from error
    check_model_folder(folder)
    return folder


def _chat_template(folder: Path) -> str | None:
    """Return the template that transformers takes: that of the file of its own comes first."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _read_text(file)
    found = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # of named templates, of which a chat without tools takes this one
        named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
        found = named.get("default")
    return found or None


def _rendering(folder: Path) -> dict[str, object]:
    """Return what decides how a chat is written and where it ends, beside config and tokenizer."""
    return {
        "chat template": _chat_template(folder),
        # A template may write them out, and the end of text is one of them.
        "special tokens": {
            name: token.get("content") if isinstance(token, dict) else token
            for file_name in ("special_tokens_map.json", "tokenizer_config.json")
            for name, token in _read_json(folder / file_name).items()
            if name.endswith("_token") and isinstance(token, str | dict)
        },
        "end tokens": _read_json(folder / "generation_config.json").get("eos_token_id"),
    }


def _read_json(path: Path) -> dict[str, Any]:  # JSON values
    if not path.is_file():
        return {}
    try:
        content = json.loads(_read_text(path))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ModelFolderError(
            f"Expected settings as a JSON object in {path}, found something else or half of one. "
            "Save or download the model again."
        )
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelFolderError(
            f"Expected UTF-8 text in {path}, found a byte that is none at position {error.start}. "
            "Save or download the model again."
        ) from error


def _config_digest(path: Path) -> str:
    # The library version that wrote the file says nothing about the model.
    config = _read_json(path)
    config.pop("transformers_version", None)
    config.pop("_name_or_path", None)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Materialise or check a base model from the shell: `python -m lm.model_folders NAME`."""
    name = sys.argv[1] if len(sys.argv) > 1 else EMBEDDED_MODEL
    try:
        print(resolve_base_model(name))
    except ModelFolderError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
