"""Stages 7 and 8: prompts from the clients' generators, and responses to each of them.

A client's generator continues the opening of a user turn, which gives a prompt, and later that
prompt's chat, which gives a response. Both start from released models alone, so all of it is free
of privacy cost. What falls is counted by reason: text that never ended, too short or too long a
text, a repetition, a prompt of the public test set (the test set stays whole, so that all arms of a
comparison are judged on the same records).

The operator may name public prompts, which then come first, or are shown to the generators as
examples (`server_side/public_prompts.py`).

Reference: RewardDS (arXiv 2502.18517), section 3.2: temperature 1.0, top-p 0.7, six responses a
query. Beyond it: several clients, whose generators write a configured share of the prompts each.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from lm.sampling import Completion, Sampler
from lm.sentences import whole_sentences
from lm.tables import normalise_prompt
from protocol.errors import ConfigurationError, StageError
from server_side.config import PublicPromptsUse, SynthesisConfig, WhenCut
from server_side.proxies import GeneratorProxy, sampling_params
from server_side.public_prompts import (
    draw_public,
    example_sets,
    unusable_text,
    usable_examples,
)
from server_side.samples import (
    Candidate,
    CandidateOrigin,
    OnProgress,
    PromptOrigin,
    Query,
    StageResult,
)
from server_side.seeds import derive_seed

_LOGGER = logging.getLogger(__name__)
_REMEDIES: Final = {
    "num_unfinished": "Raise synthesis.response_sampling.max_new_tokens",
    "num_too_short": "Lower synthesis.min_response_words",
    "num_repeated": "Raise synthesis.response_sampling.temperature or its top_p",
}


def synthesize_queries(
    generators: Sequence[GeneratorProxy],
    *,
    config: SynthesisConfig,
    seed: int,
    on_progress: OnProgress,
    test_prompts: Iterable[str] = (),
    public_prompts: Sequence[str] = (),
) -> StageResult[Query]:
    """Sample distinct prompts from each client's generator until there are enough.

    Public prompts, where there are any, take the place of sampled ones: as many as fit, drawn
    evenly, shared out among the clients like the rest. Or each prompt is sampled after a few of
    them, as `public_prompts_use` says.

    Args:
        generators: One generator a client.
        config: How many, how drawn, and which lengths pass.
        seed: Seed of the draws.
        on_progress: Told how many prompts were sampled, of how many it will probably take.
        test_prompts: Prompts that the target is judged on; whatever repeats one falls.
        public_prompts: Prompts that are free to use.

    Returns:
        Queries, the public ones first, then client by client. There are fewer than `num_queries`
        where `max_attempts_factor` ended the asking; that is logged and can be seen in the counts.

    Raises:
        ConfigurationError: `client_weights` gives these clients nothing.
        StageError: Fewer prompts than `min_yield` asks for are usable, or none is, or there are
            too few public prompts to show or none to answer.
    """
    counts: Counter[str] = Counter(num_sampled=0)
    tested = frozenset(map(normalise_prompt, test_prompts))
    seen: set[str] = set()
    queries: list[Query] = []
    names = [generator.client_name for generator in generators]
    public: list[str] = []
    examples: list[str] = []
    if config.public_prompts_use == PublicPromptsUse.FEW_SHOT:
        examples = usable_examples(public_prompts, config, seen=seen, tested=tested, counts=counts)
    else:
        public = draw_public(
            public_prompts, config, seed=seed, seen=seen, tested=tested, counts=counts
        )
    origin = PromptOrigin.FEW_SHOT if examples else PromptOrigin.GENERATOR
    shares = client_quotas(names, config, num_queries=len(public))
    owners = [name for name, share in shares.items() for _ in range(share)]
    for name, prompt in zip(owners, public, strict=True):
        queries.append(_query(queries, prompt, name, PromptOrigin.PUBLIC))
    num_awaited = config.num_queries - len(public)  # from the clients whose turn has not come
    quotas = client_quotas(names, config, num_queries=num_awaited)
    for generator in generators:
        quota = quotas[generator.client_name]
        if quota == 0:
            continue
        done = len(queries)
        num_awaited -= quota
        with generator.sampler(engine=config.engine) as sampler:
            prompts = _distinct_prompts(
                generator,
                sampler,
                config=config,
                examples=examples,
                quota=quota,
                seed=derive_seed(seed, generator.client_name),
                seen=seen,
                tested=tested,
                counts=counts,
                num_awaited=num_awaited,
                on_progress=on_progress,
            )
            for prompt in prompts:
                queries.append(_query(queries, prompt, generator.client_name, origin))
        if len(queries) - done < quota:
            _LOGGER.warning(
                "Client %s: %d of %d prompts after synthesis.max_attempts_factor=%g.",
                generator.client_name,
                len(queries) - done,
                quota,
                config.max_attempts_factor,
            )
    num_needed = max(1, math.ceil(config.min_yield * config.num_queries))
    if len(queries) < num_needed:
        raise StageError(
            f"Expected the generators to write at least {num_needed} distinct, usable prompts "
            f"(synthesis.min_yield={config.min_yield:g}), found {len(queries) or 'none'} "
            f"({_spelled_out(counts)}). Where most were repeated, the generators repeat "
            "themselves: raise prompt_sampling.temperature or top_p. Otherwise raise "
            "prompt_sampling.max_new_tokens, or widen synthesis.min_prompt_words and "
            "max_prompt_words; if that does not help, the generators have learnt too little."
        )
    return StageResult(values=tuple(queries), counts={**counts, "num_kept": len(queries)})


def propose_candidates(
    queries: Sequence[Query],
    generators: Sequence[GeneratorProxy],
    *,
    config: SynthesisConfig,
    seed: int,
    on_progress: OnProgress,
) -> StageResult[Candidate]:
    """Sample responses to each query from the generator of its own client.

    Args:
        queries: What to answer.
        generators: One generator a client.
        config: How many responses, how drawn, and which lengths pass.
        seed: Seed of the draws.
        on_progress: Told how many responses were sampled, of how many.

    Returns:
        Ended, distinct responses, in the order of the queries. A query of which fewer than two
        are left has none, because there is nothing to compare.

    Raises:
        StageError: No query is left.
    """
    counts: Counter[str] = Counter(num_queries=len(queries), num_sampled=0)
    responses: dict[str, list[str]] = {}
    total = len(queries) * config.num_candidates
    for generator in generators:
        own = [query for query in queries if query.client_name == generator.client_name]
        if not own:
            continue
        done = counts["num_sampled"]
        prefixes = [generator.response_prefix(query.prompt) for query in own]
        with generator.sampler(engine=config.engine) as sampler:
            completions = sampler.sample(
                prefixes,
                sampling_params(config.response_sampling, num_candidates=config.num_candidates),
                seed=derive_seed(seed, generator.client_name),
                on_progress=lambda n, _, done=done: on_progress(done + n, total),  # type: ignore[misc]
            )
        for query, drawn in zip(own, completions, strict=True):
            responses[query.query_id] = usable_responses(
                drawn,
                min_words=config.min_response_words,
                when_cut=WhenCut(config.when_cut),
                counts=counts,
            )
    candidates: list[Candidate] = []
    for query in queries:
        texts = responses[query.query_id]
        if len(texts) < 2:
            counts["num_queries_too_few_candidates"] += 1
            counts["num_without_rival"] += len(texts)
            continue
        candidates += number_candidates(
            texts, query_id=query.query_id, round_index=1, origin=CandidateOrigin.GENERATOR
        )
    if not candidates:
        raise StageError(
            "Expected at least one query with two ended, distinct responses, found none "
            f"({_spelled_out(counts)}). {_REMEDIES[_most_often(counts)]}, or raise "
            "synthesis.num_candidates; if that does not help, the generators have learnt too "
            "little."
        )
    return StageResult(values=tuple(candidates), counts={**counts, "num_kept": len(candidates)})


def usable_responses(
    completions: Iterable[Completion],
    *,
    min_words: int,
    when_cut: WhenCut,
    counts: Counter[str],
    known: Iterable[str] = (),
) -> list[str]:
    """Return the ended, distinct and long enough texts among completions of one query.

    Args:
        completions: What was sampled.
        min_words: A shorter text falls.
        when_cut: What becomes of a text that the limit cut.
        counts: Where samples, and those that fall, are counted by reason.
        known: Texts that the query has already; to write one again is a repetition.

    Returns:
        The texts, in the order in which they were sampled.
    """
    texts: dict[str, str] = {}
    known_texts = {normalise_prompt(text) for text in known}
    for completion in completions:
        counts["num_sampled"] += 1
        text = ended_text(completion, when_cut=when_cut, counts=counts)
        if text is None:
            continue
        normalised = normalise_prompt(text)
        if len(text.split()) < min_words:
            counts["num_too_short"] += 1
        elif normalised in texts or normalised in known_texts:
            counts["num_repeated"] += 1
        else:
            texts[normalised] = text
    return list(texts.values())


def ended_text(completion: Completion, *, when_cut: WhenCut, counts: Counter[str]) -> str | None:
    """Return a completion's text as far as it ended, None where it never did.

    Args:
        completion: What was sampled.
        when_cut: What becomes of a text that the limit cut.
        counts: Where those that never ended, and those that were trimmed, are counted.
    """
    if completion.is_finished:
        return completion.text.strip()
    text = whole_sentences(completion.text) if when_cut is WhenCut.TRIM else ""
    counts["num_trimmed" if text else "num_unfinished"] += 1
    return text or None


def number_candidates(
    texts: Sequence[str],
    *,
    query_id: str,
    round_index: int,
    origin: CandidateOrigin,
    lineage: tuple[str, ...] = (),
) -> list[Candidate]:
    """Give the responses to one query their names.

    Args:
        texts: The responses, in the order in which they are numbered, from 1.
        query_id: The query.
        round_index: Round in which they were written, from 1; part of the names.
        origin: Which model wrote them.
        lineage: Candidates that all of them were rewritten from, the generator's own first.

    Returns:
        One candidate a text.
    """
    return [
        Candidate(
            query_id=query_id,
            candidate_id=f"{query_id}-r{round_index}-c{index}",
            round_index=round_index,
            response=text,
            origin=origin,
            lineage=lineage,
        )
        for index, text in enumerate(texts, start=1)
    ]


def client_quotas(
    client_names: Sequence[str], config: SynthesisConfig, *, num_queries: int
) -> Mapping[str, int]:
    """Share prompts out among the clients, by largest remainders.

    Args:
        client_names: The clients whose generators were admitted.
        config: The clients' weights; those of clients that are not there fall to the others.
        num_queries: How many prompts, from 0.

    Returns:
        Prompts for each client; they add up to `num_queries`.

    Raises:
        ConfigurationError: No client that is there has a weight.
    """
    weights = dict.fromkeys(client_names, 1.0)
    if config.client_weights is not None:
        weights = {name: config.client_weights.get(name, 0.0) for name in client_names}
        if not sum(weights.values()) > 0:
            raise ConfigurationError(
                "Expected synthesis.client_weights to give weight to an admitted client "
                f"({', '.join(weights)}), found {config.client_weights}. Change the names or the "
                "weights."
            )
    total = sum(weights.values())
    exact = {name: num_queries * weight / total for name, weight in weights.items()}
    quotas = {name: math.floor(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[: num_queries - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _query(earlier: Sequence[Query], prompt: str, client_name: str, origin: PromptOrigin) -> Query:
    query_id = f"q{len(earlier) + 1:06d}"
    return Query(query_id=query_id, prompt=prompt, client_name=client_name, origin=origin)


def _distinct_prompts(
    generator: GeneratorProxy,
    sampler: Sampler,
    *,
    config: SynthesisConfig,
    examples: Sequence[str],
    quota: int,
    seed: int,
    seen: set[str],
    tested: frozenset[str],
    counts: Counter[str],
    num_awaited: int,
    on_progress: OnProgress,
) -> Iterator[str]:
    max_sampled = math.ceil(config.max_attempts_factor * quota)
    num_kept = num_sampled = num_batches = 0
    while num_kept < quota and num_sampled < max_sampled:
        # As many as are wanted at the yield seen so far, so that few are sampled in vain; and never
        # more than doubling what was sampled, because a small first batch says little of the yield.
        seen_yield = num_kept / num_sampled if num_sampled else 1.0
        wanted = math.ceil((quota - num_kept) / max(seen_yield, 1 / config.max_attempts_factor))
        size = min(wanted, max_sampled - num_sampled, max(quota, num_sampled))
        before = counts["num_sampled"]
        total = before + size + num_awaited
        batch_seed = derive_seed(seed, f"batch {num_batches}")
        shown = example_sets(examples, size=config.num_public_examples, count=size, seed=batch_seed)
        completions = sampler.sample(
            [generator.prompt_prefix(own) for own in shown],
            sampling_params(config.prompt_sampling),
            seed=batch_seed,
            on_progress=lambda n, _, before=before, total=total: on_progress(before + n, total),  # type: ignore[misc]
        )
        num_batches += 1
        num_sampled += size
        counts["num_sampled"] += size
        for (completion,) in completions:
            text = ended_text(completion, when_cut=WhenCut(config.when_cut), counts=counts)
            if text is None:
                continue
            if reason := unusable_text(text, config, seen=seen, tested=tested):
                counts[reason] += 1
            elif num_kept == quota:
                counts["num_surplus"] += 1
            else:
                num_kept += 1
                seen.add(normalise_prompt(text))
                yield text


def _spelled_out(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.removeprefix('num_')}: {count}" for name, count in counts.items())


def _most_often(counts: Mapping[str, int]) -> str:
    return max(_REMEDIES, key=lambda reason: counts.get(reason, 0))
