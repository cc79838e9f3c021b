"""Stage 0, off by default: starting weights for the proxies, tuned on public text.

No private record has any part in it, so it costs no privacy; a client that takes such weights
checks them like anything that arrives (`client_side/warm_start.py`), starts DP-SGD from them, and
states their digest in its certificate, which admission compares with what was sent. What the public
text brings is no merit of the method: compare a warm start with a warm start.

The generator learns prompt and response tokens; the reward proxy that a public response is better
than one that the base model wrote to the same prompt. Only B is tuned, whether or not the client
trains A: what DP-SGD's noise in B does to the model goes through A, and an A that is fitted to text
carries it to where it does most harm (`docs/decisions/0017-public-warm-start.md`).

Rows that repeat a prompt of the test set fall: a proxy that had learnt its answers would hand them
on to the target. Weights are kept in the run folder (`server_side/exchange/starts.py`), so an
exchange that starts anew sends what it sent before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lm.adapters import adapter_tensors, attach_lora, freeze_a
from lm.devices import best_device, fastest_dtype
from lm.encoding import EncodedChat, encode_chat, response_end_id
from lm.likelihood import span_nll
from lm.loading import load_causal_lm, load_tokenizer
from lm.model_folders import base_model_digest
from lm.packing import PackedRow
from lm.reward_head import build_reward_model, reward_tensors, rewards_of
from lm.sampling import SamplingEngine, SamplingParams, open_sampler
from lm.tables import TextRow
from lm.threads import torch_threads
from protocol.artifacts import AdapterWeights, LoraShape
from protocol.errors import StageError
from protocol.ledger import ProxyKind
from protocol.messages import Request, TrainingRequest, WarmTrainingRequest
from server_side.config import ServerConfig, WarmStartConfig
from server_side.exchange.starts import (
    StartShapes,
    cached_start,
    forget_start_progress,
    misfit,
    note_start_progress,
)
from server_side.public_texts import PublicText, read_public_text
from server_side.samples import OnProgress
from server_side.seeds import derive_seed

_LOGGER = logging.getLogger(__name__)

_ADAPTER_SEED: Final = 0
_SIGN_OF_LIFE_SECONDS: Final = 5.0
"""Flower fails a ServerApp that it has not heard of for a minute."""

T = TypeVar("T")
OnPhase = Callable[[str, int, int], None]
"""Told the phase of a work, and what is done of how much."""


def train_start(
    proxy: ProxyKind,
    lora: LoraShape,
    *,
    rows: Sequence[TextRow],
    base_folder: Path,
    config: WarmStartConfig,
    seed: int,
    num_threads: int | None = None,
    on_progress: OnPhase = lambda _phase, _done, _total: None,
) -> AdapterWeights:
    """Tune starting weights on public text.

    Args:
        proxy: Which proxy they are for.
        lora: Shape of the client's adapter, from its hello.
        rows: The text; `max_rows` of it are used, drawn evenly.
        base_folder: Folder of the base model.
        config: Lengths and the optimiser.
        seed: Seed of rows, batches and sampled responses.
        num_threads: CPU threads to use; None leaves it to the libraries.
        on_progress: Told the phase, `sampling` or `training`, and what is done of how much.

    Returns:
        Adapter, and for the reward proxy its head.

    Raises:
        StageError: Training did not stay finite.
    """
    chats = _draw_chats(rows, base_folder, config, seed=seed)
    _LOGGER.info("Tuning starting weights for the %s proxy on %d rows.", proxy.value, len(chats))
    rng = np.random.default_rng(seed)
    dtype, device = fastest_dtype(best_device()), best_device()
    sampled, tuned = partial(on_progress, "sampling"), partial(on_progress, "training")
    with torch_threads(num_threads):
        if proxy is ProxyKind.GENERATOR:
            base = load_causal_lm(base_folder, dtype=dtype, device=device)
            generator = attach_lora(base, lora, seed=_ADAPTER_SEED)
            freeze_a(generator)
            _fit(
                generator,
                chats,
                lambda batch: _text_loss(generator, batch),
                config=config,
                rng=rng,
                on_progress=tuned,
            )
            tensors = adapter_tensors(generator)
        else:
            pairs = _pairs(
                base_folder, chats, config, seed=seed, num_threads=num_threads, on_progress=sampled
            )
            reward = build_reward_model(
                base_folder, lora, seed=_ADAPTER_SEED, dtype=dtype, device=device
            )
            freeze_a(reward.adapted)

            def pair_loss(batch: Sequence[PackedRow]) -> torch.Tensor:
                rewards = rewards_of(reward, batch)  # (B, 2)
                return functional.softplus(rewards[:, 1] - rewards[:, 0]).mean()

            _fit(reward, pairs, pair_loss, config=config, rng=rng, on_progress=tuned)
            tensors = reward_tensors(reward)
    weights = AdapterWeights(tensors=tensors)
    if not weights.is_finite():
        raise StageError(
            "Expected finite starting weights, found some that are not. Lower "
            "server_side.warm_start.learning_rate."
        )
    return weights


def with_starts(
    request: TrainingRequest,
    clients: Mapping[int, tuple[str, StartShapes]],
    *,
    config: ServerConfig,
    base_folder: Path,
    run_folder: Path,
    on_waiting: Callable[[], object],
) -> dict[int, Request]:
    """Add starting weights, tuned on the public text, for the clients that take some.

    Args:
        request: What everybody is asked.
        clients: Name of each client that is asked, and which shapes it takes.
        config: The server's settings.
        base_folder: Folder of the base model.
        run_folder: The server's run folder, where the weights are kept.
        on_waiting: Called every few seconds while weights are tuned.

    Returns:
        One request a client.

    Raises:
        ConfigurationError: No test records are named, or weights are kept that other settings,
            text or base model made.
        TableError: The public text or the test records cannot be read.
        StageError: All text stands in the test set, or training did not stay finite.
    """
    text = read_public_text(config)
    origin = _origin(text, config=config, base_folder=base_folder)
    trained: dict[LoraShape, AdapterWeights] = {}

    def train(proxy: ProxyKind, lora: LoraShape) -> AdapterWeights:
        if lora not in trained:
            try:
                trained[lora] = _in_thread(
                    lambda: train_start(
                        proxy,
                        lora,
                        rows=text.rows,
                        base_folder=base_folder,
                        config=config.warm_start,
                        seed=derive_seed(config.seed, f"warm_start_{proxy.value}"),
                        num_threads=config.num_threads,
                        on_progress=partial(note_start_progress, run_folder, proxy),
                    ),
                    on_waiting,
                )
            finally:
                forget_start_progress(run_folder)
        return trained[lora]

    requests: dict[int, Request] = {}
    for client_id, (name, shapes) in clients.items():
        lora = shapes[request.proxy]
        requests[client_id] = request
        if lora is None:
            _LOGGER.warning("%s takes no starting weights and starts fresh.", name)
            continue
        reason = misfit(
            lora,
            request.proxy,
            base_folder=base_folder,
            max_bytes=config.admission.max_release_bytes,
        )
        if reason is not None:  # the others' exchange does not end with it
            _LOGGER.warning("%s gets no starting weights and starts fresh. %s", name, reason)
            continue
        start = cached_start(
            name,
            request.proxy,
            lora,
            base_folder=base_folder,
            run_folder=run_folder,
            origin=origin,
            counts=text.counts,
            train=train,
        )
        requests[client_id] = WarmTrainingRequest(
            request=replace(request, start_digest=start.digest()), start=start
        )
    return requests


def _in_thread(work: Callable[[], T], on_waiting: Callable[[], object]) -> T:
    """Do long work in a thread and give signs of life: Flower fails a silent ServerApp."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        result = pool.submit(work)
        while wait([result], timeout=_SIGN_OF_LIFE_SECONDS).not_done:
            on_waiting()
        return result.result()


