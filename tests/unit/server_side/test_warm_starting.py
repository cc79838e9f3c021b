"""What public text teaches starting weights."""

from __future__ import annotations

import itertools
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_side.generator import ADAPTER_SEED
from lm.adapter_shapes import expected_adapter_shapes
from lm.adapters import adapter_tensors, attach_lora, load_adapter
from lm.devices import best_device, fastest_dtype
from lm.encoding import encode_chat
from lm.likelihood import response_perplexities
from lm.loading import load_causal_lm, load_tokenizer
from lm.packing import PackedRow
from lm.reward_head import load_reward_model, score_chats
from lm.sampling import SamplingEngine, SamplingParams, open_sampler
from lm.tables import TextRow
from protocol.artifacts import AdapterWeights, LoraShape
from protocol.errors import ConfigurationError
from protocol.ledger import ProxyKind
from protocol.messages import TrainingRequest, WarmTrainingRequest
from server_side import warm_starting
from server_side.config import ServerConfig, WarmStartConfig
from server_side.exchange.starts import cached_start, start_counts, start_progress
from server_side.public_texts import PublicText
from server_side.warm_starting import train_start, with_starts
from tests.support.clients import training_request
from tests.support.tiny_models import ENDS_APART

LORA = LoraShape(
    rank=4, alpha=16.0, target_modules=("q_proj", "v_proj"), num_upper_layers=None, use_rslora=False
)
RESPONSE = "Rest and drink water."


ROWS = [TextRow(prompt=f"ask {n}", response=RESPONSE) for n in range(20)]


@pytest.fixture
def config() -> WarmStartConfig:
    return WarmStartConfig(
        steps=30, learning_rate=1e-2, max_response_tokens=24, engine="transformers"
    )


def test_the_generator_learns_the_public_text(tiny_llama: Path, config: WarmStartConfig) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    chat = encode_chat(
        tokenizer, instruction=config.instruction, prompt="ask 99", response=RESPONSE
    )

    def perplexity(steps: int) -> float:
        weights = train_start(
            ProxyKind.GENERATOR,
            LORA,
            rows=ROWS,
            base_folder=tiny_llama,
            config=replace(config, steps=steps),
            seed=0,
        )
        base = load_causal_lm(tiny_llama, dtype=torch.float32, device="cpu")
        return response_perplexities(load_adapter(base, weights.tensors, LORA), [chat])[0]

    assert perplexity(60) < 0.9 * perplexity(1)


def test_the_reward_learns_to_prefer_the_public_text_to_the_base_models_answers(
    tiny_llama: Path, config: WarmStartConfig
) -> None:
    weights = train_start(
        ProxyKind.REWARD, LORA, rows=ROWS, base_folder=tiny_llama, config=config, seed=0
    )
    model = load_reward_model(tiny_llama, weights.tensors, LORA, dtype=torch.float32)
    tokenizer = load_tokenizer(tiny_llama)
    public = [
        encode_chat(tokenizer, instruction=config.instruction, prompt=prompt, response=RESPONSE)
        for prompt in (f"ask {n}" for n in range(90, 98))  # none of which is trained on
    ]
    with closing(open_sampler(tiny_llama, engine=SamplingEngine("transformers"))) as sampler:
        answers = sampler.sample(
            [chat.response_prefix for chat in public],
            SamplingParams(max_new_tokens=config.max_response_tokens, top_p=0.9),
            seed=5,
        )
    # As tokens: bytes that are no text would become others on the way through text.
    own = [
        replace(chat, response_ids=tuple(row[0].token_ids))
        for chat, row in zip(public, answers, strict=True)
    ]

    gaps = np.subtract(score_chats(model, public), score_chats(model, own))

    assert (gaps > 0).all()


@pytest.mark.parametrize("proxy", ProxyKind)
def test_weights_have_the_clients_shape_and_follow_from_the_seed(
    tiny_llama: Path, config: WarmStartConfig, proxy: ProxyKind
) -> None:
    few = replace(config, steps=2)
    first, again, other = (
        train_start(proxy, LORA, rows=ROWS, base_folder=tiny_llama, config=few, seed=seed)
        for seed in (3, 3, 4)
    )

    shapes = expected_adapter_shapes(tiny_llama, LORA, has_reward_head=proxy is ProxyKind.REWARD)
    assert {name: tensor.shape for name, tensor in first.tensors.items()} == shapes
    assert first == again
    assert first != other


@pytest.mark.parametrize("proxy", ProxyKind)
def test_how_far_the_tuning_is_is_told_and_no_note_of_it_stays(
    tiny_llama: Path,
    tmp_path: Path,
    config: WarmStartConfig,
    proxy: ProxyKind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[dict[str, Any] | None] = []
    note = warm_starting.note_start_progress

    def note_and_read(folder: Path, *words: Any) -> None:
        note(folder, *words)
        told.append(start_progress(folder))

    monkeypatch.setattr(warm_starting, "note_start_progress", note_and_read)
    text = PublicText(rows=tuple(ROWS), counts={})
    monkeypatch.setattr(warm_starting, "read_public_text", lambda _: text)

    with_starts(
        training_request(tiny_llama, proxy),
        {1: ("north", dict.fromkeys(ProxyKind, LORA))},
        config=replace(ServerConfig(), warm_start=replace(config, steps=2)),
        base_folder=tiny_llama,
        run_folder=tmp_path,
        on_waiting=lambda: None,
    )

    last = {item["phase"]: (item["done"], item["total"]) for item in told if item}
    sampled = {"sampling": (len(ROWS), len(ROWS))} if proxy is ProxyKind.REWARD else {}
    assert last == sampled | {"training": (2, 2)}
    assert start_progress(tmp_path) is None


@pytest.mark.parametrize("proxy", ProxyKind)
def test_a_stays_as_a_client_would_have_drawn_it(
    tiny_llama: Path, config: WarmStartConfig, proxy: ProxyKind
) -> None:
    weights = train_start(proxy, LORA, rows=ROWS, base_folder=tiny_llama, config=config, seed=0)
    device = best_device()
    base = load_causal_lm(tiny_llama, dtype=fastest_dtype(device), device=device)
    fresh = adapter_tensors(attach_lora(base, LORA, seed=ADAPTER_SEED))

    for name, drawn in fresh.items():
        assert np.array_equal(weights.tensors[name], drawn) == (".lora_A." in name), name


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("learning_rate", 0.0), ("instruction", " "), ("engine", "vllm")],
)
def test_settings_are_checked(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"warm_start.{name}"):
        WarmStartConfig(**{name: value})  # type: ignore[arg-type]


