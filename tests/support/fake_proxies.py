"""Proxies that need no model: they write what a test tells them to, and judge by a formula."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lm.sampling import Completion, Progress, SamplingParams
from protocol.prompts import Chat
from server_side.proxies import PromptAndResponse
from server_side.samples import OnProgress

Write = Callable[[str, random.Random], str | None]
"""What to write after a text, by chance; None never ends, and `CUT` is where the limit was."""

CUT = "✂"

WORDS = (
    *("rest", "water", "fever", "cough", "sleep", "walk"),
    *("call", "nurse", "pill", "ice", "heat", "salt"),
)


def write_words(text: str, rng: random.Random) -> str:
    """Write a few words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(4, 9)))


class TextSampler:
    """Continues text, which prefixes spell out character by character."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self.params: list[SamplingParams] = []

    def sample(
        self,
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        salts: Sequence[str] | None = None,
        on_progress: Progress | None = None,
    ) -> list[list[Completion]]:
        self.params.append(params)
        rows = []
        for index, prefix in enumerate(prefixes):
            text = "".join(map(chr, prefix))
            rng = random.Random(f"{seed}/{index}/{text}")  # noqa: S311 - no secret
            texts = [self._write(text, rng) for _ in range(params.num_candidates)]
            rows.append(
                [
                    Completion(
                        token_ids=(),
                        text=(t or "on and on").removesuffix(CUT),
                        is_finished=t is not None and not t.endswith(CUT),
                    )
                    for t in texts
                ]
            )
        if on_progress:
            total = len(prefixes) * params.num_candidates
            on_progress(total, total)
        return rows

    def close(self) -> None:
        pass


class FakeProxies:
    """One client's generator and reward proxy."""

    def __init__(
        self,
        client_name: str = "clinic",
        *,
        write: Write = write_words,
        reward: Callable[[str, str], float] = lambda prompt, response: float(len(response)),
        perplexity: Callable[[str, str], float] = lambda prompt, response: 2.0,
    ) -> None:
        self.client_name = client_name
        self.instruction = f"Answer for {client_name}."
        self.untuned = self.instruction
        self.sampler_of = TextSampler(write)
        self.asked: list[str] = []
        self._reward = reward
        self._perplexity = perplexity

    def prompt_prefix(self, examples: Sequence[str] = ()) -> Sequence[int]:
        return tuple(map(ord, "\n".join([*examples, "prompt:"])))

    def response_prefix(self, prompt: str) -> Sequence[int]:
        return self.chat_prefix(
            [
                {"role": "system", "content": self.instruction},
                {"role": "user", "content": prompt},
            ]
        )

    def chat_prefix(self, chat: Chat) -> Sequence[int]:
        text = "\n".join(message["content"] for message in chat)
        self.asked.append(text)
        return tuple(map(ord, text))

    @contextmanager
    def sampler(self, *, engine: str) -> Iterator[TextSampler]:
        yield self.sampler_of

    def perplexities(
        self, pairs: Sequence[PromptAndResponse], *, max_batch_tokens: int, on_progress: OnProgress
    ) -> list[float]:
        on_progress(len(pairs), len(pairs))
        return [self._perplexity(*pair) for pair in pairs]

    def token_losses(
        self,
        pairs: Sequence[PromptAndResponse],
        *,
        with_adapter: bool,
        max_batch_tokens: int,
        on_progress: OnProgress,
    ) -> list[tuple[float, int]]:
        on_progress(len(pairs), len(pairs))
        losses = []
        for prompt, response in pairs:
            num_tokens = len(response.split())
            nll = math.log(self._perplexity(prompt, response)) * num_tokens
            losses.append((nll if with_adapter else 2 * nll, num_tokens))
        return losses

    def rewards(
        self, pairs: Sequence[PromptAndResponse], *, max_batch_tokens: int, on_progress: OnProgress
    ) -> list[float]:
        on_progress(len(pairs), len(pairs))
        return [self._reward(*pair) for pair in pairs]


def no_progress(done: int, total: int) -> None:
    """Watch nothing."""