def _origin(text: PublicText, *, config: ServerConfig, base_folder: Path) -> dict[str, object]:
    """Return all that decides starting weights of a shape, by the names that a user knows."""
    settings = {f"warm_start.{name}": value for name, value in asdict(config.warm_start).items()}
    del settings["warm_start.path"]  # a file that moved is the same text
    return {
        **settings,
        "text": text.digest,
        "base_model": base_model_digest(base_folder),
        "seed": config.seed,
    }


def _draw_chats(
    rows: Sequence[TextRow], base_folder: Path, config: WarmStartConfig, *, seed: int
) -> list[EncodedChat]:
    order = np.random.default_rng(seed).permutation(len(rows))[: config.max_rows]
    tokenizer = load_tokenizer(base_folder)
    return [
        encode_chat(
            tokenizer,
            instruction=config.instruction,
            prompt=rows[i].prompt,
            response=rows[i].response,
            max_prompt_tokens=config.max_prompt_tokens,
            max_response_tokens=config.max_response_tokens,
        )
        for i in order
    ]


def _text_loss(model: nn.Module, chats: Sequence[EncodedChat]) -> torch.Tensor:
    spans = [(chat.prompt_span[0], chat.response_span[1]) for chat in chats]
    nll, _ = span_nll(model, [chat.input_ids for chat in chats], spans)
    return nll.mean()


def _pairs(
    base_folder: Path,
    chats: Sequence[EncodedChat],
    config: WarmStartConfig,
    *,
    seed: int,
    num_threads: int | None,
    on_progress: OnProgress,
) -> list[PackedRow]:
    engine = SamplingEngine(config.engine)
    with closing(open_sampler(base_folder, engine=engine, num_threads=num_threads)) as sampler:
        completions = sampler.sample(
            [chat.response_prefix for chat in chats],
            SamplingParams(max_new_tokens=config.max_response_tokens, top_p=0.9),
            seed=derive_seed(seed, "rejected"),
            on_progress=on_progress,
        )
    ended = (response_end_id(load_tokenizer(base_folder)),)
    # Both are ended, also where they were cut: the reward is not to learn which were.
    return [
        PackedRow(
            prefix=chat.response_prefix,
            tails=(
                chat.response_ids + ended,
                tuple(row[0].token_ids) + ended,
            ),
            members=(0, 1),
        )
        for chat, row in zip(chats, completions, strict=True)
    ]


def _fit(
    model: nn.Module,
    items: Sequence[T],
    loss_of: Callable[[Sequence[T]], torch.Tensor],
    *,
    config: WarmStartConfig,
    rng: np.random.Generator,
    on_progress: OnProgress,
) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    model.train()
    for step in range(1, config.steps + 1):
        batch = rng.choice(len(items), size=min(config.batch_size, len(items)), replace=False)
        optimizer.zero_grad(set_to_none=True)
        loss_of([items[i] for i in batch]).backward()
        optimizer.step()
        on_progress(step, config.steps)
    model.eval()
