"""What a client's proxies read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from lm.encoding import encode_chat
from lm.loading import load_tokenizer
from server_side.proxies import ClientProxies
from tests.support.tiny_models import build_tiny_model


def test_a_long_prompt_is_cut_alike_before_it_is_answered_and_before_it_is_scored(
    tmp_path: Path,
) -> None:
    """Uncut it might not fit into the model, and a reward would judge another question."""
    base = build_tiny_model(tmp_path / "model")
    release = SimpleNamespace(client_name="north", instruction="Help.")
    proxies = ClientProxies(
        release,  # type: ignore[arg-type]
        release,  # type: ignore[arg-type]
        base_folder=base,
        work_folder=tmp_path / "work",
        max_prompt_tokens=8,
        max_response_tokens=8,
    )
    prompt = "How is it? " * 5000

    scored = encode_chat(
        load_tokenizer(base), instruction="Help.", prompt=prompt, max_prompt_tokens=8
    )

    assert proxies.response_prefix(prompt) == scored.response_prefix
