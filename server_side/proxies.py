"""What the stages ask of one client's two admitted proxies, and the models behind it.

The stages know `GeneratorProxy` and `RewardProxy` only, whose fakes are a few lines; a
`ClientProxies` answers for both from two `AdmittedRelease`s. A model is loaded for the time of one
question and then let go, so memory is that of one model however many clients there are.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm.adapters import load_adapter, merge_adapter, write_peft_folder
from lm.devices import best_device, fastest_dtype
from lm.encoding import EncodedChat, encode_chat, prompt_prefix, render_prefix
from lm.likelihood import response_nll_sums, response_perplexities
from lm.loading import load_causal_lm, load_tokenizer
from lm.reward_head import load_reward_model, score_chats
from lm.sampling import SampledModel, Sampler, SamplingEngine, SamplingParams, open_sampler
from lm.threads import torch_threads
from protocol.prompts import Chat, few_shot_instruction
from server_side.config import SamplingConfig
from server_side.samples import OnProgress

if TYPE_CHECKING:  # Flower takes a second to import, and no stage needs it
    from server_side.admission import AdmittedRelease

T = TypeVar("T")

PromptAndResponse = tuple[str, str]
"""A query's text and a response to it."""


class Writer(Protocol):
    """A model that writes text after a chat."""

    def chat_prefix(self, chat: Chat) -> Sequence[int]:
        """Return the token ids whose continuation is the assistant's next turn."""
        ...

    def sampler(self, *, engine: str) -> AbstractContextManager[Sampler]:
        """Hold the model in a sampling engine for the time of a `with` block."""
        ...


class GeneratorProxy(Writer, Protocol):
    """One client's generator: writes prompts and responses, and knows how likely one is."""

    @property
    def client_name(self) -> str:
        """Public name of the client."""
        ...

    @property
    def instruction(self) -> str:
        """The client's public description of its domain."""
        ...

    @property
    def untuned(self) -> Hashable:
        """What `token_losses` asks without the adapter; clients that share it get one answer."""
        ...

    def prompt_prefix(self, examples: Sequence[str] = ()) -> Sequence[int]:
        """Return the token ids whose continuation is a prompt, after examples of prompts if any."""
        ...

    def response_prefix(self, prompt: str) -> Sequence[int]:
        """Return the token ids whose continuation is a response; a long prompt is cut."""
        ...

    def perplexities(
        self, pairs: Sequence[PromptAndResponse], *, max_batch_tokens: int, on_progress: OnProgress
    ) -> list[float]:
        """Return each response's perplexity after its prompt.

        Args:
            pairs: Each prompt with a response to it.
            max_batch_tokens: Tokens, padding included, that go through the model at once.
            on_progress: Told how many pairs are done, of how many.

        Returns:
            One perplexity a pair, in the order of `pairs`.

        Raises:
            ScoringError: One of them is not a finite number.
        """
        ...

    def token_losses(
        self,
        pairs: Sequence[PromptAndResponse],
        *,
        with_adapter: bool,
        max_batch_tokens: int,
        on_progress: OnProgress,
    ) -> list[tuple[float, int]]:
        """Return each response's summed negative log-likelihood in nats, and its number of tokens.

        Without the adapter it is the base model that answers.

        Args:
            pairs: Each prompt with a response to it.
            with_adapter: Whether the generator is asked; False asks its base model.
            max_batch_tokens: Tokens, padding included, that go through the model at once.
            on_progress: Told how many pairs are done, of how many.

        Returns:
            Both for each pair, in the order of `pairs`; the token that ends a response counts.

        Raises:
            ScoringError: A sum is not a finite number.
        """
        ...


class RewardProxy(Protocol):
    """One client's reward model."""

    @property
    def client_name(self) -> str:
        """Public name of the client."""
        ...

    def rewards(
        self, pairs: Sequence[PromptAndResponse], *, max_batch_tokens: int, on_progress: OnProgress
    ) -> list[float]:
        """Return each response's reward after its prompt, under the client's own instruction.

        Args:
            pairs: Each prompt with a response to it.
            max_batch_tokens: Tokens, padding included, that go through the model at once.
            on_progress: Told how many pairs are done, of how many.

        Returns:
            One reward a pair, in the order of `pairs`, on a scale that is this client's own.

        Raises:
            ScoringError: One of them is not a finite number.
        """
        ...


