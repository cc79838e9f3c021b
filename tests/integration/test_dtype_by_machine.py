"""By default both parties hold every model in what their machine computes fastest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from client_side import reward_proxy
from lm.encoding import encode_chat
from lm.loading import load_tokenizer
from protocol.ledger import ProxyKind
from server_side.config import EvaluationConfig, FinetuningConfig
from server_side.evaluation import _reference_nll_sums
from server_side.tuning.model import trainable_target
from server_side.tuning.trainers import _settings
from tests.support.samplers import FakeSampler
from tests.unit.client_side.test_proxies import RECORDS, _generator, _released, train_proxy
from tests.unit.server_side.test_proxies import PAIRS, make_proxies, no_progress

# Whether the machine's own bfloat16 is native is not what a test may depend on.
MACHINES = [({"avx512_bf16": True}, torch.bfloat16), ({"avx512_bf16": False}, torch.float32)]


pytestmark = pytest.mark.integration


@pytest.fixture(params=MACHINES, ids=["native", "emulated"])
def fastest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Be on a machine with or without bfloat16; return what it computes fastest."""
    capabilities, dtype = request.param
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found: torch.dtype = dtype
    return found


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Return what models are loaded in, from now on."""
    dtypes: list[torch.dtype] = []
    load = AutoModelForCausalLM.from_pretrained

    def load_and_note(folder: Path, **options: Any) -> Any:
        dtypes.append(options["dtype"])
        return load(folder, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_and_note)
    return dtypes


@pytest.mark.parametrize("kind", ProxyKind)
def test_a_proxy_is_trained_in_it(
    kind: ProxyKind,
    fastest: torch.dtype,
    loaded: list[torch.dtype],
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        reward_proxy, "open_sampler", lambda *_, **__: FakeSampler(lambda prefix, n: (100, 101))
    )
    generator = _released(_generator(tiny_llama))
    loaded.clear()

    train_proxy(kind, RECORDS, base_folder=tiny_llama, generator=generator, work_folder=tmp_path)

    # The reward proxy's last: the generator is merged before it, in float32 whatever the machine.
    assert loaded[-1] == fastest


def test_candidates_are_scored_in_it(
    fastest: torch.dtype, loaded: list[torch.dtype], tiny_llama: Path, tmp_path: Path
) -> None:
    proxies = make_proxies(tiny_llama, tmp_path)

    proxies.perplexities(PAIRS, max_batch_tokens=512, on_progress=no_progress)
    proxies.rewards(PAIRS, max_batch_tokens=512, on_progress=no_progress)

    assert loaded == [fastest, fastest]


def test_the_target_is_tuned_over_a_base_in_it(
    fastest: torch.dtype, loaded: list[torch.dtype], tiny_llama: Path
) -> None:
    trainable_target(tiny_llama, None, FinetuningConfig(lora_rank=2), seed=0)

    assert loaded == [fastest]


def test_a_target_that_is_tuned_whole_computes_in_it(fastest: torch.dtype, tmp_path: Path) -> None:
    """Its weights stay float32 whatever the machine; autocast decides."""
    settings = _settings(FinetuningConfig(method="full"), tmp_path, seed=0, round_index=1)

    assert settings["bf16"] is (fastest == torch.bfloat16)


def test_the_target_reads_the_references_in_it(
    fastest: torch.dtype, loaded: list[torch.dtype], tiny_llama: Path
) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    chats = [encode_chat(tokenizer, instruction="Go.", prompt="why", response="because")]

    _reference_nll_sums(
        chats, target_folder=tiny_llama, adapter=None, config=EvaluationConfig(), on_progress=None
    )

    assert loaded == [fastest]
