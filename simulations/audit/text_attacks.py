"""Attacks by those who see synthetic text only, as a reader of the published data set does.

The text is what the server's own synthesis stages write with the admitted generator. Two attackers
look for a canary's echo in it: a bigram model of the text, and a language model tuned on it.

Reference: Meeus et al., "The Canary's Echo" (ICML 2025), for the bigram attacker; arXiv 2606.10481
for the auxiliary model tuned on the synthetic text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from nltk.lm import Laplace
from nltk.util import bigrams

from lm.encoding import EncodedChat
from lm.likelihood import response_nll_sums
from server_side.config import FinetuningConfig, SynthesisConfig
from server_side.config.finetuning import Objective
from server_side.finetuning import finetune_target
from server_side.proxies import GeneratorProxy
from server_side.public_texts import read_public_prompts
from server_side.samples import Candidate, CuratedSample, OnProgress, Query
from server_side.synthesis import propose_candidates, synthesize_queries
from server_side.tuning.tuned_target import load_tuned_target


def synthesize_text(
    generator: GeneratorProxy, *, config: SynthesisConfig, seed: int, on_progress: OnProgress
) -> tuple[CuratedSample, ...]:
    """Write synthetic prompts and responses, as the server does.

    Args:
        generator: The admitted generator.
        config: How much, and how drawn.
        seed: Seed of the draws.
        on_progress: Told how much is sampled, of how much.

    Returns:
        One sample a response; nothing is filtered, so that the attacker sees all there is.

    Raises:
        StageError: The generator writes nothing usable.
    """
    queries = synthesize_queries(
        [generator],
        config=config,
        public_prompts=read_public_prompts(config),
        seed=seed,
        on_progress=on_progress,
    )
    candidates = propose_candidates(
        queries.values, [generator], config=config, seed=seed, on_progress=on_progress
    )
    prompts = {query.query_id: query for query in queries.values}
    return tuple(
        _as_sample(prompts[candidate.query_id], candidate, instruction=generator.instruction)
        for candidate in candidates.values
    )


def bigram_scores(*, chats: Sequence[EncodedChat], synthetic: Sequence[EncodedChat]) -> list[float]:
    """Score canaries by how well a bigram model of the synthetic text predicts their responses.

    Args:
        chats: The canaries.
        synthetic: The synthetic text.

    Returns:
        Mean log-probability of a canary's tokens given the one before, less that without it, in
        bits, (m,): rare tokens count by where they stand, not by being rare.
    """
    model = Laplace(2)
    texts = [_words((*chat.prompt_ids, *chat.response_ids)) for chat in synthetic]
    # From the prompt's last token on, so that a response of a single token has one bigram.
    responses = [_words((*chat.prompt_ids[-1:], *chat.response_ids)) for chat in chats]
    model.fit(
        ([*bigrams(text), *((word,) for word in text)] for text in texts),
        vocabulary_text=[word for text in (*texts, *responses) for word in text],
    )
    scores = []
    for response in responses:
        gains = [model.logscore(b, [a]) - model.logscore(b) for a, b in bigrams(response)]
        scores.append(sum(gains) / max(1, len(gains)))
    return scores


def auxiliary_scores(
    chats: Sequence[EncodedChat],
    synthetic: Sequence[CuratedSample],
    *,
    base_folder: Path,
    work_folder: Path,
    config: FinetuningConfig,
    seed: int,
    on_progress: OnProgress,
) -> list[float]:
    """Score canaries by how much likelier a model tuned on the synthetic text finds them.

    Args:
        chats: The canaries.
        synthetic: The synthetic text.
        base_folder: Folder of the model to tune, here the base model.
        work_folder: Where the tuned model goes.
        config: How to tune.
        seed: Seed of the tuning.
        on_progress: Told how many steps are done, of how many.

    Returns:
        Gain in log-likelihood of each response, in nats, (m,).
    """
    tuned = finetune_target(
        synthetic,
        target_folder=base_folder,
        previous=None,
        # A sample has one answer, and nothing to prefer it to.
        config=replace(config, objective=Objective.SFT.value),
        output_folder=work_folder,
        seed=seed,
        round_index=1,
        on_progress=on_progress,
    )
    before, after = (
        response_nll_sums(
            load_tuned_target(base_folder, folder, dtype=torch.float32, device="cpu"), chats
        )
        for folder in (None, tuned.folder)
    )
    return [a - b for a, b in zip(before, after, strict=True)]


def _words(ids: Sequence[int]) -> list[str]:
    return [str(token) for token in ids]


def _as_sample(query: Query, candidate: Candidate, *, instruction: str) -> CuratedSample:
    return CuratedSample(
        query_id=candidate.candidate_id,
        client_name=query.client_name,
        instruction=instruction,
        prompt=query.prompt,
        chosen=candidate.response,
        rejected="",
        chosen_candidate_id=candidate.candidate_id,
        rejected_candidate_id="",
        chosen_reward=0.0,
        rejected_reward=0.0,
        chosen_perplexity=1.0,
        round_index=candidate.round_index,
    )
