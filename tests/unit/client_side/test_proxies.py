"""Both proxies, trained for a few steps on tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_side import dp_sgd, generator, reward_proxy
from client_side.config import (
    GeneratorConfig,
    LoraConfig,
    Precision,
    PreferencesConfig,
    RecordsConfig,
    RewardProxyConfig,
)
from client_side.dp_sgd import DpSgdPlan, DpSgdTask
from client_side.generator import ADAPTER_SEED, TrainedProxy, train_generator
from client_side.randomness import Randomness
from client_side.records import PrivateRecord
from client_side.released_generator import ReleasedGenerator
from client_side.reward_proxy import train_reward_proxy
from lm.adapter_shapes import expected_adapter_shapes
from lm.adapters import adapter_tensors, attach_lora
from lm.encoding import encode_chat
from lm.loading import load_causal_lm, load_tokenizer
from lm.reward_head import load_reward_model, score_chats
from protocol.ledger import ProxyKind
from tests.support.releases import SIGNING_KEY, make_reply
from tests.support.samplers import FakeSampler

RECORDS = tuple(
    PrivateRecord(prompt=f"question {i}", response="yes yes yes", unit_id=str(i)) for i in range(24)
)
SETTINGS = RecordsConfig(instruction="Go.", declared_size=24, max_response_tokens=20)
PLAN = DpSgdPlan(
    noise_multiplier=0.0, sample_rate=0.5, expected_batch_size=12.0, steps=8, max_grad_norm=0.1
)
LORA = LoraConfig(rank=2, alpha=4.0)


def _generator(folder: Path, *, seed: int = 0, noise_multiplier: float = 0.0) -> TrainedProxy:
    return train_generator(
        RECORDS,
        base_folder=folder,
        config=GeneratorConfig(lora=LORA, steps=8, learning_rate=3e-2, precision=Precision.FLOAT32),
        records_config=SETTINGS,
        plan=DpSgdPlan(
            noise_multiplier=noise_multiplier,
            sample_rate=0.5,
            expected_batch_size=12.0,
            steps=8,
            max_grad_norm=0.1,
        ),
        randomness=Randomness(seed=seed),
    )


def test_generator_learns_where_there_is_no_noise(tiny_model: Path) -> None:
    trained = _generator(tiny_model)

    assert trained.private_losses[-1] < trained.private_losses[0]
    shapes = expected_adapter_shapes(tiny_model, trained.lora, has_reward_head=False)
    assert {name: t.shape for name, t in trained.tensors.items()} == shapes


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_moves_only_where_it_is_not_frozen(tiny_llama: Path, is_frozen: bool) -> None:
    """A frozen A takes no noise; it is released as it was drawn, from a public seed."""
    lora = LoraConfig(rank=2, alpha=4.0, freeze_a=is_frozen)

    trained = train_generator(
        RECORDS,
        base_folder=tiny_llama,
        config=GeneratorConfig(lora=lora, steps=8, precision=Precision.FLOAT32),
        records_config=SETTINGS,
        plan=replace(PLAN, noise_multiplier=1.0),
        randomness=Randomness(seed=0),
    )

    start = adapter_tensors(
        attach_lora(load_causal_lm(tiny_llama), trained.lora, seed=ADAPTER_SEED)
    )
    for name, tensor in trained.tensors.items():
        stayed = np.array_equal(tensor, start[name])
        assert stayed == (is_frozen and ".lora_A." in name)


def test_a_seed_repeats_the_generator_exactly(tiny_llama: Path) -> None:
    first, second = (_generator(tiny_llama, seed=3, noise_multiplier=1.0) for _ in range(2))

    assert all(np.array_equal(first.tensors[n], second.tensors[n]) for n in first.tensors)


def test_trained_proxy_does_not_show_its_losses(tiny_llama: Path) -> None:
    """Losses are private; a repr ends up in logs."""
    trained = _generator(tiny_llama)

    assert repr(trained).startswith("TrainedProxy(lora=")
    assert str(trained.private_losses[0]) not in repr(trained)


def test_reward_proxy_learns_to_prefer_the_records_responses(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    noise_ids = tuple(tokenizer("no no no no")["input_ids"])
    opened: list[FakeSampler] = []

    def open_fake(folder: Path, **_: object) -> FakeSampler:
        opened.append(FakeSampler(lambda prefix, n: noise_ids))
        return opened[-1]

    monkeypatch.setattr(reward_proxy, "open_sampler", open_fake)
    trained_generator = _generator(tiny_model)

    trained = train_reward_proxy(
        RECORDS,
        base_folder=tiny_model,
        generator=_released(trained_generator),
        work_folder=tmp_path,
        num_threads=1,
        config=RewardProxyConfig(
            lora=LORA, steps=8, learning_rate=3e-2, precision=Precision.FLOAT32
        ),
        preferences_config=PreferencesConfig(),
        records_config=SETTINGS,
        plan=PLAN,
        randomness=Randomness(seed=0),
    )

    chats = [
        encode_chat(tokenizer, instruction="Go.", prompt="question 99", response=text)
        for text in ("yes yes yes", "no no no no")
    ]
    model = load_reward_model(tiny_model, trained.tensors, trained.lora, dtype=torch.float32)
    liked, disliked = score_chats(model, chats)
    assert liked > disliked
    assert all(sampler.is_closed for sampler in opened)
    shapes = expected_adapter_shapes(tiny_model, trained.lora, has_reward_head=True)
    assert {name: t.shape for name, t in trained.tensors.items()} == shapes


def test_negatives_are_sampled_for_drawn_records_only(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[FakeSampler] = []

    def open_fake(folder: Path, **_: object) -> FakeSampler:
        opened.append(FakeSampler(lambda prefix, n: (100, 101)))
        return opened[-1]

    monkeypatch.setattr(reward_proxy, "open_sampler", open_fake)
    trained_generator = _generator(tiny_llama)

    train_reward_proxy(
        RECORDS,
        base_folder=tiny_llama,
        generator=_released(trained_generator),
        work_folder=tmp_path,
        num_threads=1,
        config=RewardProxyConfig(lora=LORA, steps=1, precision=Precision.FLOAT32),
        preferences_config=PreferencesConfig(),
        records_config=SETTINGS,
        plan=DpSgdPlan(
            noise_multiplier=1.0,
            sample_rate=0.25,
            expected_batch_size=6.0,
            steps=1,
            max_grad_norm=0.1,
        ),
        randomness=Randomness(seed=0),
    )

    assert 0 < len(opened[0].asked) < len(RECORDS)


@pytest.mark.parametrize("kind", ProxyKind)
def test_every_step_adds_up_the_units_that_the_plan_draws(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ProxyKind
) -> None:
    """The ledger counts Poisson sampling; a shuffled order, cut into batches, would not be it."""
    released = _released(_generator(tiny_llama))
    records = [replace(r, unit_id=str(i // 2)) for i, r in enumerate(RECORDS)]
    added: list[list[int]] = []
    original = dp_sgd._clipped_sum

    def watched(task: Any, drawn: Any, *others: Any, **named: Any) -> Any:
        added.append(list(drawn))
        return original(task, drawn, *others, **named)

    monkeypatch.setattr(dp_sgd, "_clipped_sum", watched)
    monkeypatch.setattr(
        reward_proxy, "open_sampler", lambda *_, **__: FakeSampler(lambda prefix, n: (100, 101))
    )

    train_proxy(kind, records, base_folder=tiny_llama, generator=released, work_folder=tmp_path)

    planned = PLAN.draw_batches(12, randomness=Randomness(seed=0))
    assert added == [list(batch) for batch in planned]


def test_what_the_gradients_are_checked_on_holds_no_record(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that fails is seen by the server, so records have no say in it."""
    released = _released(_generator(tiny_llama))
    probes: dict[str, list[object]] = {}

    def keep(task: DpSgdTask[object], **_: object) -> list[float]:
        probes.setdefault(type(task.unit_loss).__name__, []).append(task.probe)
        return []

    monkeypatch.setattr(
        reward_proxy, "open_sampler", lambda *_, **__: FakeSampler(lambda prefix, n: (100, 101))
    )
    for module in (generator, reward_proxy):
        monkeypatch.setattr(module, "train_dp_sgd", keep)

    others = tuple(
        replace(record, prompt=f"other {i}", response="no " * i)
        for i, record in enumerate(reversed(RECORDS[1:]))
    )
    for records in (RECORDS, others):
        for kind in ProxyKind:
            train_proxy(
                kind, records, base_folder=tiny_llama, generator=released, work_folder=tmp_path
            )

    for loss in ("GeneratorLoss", "PairwiseLoss"):
        (first, second) = probes[loss]
        assert first == second


