"""What a client's proxies read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lm.adapter_shapes import expected_adapter_shapes
from lm.adapters import load_adapter, merge_adapter, write_peft_folder
from lm.devices import fastest_dtype
from lm.encoding import EncodedChat, encode_chat
from lm.likelihood import response_nll_sums, response_perplexities
from lm.loading import load_causal_lm, load_tokenizer
from lm.reward_head import load_reward_model, score_chats
from lm.sampling import SampledModel, SamplingEngine
from protocol.artifacts import AdapterWeights, LoraShape
from server_side.proxies import ClientProxies
from tests.support.fake_proxies import no_progress
from tests.support.releases import LORA
from tests.support.samplers import FakeSampler

REWARD_LORA = replace(LORA, alpha=4.0)
MAX_PROMPT_TOKENS = 8
MAX_RESPONSE_TOKENS = 20
PAIRS = [("How is it?", "Rest."), ("And now?", "Drink water, and rest a while longer at home.")]


def make_generator(
    base: Path, *, seed: int = 0, lora: LoraShape = LORA, instruction: str = "Help."
) -> SimpleNamespace:
    """Return what stands in for an admitted generator, with random weights."""
    return _release(base, seed=seed, lora=lora, instruction=instruction, has_reward_head=False)


def make_reward(base: Path, *, seed: int = 1, lora: LoraShape = REWARD_LORA) -> SimpleNamespace:
    """Return what stands in for an admitted reward proxy.

    Its adapter fits wherever the generator's does, and says something else.
    """
    return _release(base, seed=seed, lora=lora, instruction="Help.", has_reward_head=True)


def make_proxies(
    base: Path,
    work_folder: Path,
    *,
    generator: SimpleNamespace | None = None,
    reward: SimpleNamespace | None = None,
) -> ClientProxies:
    """Return a client's proxies, which read few tokens of a text."""
    return ClientProxies(
        generator or make_generator(base),  # type: ignore[arg-type]
        reward or make_reward(base),  # type: ignore[arg-type]
        base_folder=base,
        work_folder=work_folder,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        max_response_tokens=MAX_RESPONSE_TOKENS,
    )


