"""Samplers that need no model: what a test tells them to say, or what their seeds say."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from lm.sampling import Completion, Progress, SamplingParams, prefix_seeds


class FakeSampler:
    """Answers each prefix with `answer(prefix, number)`; remembers what it was asked."""

    def __init__(
        self,
        answer: Callable[[Sequence[int], int], tuple[int, ...]],
        *,
        is_finished: bool = True,
    ) -> None:
        self._answer = answer
        self._is_finished = is_finished
        self.asked: list[tuple[int, ...]] = []
        self.is_closed = False

    def sample(
        self,
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        salts: Sequence[str] | None = None,
        on_progress: Progress | None = None,
    ) -> list[list[Completion]]:
        self.asked.extend(tuple(prefix) for prefix in prefixes)
        seeds = prefix_seeds(prefixes, seed, salts)
        completions = [
            [
                Completion(
                    token_ids=self.answer(prefix, n, own), text="", is_finished=self._is_finished
                )
                for n in range(params.num_candidates)
            ]
            for prefix, own in zip(prefixes, seeds, strict=True)
        ]
        if on_progress:
            total = len(prefixes) * params.num_candidates
            on_progress(total, total)
        return completions

    def answer(self, prefix: Sequence[int], number: int, seed: int) -> tuple[int, ...]:
        """Say what comes after a prefix."""
        return self._answer(prefix, number)

    def close(self) -> None:
        self.is_closed = True


class SeededSampler(FakeSampler):
    """Answers by the random numbers of a prefix, derived as the engines derive them."""

    def __init__(self) -> None:
        super().__init__(lambda prefix, number: ())

    def answer(self, prefix: Sequence[int], number: int, seed: int) -> tuple[int, ...]:
        """Draw four token ids."""
        rng = random.Random(f"{seed}/{number}")  # noqa: S311 - no secret
        return tuple(rng.choices(range(300), k=4))