def test_one_record_more_leaves_the_seed_of_all_others_pairs_as_it_is(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed that followed the drawn records would let one record change what others add."""
    released = _released(_generator(tiny_llama))
    asked: list[tuple[int, int]] = []
    original = reward_proxy.build_preferences

    def watched(drawn: Sequence[PrivateRecord], *, seed: int, **others: Any) -> Any:
        asked.append((len(drawn), seed))
        return original(drawn, seed=seed, **others)

    monkeypatch.setattr(reward_proxy, "build_preferences", watched)
    monkeypatch.setattr(
        reward_proxy, "open_sampler", lambda *_, **__: FakeSampler(lambda prefix, n: (100, 101))
    )
    monkeypatch.setattr(reward_proxy, "train_dp_sgd", lambda *_, **__: [])

    for records in (RECORDS[:-1], RECORDS):
        train_proxy(
            ProxyKind.REWARD,
            records,
            base_folder=tiny_llama,
            generator=released,
            work_folder=tmp_path,
        )

    (without, seed), (more, same_seed) = asked
    assert more == without + 1
    assert same_seed == seed


def train_proxy(
    kind: ProxyKind,
    records: Sequence[PrivateRecord],
    *,
    base_folder: Path,
    generator: ReleasedGenerator,
    work_folder: Path,
) -> None:
    """Train one proxy by the plan, with draws that can be made again."""
    if kind is ProxyKind.GENERATOR:
        train_generator(
            records,
            base_folder=base_folder,
            config=GeneratorConfig(lora=LORA, steps=8),
            records_config=SETTINGS,
            plan=PLAN,
            randomness=Randomness(seed=0),
        )
    else:
        train_reward_proxy(
            records,
            base_folder=base_folder,
            generator=generator,
            work_folder=work_folder,
            num_threads=1,
            config=RewardProxyConfig(lora=LORA, steps=8),
            preferences_config=PreferencesConfig(),
            records_config=SETTINGS,
            plan=PLAN,
            randomness=Randomness(seed=0),
        )


def _released(generator: TrainedProxy) -> ReleasedGenerator:
    return ReleasedGenerator(
        release=make_reply(
            tensors=generator.tensors,
            shapes={name: tensor.shape for name, tensor in generator.tensors.items()},
            lora=generator.lora,
        ).release,
        public_key=SIGNING_KEY.public_key().public_bytes_raw(),
    )