def _release(
    base: Path, *, seed: int, lora: LoraShape, instruction: str, has_reward_head: bool
) -> SimpleNamespace:
    shapes = expected_adapter_shapes(base, lora, has_reward_head=has_reward_head)
    rng = np.random.default_rng(seed)
    weights = AdapterWeights(
        tensors={name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    )
    return SimpleNamespace(
        client_name="north",
        instruction=instruction,
        lora=lora,
        weights=weights.tensors,
        certificate=SimpleNamespace(weights_digest=weights.digest()),
    )


def _chats(base: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[EncodedChat]:
    tokenizer = load_tokenizer(base)
    return [
        encode_chat(
            tokenizer, instruction="Help.", prompt=prompt, response=response,
            max_prompt_tokens=MAX_PROMPT_TOKENS, max_response_tokens=MAX_RESPONSE_TOKENS,
        )
        for prompt, response in pairs
    ]  # fmt: skip


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_long_prompt_is_cut_alike_before_it_is_answered_and_before_it_is_scored(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """Uncut it might not fit into the model, and a reward would judge another question."""
    prompt = "How is it? " * 5000

    answered = make_proxies(tiny_llama, tmp_path).response_prefix(prompt)

    (scored,) = _chats(tiny_llama, [(prompt, "")])
    assert answered == scored.response_prefix


def test_token_losses_are_those_of_the_base_model_or_of_the_generator(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """With the adapter they are what the perplexities say; without, what the base model says."""
    proxies = make_proxies(tiny_llama, tmp_path)
    chats = _chats(tiny_llama)

    untuned, tuned = (
        proxies.token_losses(
            PAIRS, with_adapter=with_adapter, max_batch_tokens=512, on_progress=no_progress
        )
        for with_adapter in (False, True)
    )
    said = proxies.perplexities(PAIRS, max_batch_tokens=512, on_progress=no_progress)

    model = load_causal_lm(tiny_llama, dtype=fastest_dtype("cpu"))
    assert [nll for nll, _ in untuned] == pytest.approx(response_nll_sums(model, chats))
    assert [math.exp(nll / size) for nll, size in tuned] == pytest.approx(said)
    assert untuned != tuned
    assert [size for _, size in tuned] == [c.response_span[1] - c.response_span[0] for c in chats]


def test_perplexities_are_those_of_the_generator(tmp_path: Path, tiny_llama: Path) -> None:
    generator = make_generator(tiny_llama)
    proxies = make_proxies(tiny_llama, tmp_path, generator=generator)

    said = proxies.perplexities(PAIRS, max_batch_tokens=512, on_progress=no_progress)

    base = load_causal_lm(tiny_llama, dtype=fastest_dtype("cpu"))
    model = load_adapter(base, generator.weights, generator.lora)
    assert said == pytest.approx(response_perplexities(model, _chats(tiny_llama)))


def test_rewards_are_those_of_the_reward_proxy(tmp_path: Path, tiny_llama: Path) -> None:
    reward = make_reward(tiny_llama)
    proxies = make_proxies(tiny_llama, tmp_path, reward=reward)

    said = proxies.rewards(PAIRS, max_batch_tokens=512, on_progress=no_progress)

    model = load_reward_model(tiny_llama, reward.weights, reward.lora, dtype=fastest_dtype("cpu"))
    assert said == pytest.approx(score_chats(model, _chats(tiny_llama)))


def test_a_sampling_engine_is_given_the_generator_merged_and_as_an_adapter(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator(tiny_llama)
    proxies = make_proxies(tiny_llama, tmp_path / "work", generator=generator)
    opened: list[SampledModel] = []

    def fake_open(model: SampledModel, **_: object) -> FakeSampler:
        opened.append(model)
        return FakeSampler(lambda prefix, number: ())

    monkeypatch.setattr("server_side.proxies.open_sampler", fake_open)
    with proxies.sampler(engine=SamplingEngine.TRANSFORMERS):
        pass

    (model,) = opened
    assert model.write_merged is not None
    assert model.write_adapter is not None
    adapter = (tiny_llama, generator.weights, generator.lora)
    merged = merge_adapter(*adapter, out_folder=tmp_path / "merged")
    apart = write_peft_folder(*adapter, out_folder=tmp_path / "adapter")
    assert _files(model.write_merged()) == _files(merged)
    assert _files(model.write_adapter()) == _files(apart)


def test_another_adapter_of_either_proxy_makes_another_fingerprint(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """Runs share stages by it; one would else take over what another client's proxies wrote."""
    others = [
        make_proxies(tiny_llama, tmp_path, generator=make_generator(tiny_llama, seed=2)),
        make_proxies(tiny_llama, tmp_path, generator=make_generator(tiny_llama, lora=REWARD_LORA)),
        make_proxies(tiny_llama, tmp_path, reward=make_reward(tiny_llama, seed=2)),
        make_proxies(tiny_llama, tmp_path, reward=make_reward(tiny_llama, lora=LORA)),
    ]

    found = make_proxies(tiny_llama, tmp_path).fingerprint

    assert found == make_proxies(tiny_llama, tmp_path).fingerprint
    assert all(found != other.fingerprint for other in others)


def test_clients_share_the_base_models_answers_only_under_the_same_instruction(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """The base model is asked under it."""
    asked, alike, otherwise = (
        make_proxies(
            tiny_llama, tmp_path, generator=make_generator(tiny_llama, seed=seed, instruction=text)
        ).untuned
        for seed, text in [(0, "Help."), (2, "Help."), (0, "Advise.")]
    )

    assert asked == alike
    assert asked != otherwise


def test_a_generator_sees_the_examples_before_it_writes_a_prompt(
    tmp_path: Path, tiny_llama: Path
) -> None:
    proxies = make_proxies(tiny_llama, tmp_path)
    tokenizer = load_tokenizer(tiny_llama)

    shown, bare = (
        tokenizer.decode(proxies.prompt_prefix(examples)) for examples in (["How is it?"], [])
    )

    assert "How is it?" in shown
    assert "How is it?" not in bare