def test_tuning_starting_weights_keeps_to_the_threads_of_the_server(
    tiny_llama: Path, config: WarmStartConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    wanted = before + 1
    seen: list[int] = []
    monkeypatch.setattr(
        "server_side.warm_starting._fit", lambda *_, **__: seen.append(torch.get_num_threads())
    )

    train_start(
        ProxyKind.GENERATOR,
        LORA,
        rows=ROWS,
        base_folder=tiny_llama,
        config=config,
        seed=0,
        num_threads=wanted,
    )

    assert seen == [wanted]
    assert torch.get_num_threads() == before


def test_both_of_a_pair_end_as_scoring_ends_a_response(
    tiny_llama: Path, tmp_path: Path, config: WarmStartConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(ENDS_APART, encoding="utf-8")
    seen: list[PackedRow] = []
    monkeypatch.setattr(
        "server_side.warm_starting._fit", lambda model, pairs, *_, **__: seen.extend(pairs)
    )

    train_start(ProxyKind.REWARD, LORA, rows=ROWS, base_folder=folder, config=config, seed=0)

    ends = {load_tokenizer(folder).decode(tail[-1:]) for row in seen for tail in row.tails}
    assert ends == {"<|endoftext|>"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": ("no_such_layer",)}, "no_such_layer"),
        ({"rank": 4096}, "max_release_bytes"),
    ],
)
def test_a_shape_for_which_no_weights_can_be_made_ends_nobody_elses_exchange(
    changes: dict[str, Any],
    said: str,
    tiny_llama: Path,
    tmp_path: Path,
    config: WarmStartConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A hello is a client's word; training what it states could fill the server's memory."""
    text = PublicText(rows=tuple(ROWS), counts={})
    monkeypatch.setattr(warm_starting, "read_public_text", lambda _: text)
    settings = replace(ServerConfig(), warm_start=replace(config, steps=1))
    limits = replace(settings.admission, max_release_bytes=100_000)
    odd = replace(LORA, **changes)

    requests = with_starts(
        training_request(tiny_llama, ProxyKind.GENERATOR),
        {1: ("odd", dict.fromkeys(ProxyKind, odd)), 2: ("fair", dict.fromkeys(ProxyKind, LORA))},
        config=replace(settings, admission=limits),
        base_folder=tiny_llama,
        run_folder=tmp_path,
        on_waiting=lambda: None,
    )

    assert isinstance(requests[1], TrainingRequest)
    assert isinstance(requests[2], WarmTrainingRequest)
    assert "odd gets no starting weights and starts fresh. Expected" in caplog.text
    assert said in caplog.text


def generator_weights(base_folder: Path, *, value: float) -> AdapterWeights:
    shapes = expected_adapter_shapes(base_folder, LORA, has_reward_head=False)
    return AdapterWeights(tensors={n: np.full(s, value, np.float32) for n, s in shapes.items()})


def test_weights_that_other_settings_made_are_neither_sent_nor_replaced(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """Sent, they would not be what the settings say; replaced, a client would pay again unasked."""
    values = itertools.count()  # another training would give other weights

    def start(**origin: object) -> AdapterWeights:
        return cached_start(
            "north",
            ProxyKind.GENERATOR,
            LORA,
            base_folder=tiny_llama,
            run_folder=tmp_path,
            origin={"text": "ab", "warm_start.steps": 4, **origin},
            counts={"num_rows": 20},
            train=lambda *_: generator_weights(tiny_llama, value=next(values)),
        )

    def kept() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    first, before = start(), kept()

    with pytest.raises(ConfigurationError, match=r"found another warm_start\.steps"):
        start(**{"warm_start.steps": 5})

    assert kept() == before
    assert start() == first
    assert start_counts(tmp_path) == {"00_warm_start": {"num_rows": 20}}


def test_weights_are_tuned_anew_for_another_scale_of_the_same_shapes(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """Rank and layers give the tensors their shapes; alpha and rsLoRA only what they do."""
    zeros = generator_weights(tiny_llama, value=0.0)
    tuned_for: list[LoraShape] = []
    stated = [LORA, replace(LORA, alpha=32.0), replace(LORA, use_rslora=True)]

    for lora in [*stated, stated[-1]]:
        cached_start(
            "north",
            ProxyKind.GENERATOR,
            lora,
            base_folder=tiny_llama,
            run_folder=tmp_path,
            origin={},
            counts={},
            train=lambda _, shape: tuned_for.append(shape) or zeros,
        )

    assert tuned_for == stated
