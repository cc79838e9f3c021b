"""Whether the longest text of a training fits a model's context, by settings alone.

Read from `config.json` and a tokenizer; no weight is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from lm.encoding import encode_chat
from lm.errors import ModelFolderError
from lm.loading import load_tokenizer

# Beyond the window that they were trained for, these scale all positions of a batch by its longest
# text; others scale every text alike.
_BY_LONGEST: Final = frozenset({"dynamic", "longrope"})
_SPARE_TOKENS: Final = 8
"""Where two texts meet, a tokenizer may make a few tokens more than of either."""


def check_context(
    folder: Path, *, instruction: str, max_prompt_tokens: int, max_response_tokens: int
) -> None:
    """Refuse lengths at which a text would not fit, or would change others beside it.

    Args:
        folder: Folder of the model.
        instruction: Text of the system turn.
        max_prompt_tokens: What a prompt is cut to.
        max_response_tokens: What a response is cut to.

    Raises:
        ModelFolderError: The longest text is longer than the model's context.

    Privacy:
        From public settings. A text that did not fit would fail alone, and one that rescales the
        positions of a batch would have a say in the gradients of others.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    empty = encode_chat(load_tokenizer(folder), instruction=instruction, prompt="", response="")
    longest = len(empty.input_ids) + max_prompt_tokens + max_response_tokens + _SPARE_TOKENS
    limit, why = int(config["max_position_embeddings"]), "max_position_embeddings"
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type")) in _BY_LONGEST:
        why = "original_max_position_embeddings"
        limit = int(scaling.get(why) or config.get(why) or limit)
    if longest > limit:
        raise ModelFolderError(
            f"Expected a text of at most {limit} tokens, which is the {why} of {folder}, found "
            f"that instruction, prompt and response may take {longest}. Lower "
            "client_side.records.max_prompt_tokens or client_side.records.max_response_tokens, "
            "shorten the instruction, or take another base model."
        )
