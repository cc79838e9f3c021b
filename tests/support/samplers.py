"""A sampler that needs no model: it says what a test tells it to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lm.sampling import Completion, Progress, SamplingParams


class FakeSampler:
    """Answers each prefix with `answer(prefix, number)`; remembers what it was asked."""

    def __init__(self, answer: Callable[[Sequence[int], int], tuple[int, ...]]) -> None:
        self._answer = answer
        self.asked: list[tuple[int, ...]] = []
        self.is_closed = False

    def sample(
        self,
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        on_progress: Progress | None = None,
    ) -> list[list[Completion]]:
        self.asked.extend(tuple(prefix) for prefix in prefixes)
        completions = [
            [
                Completion(token_ids=self._answer(prefix, n), text="", is_finished=True)
                for n in range(params.num_candidates)
            ]
            for prefix in prefixes
        ]
        if on_progress:
            total = len(prefixes) * params.num_candidates
            on_progress(total, total)
        return completions

    def close(self) -> None:
        self.is_closed = True