class ModelWriter:
    """A model, with or without an adapter, as a `Writer`; it is loaded when first needed."""

    def __init__(
        self,
        model: SampledModel,
        *,
        num_threads: int | None,
        engine_cache: Path,
        made_of: tuple[Path, ...] = (),
    ) -> None:
        """Say how to come by the model; nothing is written or loaded yet.

        Args:
            model: The model.
            num_threads: CPU threads for sampling; None leaves it to the engine.
            engine_cache: Where a sampling engine keeps its form of the model.
            made_of: Folders of weights that it is made of, where stages that it is given to are
                to be shared among runs.
        """
        self.fingerprint = made_of or None
        self._model = model
        self._num_threads = num_threads
        self._engine_cache = engine_cache

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer; an adapter has none of its own."""
        return load_tokenizer(self._model.base_folder)

    def chat_prefix(self, chat: Chat) -> Sequence[int]:
        """Return the token ids whose continuation is the assistant's next turn."""
        return render_prefix(self.tokenizer, chat)

    @contextmanager
    def sampler(self, *, engine: str) -> Iterator[Sampler]:
        """Hold the model in a sampling engine for the time of a `with` block."""
        sampler = open_sampler(
            self._model,
            engine=SamplingEngine(engine),
            num_threads=self._num_threads,
            cache_folder=self._engine_cache,
        )
        try:
            yield sampler
        finally:
            sampler.close()
            gc.collect()


