"""The fastest engine on a CPU: OpenVINO GenAI with continuous batching.

A completion that ends makes room for the next at once, so the batch stays full until the end.
Requests are fed as token ids, with a seed of their own each.

Three habits of the library are corrected here. It returns the completions of a request sorted by
likelihood: they are put into a seeded random order, so that the first one is a fair draw. Its
repetition penalty counts what the sibling completions of a request have said: with a penalty each
completion is a request of its own. Its Python package brings telemetry: that module is kept from
being loaded, and the library then falls back to a stub of its own.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from lm.context import max_positions
from lm.devices import fastest_dtype
from lm.errors import SamplingError
from lm.gguf_writer import cached_gguf
from lm.leaving import use_own_stack_for_signals
from lm.loading import load_tokenizer
from lm.model_folders import check_model_folder
from lm.sampling import (
    Completion,
    Progress,
    SamplingParams,
    check_prefixes,
    prefix_seeds,
    stop_token_ids,
)

if "openvino" not in sys.modules:
    # A None makes the import fail, which the library is ready for.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino
import openvino_genai

# Completions of one request at most; more of them become several requests.
_MAX_REQUEST_COMPLETIONS = 32
_PRECISIONS = {torch.bfloat16: "bf16", torch.float32: "f32"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """Some completions of one prefix that are drawn together."""

    prefix_index: int
    candidates: tuple[int, ...]
    """Which completions of the prefix these are."""
    seed: int

    @property
    def num_candidates(self) -> int:
        """How many completions there are."""
        return len(self.candidates)


class OpenVinoSampler:
    """Samples from one loaded model; see `lm.sampling.Sampler`."""

    def __init__(
        self,
        pipeline: Any,  # openvino_genai ships no usable types
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: frozenset[int],
        max_positions: int,
        max_batch_rows: int,
        max_batch_tokens: int,
    ) -> None:
        """Wrap a loaded pipeline; `open` makes one from a model folder.

        Args:
            pipeline: An `openvino_genai.ContinuousBatchingPipeline`.
            tokenizer: The model's tokenizer, for the text of completions.
            stop_ids: Ids that end a completion, at least one.
            max_positions: Tokens that the model can hold, prefix and completion together.
            max_batch_rows: Completions that are computed side by side; those of one request, at
                most 32, are computed together even where this is less.
            max_batch_tokens: Bound on the tokens of all requests under way, each completion
                counted as if it were to reach `max_new_tokens`; one longer request still goes,
                alone.
        """
        self._pipeline = pipeline
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._max_positions = max_positions
        self._max_batch_rows = max_batch_rows
        self._max_batch_tokens = max_batch_tokens
        self._num_requests = 0

    @classmethod
    def open(
        cls,
        model_folder: Path,
        *,
        num_threads: int | None = None,
        cache_folder: Path | None = None,
        dtype: torch.dtype | None = None,
        max_batch_rows: int = 128,
        max_batch_tokens: int = 32_768,
    ) -> OpenVinoSampler:
        """Convert a model folder, or take the conversion from the cache, and load it.

        Args:
            model_folder: A checked model folder of a supported architecture.
            num_threads: CPU threads; None leaves it to the library.
            cache_folder: Where conversions are kept; None takes the user's cache folder.
            dtype: In what to compute and to keep keys and values; None takes the fastest.
            max_batch_rows: Completions that are computed side by side.
            max_batch_tokens: Bound on the tokens whose keys and values are held; the
                completions of one longer request are still computed.

        Raises:
            ModelFolderError: The folder holds no usable model.
            SamplingError: It cannot be converted or loaded.
        """
        check_model_folder(model_folder)
        tokenizer = load_tokenizer(model_folder)
        stop_ids = stop_token_ids(model_folder, tokenizer)
        file = cached_gguf(model_folder, stop_ids=stop_ids, cache_folder=cache_folder)
        precision = _PRECISIONS[dtype or fastest_dtype("cpu")]
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            # The default is 8 bits, which changes what is drawn.
            "KV_CACHE_PRECISION": precision,
        }
        if num_threads is not None:
            properties |= {"INFERENCE_NUM_THREADS": num_threads, "sampler_num_threads": num_threads}
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = max(max_batch_rows, _MAX_REQUEST_COMPLETIONS)
        scheduler.max_num_batched_tokens = 2048
        scheduler.enable_prefix_caching = False
        try:
            pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(file), scheduler, "CPU", properties
            )
        except RuntimeError as error:
            raise SamplingError(
                f"Expected OpenVINO to load the conversion of {model_folder}, got "
                f"{_last_line(error)!r}. Use engine=transformers, or delete "
                f"{file} to have it converted again."
            ) from error
        use_own_stack_for_signals()
        return cls(
            pipeline,
            tokenizer,
            stop_ids=stop_ids,
            max_positions=max_positions(AutoConfig.from_pretrained(model_folder)),
            max_batch_rows=max_batch_rows,
            max_batch_tokens=max_batch_tokens,
        )

    def sample(
        self,
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        salts: Sequence[str] | None = None,
        on_progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Sample continuations; see `lm.sampling.Sampler.sample`."""
        if self._pipeline is None:
            raise SamplingError("Expected an open sampler, found a closed one. Open it again.")
        check_prefixes(prefixes, params, max_positions=self._max_positions)
        seeds = prefix_seeds(prefixes, seed, salts)
        requests = [r for i, s in enumerate(seeds) for r in _requests(i, s, params)]
        drawn: list[dict[int, Completion]] = [{} for _ in prefixes]
        num_rows = len(prefixes) * params.num_candidates
        num_done = 0
        for request, completions in self._run(requests, prefixes, params):
            drawn[request.prefix_index] |= completions
            # Greedy completions are all the same, so one stands for all.
            num_done += params.num_candidates if params.greedy else request.num_candidates
            if on_progress is not None:
                on_progress(num_done, num_rows)
        return [
            [own[0 if params.greedy else c] for c in range(params.num_candidates)] for own in drawn
        ]

    def close(self) -> None:
        """Free the model."""
        self._pipeline = None
        use_own_stack_for_signals()

    def _run(
        self,
        requests: Sequence[_Request],
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> Iterator[tuple[_Request, dict[int, Completion]]]:
        """Feed requests as room appears; yield each with its completions when all have ended."""
        waiting = deque(requests)
        active: list[tuple[_Request, Any]] = []  # with its handle
        finished = openvino_genai.GenerationStatus.FINISHED
        running = openvino_genai.GenerationStatus.RUNNING
        try:
            while waiting or active:
                while waiting and self._has_room(waiting[0], active, prefixes, params):
                    request = waiting.popleft()
                    active.append((request, self._add(request, prefixes, params)))
                self._pipeline.step()
                still_active = []
                for request, handle in active:
                    status = handle.get_status()
                    if status == running:
                        still_active.append((request, handle))
                    elif status == finished:
                        yield request, self._completions(request, handle)
                    else:
                        raise SamplingError(
                            f"Expected OpenVINO to finish a request, got {status.name}. Lower "
                            "max_batch_tokens, or use engine=transformers."
                        )
                active = still_active
        except RuntimeError as error:
            # Privacy: the library's text may quote what it was given; of its error the type is
            # enough. REWARDDS_TRACEBACK=1 shows the rest to a server's operator.
            raise SamplingError(
                f"Expected OpenVINO to sample, got {type(error).__name__}. Use engine=transformers."
            ) from error
        finally:
            for _, handle in active:
                handle.cancel()

    def _has_room(
        self,
        request: _Request,
        active: Sequence[tuple[_Request, Any]],
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> bool:
        if not active:
            return True
        together = [request, *(other for other, _ in active)]
        num_rows = sum(r.num_candidates for r in together)
        num_tokens = sum(
            len(prefixes[r.prefix_index]) + r.num_candidates * params.max_new_tokens
            for r in together
        )
        return num_rows <= self._max_batch_rows and num_tokens <= self._max_batch_tokens

    def _add(
        self, request: _Request, prefixes: Sequence[Sequence[int]], params: SamplingParams
    ) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = params.max_new_tokens
        config.eos_token_id = min(self._stop_ids)
        config.stop_token_ids = set(self._stop_ids)
        config.repetition_penalty = params.repetition_penalty
        config.do_sample = not params.greedy
        if not params.greedy:
            config.num_return_sequences = request.num_candidates
            config.temperature = params.temperature
            config.top_p = params.top_p
            config.rng_seed = request.seed
        self._num_requests += 1
        ids = np.asarray([prefixes[request.prefix_index]], dtype=np.int64)
        return self._pipeline.add_request(self._num_requests, openvino.Tensor(ids), config)

    def _completions(self, request: _Request, handle: Any) -> dict[int, Completion]:
        completions = [self._completion(output.generated_ids) for output in handle.read_all()]
        random.Random(request.seed).shuffle(completions)  # noqa: S311 - an order, no secret
        return dict(zip(request.candidates, completions, strict=True))

    def _completion(self, ids: Sequence[int]) -> Completion:
        is_finished = bool(ids) and ids[-1] in self._stop_ids
        kept = tuple(ids[:-1] if is_finished else ids)
        text = self._tokenizer.decode(
            list(kept), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Completion(token_ids=kept, text=str(text), is_finished=is_finished)


def _requests(prefix_index: int, seed: int, params: SamplingParams) -> list[_Request]:
    if params.greedy:
        return [_Request(prefix_index=prefix_index, candidates=(0,), seed=0)]
    size = 1 if params.repetition_penalty != 1.0 else _MAX_REQUEST_COMPLETIONS
    requests = []
    for start in range(0, params.num_candidates, size):
        stop = min(start + size, params.num_candidates)
        # The library's random numbers take a seed of 32 bits.
        own_seed = random.Random(seed + start).getrandbits(32)  # noqa: S311 - no secret
        requests.append(
            _Request(prefix_index=prefix_index, candidates=tuple(range(start, stop)), seed=own_seed)
        )
    return requests


def _last_line(error: RuntimeError) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