class ClientProxies:
    """One client's admitted generator and reward proxy, on the base model they share."""

    def __init__(
        self,
        generator: AdmittedRelease,
        reward: AdmittedRelease,
        *,
        base_folder: Path,
        work_folder: Path,
        max_prompt_tokens: int,
        max_response_tokens: int,
        num_threads: int | None = None,
        vllm_url: str | None = None,
    ) -> None:
        """Put a client's two releases together; nothing is loaded yet.

        Args:
            generator: The admitted generator proxy.
            reward: The admitted reward proxy of the same client.
            base_folder: The base model that both were trained on.
            work_folder: Where the merged generator and an engine's form of it are kept.
            max_prompt_tokens: A longer prompt is cut before it is answered or scored.
            max_response_tokens: A longer response is cut before it is scored.
            num_threads: CPU threads; None leaves it to the libraries.
            vllm_url: Address of a vLLM server that holds the base model, where one is used.
        """
        assert generator.client_name == reward.client_name
        self._generator = generator
        self._reward = reward
        self._base_folder = base_folder
        self._work_folder = work_folder
        self._max_prompt_tokens = max_prompt_tokens
        self._max_response_tokens = max_response_tokens
        self._num_threads = num_threads
        self._vllm_url = vllm_url

    @property
    def client_name(self) -> str:
        """Public name of the client."""
        return self._generator.client_name

    @property
    def instruction(self) -> str:
        """The client's public description of its domain."""
        return self._generator.instruction

    @property
    def untuned(self) -> Hashable:
        """What `token_losses` asks without the adapter; clients that share it get one answer."""
        limits = (self._max_prompt_tokens, self._max_response_tokens)
        return (self._base_folder, self.instruction, *limits)

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """All that decides what the proxies write and think (`server_side/shared_stages.py`)."""
        releases = (self._generator, self._reward)
        return (
            self.client_name,
            self.instruction,
            *((item.certificate.weights_digest, item.lora) for item in releases),
            self._base_folder,
            self._max_prompt_tokens,
            self._max_response_tokens,
        )

    def prompt_prefix(self, examples: Sequence[str] = ()) -> Sequence[int]:
        """Return the token ids whose continuation is a prompt, after examples of prompts if any."""
        return prompt_prefix(self._tokenizer, few_shot_instruction(self.instruction, examples))

    def response_prefix(self, prompt: str) -> Sequence[int]:
        """Return the token ids whose continuation is a response, the prompt cut as in scoring."""
        return self._encode(prompt).response_prefix

    def chat_prefix(self, chat: Chat) -> Sequence[int]:
        """Return the token ids whose continuation is the assistant's next turn."""
        return render_prefix(self._tokenizer, chat)

    @contextmanager
    def sampler(self, *, engine: str) -> Iterator[Sampler]:
        """Hold the generator in a sampling engine for the time of a `with` block."""
        digest = self._generator.certificate.weights_digest[:16]
        adapter = (self._base_folder, self._generator.weights, self._generator.lora)
        model = SampledModel(
            base_folder=self._base_folder,
            write_merged=partial(
                merge_adapter, *adapter, out_folder=self._work_folder / f"generator-{digest}"
            ),
            write_adapter=partial(
                write_peft_folder, *adapter, out_folder=self._work_folder / f"adapter-{digest}"
            ),
            vllm_url=self._vllm_url,
        )
        writer = ModelWriter(
            model, num_threads=self._num_threads, engine_cache=self._work_folder / "engines"
        )
        with writer.sampler(engine=engine) as sampler:
            yield sampler

    def perplexities(
        self, pairs: Sequence[PromptAndResponse], *, max_batch_tokens: int, on_progress: OnProgress
    ) -> list[float]:
        """Return each response's perplexity after its prompt, under the generator."""
        model = self._load_generator(with_adapter=True)
        return self._ask(
            lambda chats: response_perplexities(
                model, chats, max_batch_tokens=max_batch_tokens, on_progress=on_progress
            ),
            pairs,
        )

    def token_losses(
        self,
        pairs: Sequence[PromptAndResponse],
        *,
        with_adapter: bool,
        max_batch_tokens: int,
        on_progress: OnProgress,
    ) -> list[tuple[float, int]]:
        """Return each response's summed negative log-likelihood in nats, and its number of tokens.

        Without the adapter it is the base model that answers.
        """
        model = self._load_generator(with_adapter=with_adapter)

        def ask(chats: Sequence[EncodedChat]) -> list[tuple[float, int]]:
            sums = response_nll_sums(
                model, chats, max_batch_tokens=max_batch_tokens, on_progress=on_progress
            )
            spans = (chat.response_span for chat in chats)
            return [(nll, stop - start) for nll, (start, stop) in zip(sums, spans, strict=True)]

        return self._ask(ask, pairs)

    def rewards(
        self, pairs: Sequence[PromptAndResponse], *, max_batch_tokens: int, on_progress: OnProgress
    ) -> list[float]:
        """Return each response's reward after its prompt, under the client's own instruction."""
        device = best_device()
        model = load_reward_model(
            self._base_folder,
            self._reward.weights,
            self._reward.lora,
            dtype=fastest_dtype(device),
            device=device,
        )
        return self._ask(
            lambda chats: score_chats(
                model, chats, max_batch_tokens=max_batch_tokens, on_progress=on_progress
            ),
            pairs,
        )

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._base_folder)

    def _load_generator(self, *, with_adapter: bool) -> PreTrainedModel | PeftModel:
        device = best_device()
        base = load_causal_lm(self._base_folder, dtype=fastest_dtype(device), device=device)
        if not with_adapter:
            return base
        return load_adapter(base, self._generator.weights, self._generator.lora)

    def _ask(
        self,
        question: Callable[[Sequence[EncodedChat]], list[T]],
        pairs: Sequence[PromptAndResponse],
    ) -> list[T]:
        chats = [self._encode(prompt, response) for prompt, response in pairs]
        with torch_threads(self._num_threads):
            return question(chats)

    def _encode(self, prompt: str, response: str = "") -> EncodedChat:
        return encode_chat(
            self._tokenizer,
            instruction=self.instruction,
            prompt=prompt,
            response=response,
            max_prompt_tokens=self._max_prompt_tokens,
            max_response_tokens=self._max_response_tokens,
        )


def sampling_params(config: SamplingConfig, *, num_candidates: int = 1) -> SamplingParams:
    """Turn the settings of a stage into what a sampling engine takes."""
    return SamplingParams(
        max_new_tokens=config.max_new_tokens,
        num_candidates=num_candidates,
        temperature=config.temperature,
        top_p=config.top_p,
        repetition_penalty=config.repetition_penalty,
    )
