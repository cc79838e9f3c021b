"""What the stages of the server's job hand to one another, from synthetic prompt to tuned pool.

Identity travels: `query_id`, `candidate_id` and `round_index` are carried to the end, so that each
row of the final data set can be traced back to the client, the query and the round it came from.
`server_side/run_store.py` writes these values as JSON lines and reads them back.

Everything here was sampled from released models: no value holds a private record, and each of
them is post-processing of a release, which costs no privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)

OnProgress = Callable[[int, int], None]
"""Told by a long stage how much is done, of how much."""


class CandidateOrigin(StrEnum):
    """Which model wrote a response."""

    GENERATOR = "generator"
    """The generator proxy of the query's client, in round 1."""
    REWRITE = "rewrite"
    """The target model, from an earlier response and feedback on it, in a later round."""


class PromptOrigin(StrEnum):
    """Where a prompt comes from."""

    GENERATOR = "generator"
    """Sampled from the generator proxy of the query's client."""
    FEW_SHOT = "few_shot"
    """Sampled from that proxy after a few public prompts that it was shown."""
    PUBLIC = "public"
    """Taken from a public file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A prompt that is to be answered."""

    query_id: str
    """Name of the query, unique in a run."""
    prompt: str
    """What a user might say."""
    client_name: str
    """Client whose generator answers it, and wrote it unless it is public."""
    origin: PromptOrigin = PromptOrigin.GENERATOR
    """Where it comes from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A response to a query that is not yet judged."""

    query_id: str
    """The query it answers."""
    candidate_id: str
    """Name of the candidate, unique in a run."""
    round_index: int
    """Round in which it was written; the first is 1."""
    response: str
    """What it says."""
    origin: CandidateOrigin
    """Which model wrote it."""
    lineage: tuple[str, ...] = ()
    """Candidates that it was rewritten from, the generator's own first; empty for that one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredCandidate:
    """A candidate with what the proxies think of it; the parts stand next to the total."""

    candidate: Candidate
    """What was scored."""
    reward: float
    """Standardised reward, put together over the clients' reward proxies; more is better."""
    rewards_by_client: Mapping[str, float]
    """Reward as each client's proxy gave it, before standardisation."""
    perplexity: float
    """Perplexity of the response under the generator of the query's client; less is likelier."""
    consensus: float = 0.0
    """Mean ROUGE-L to the query's other candidates of round 1; 0 where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CuratedSample:
    """The best and the worst response to one query, with what made them so."""

    query_id: str
    """The query that both answer."""
    client_name: str
    """Client whose generator answered the query."""
    instruction: str
    """That client's public description of its domain; the system turn."""
    prompt: str
    """The query's text."""
    chosen: str
    """The best response."""
    rejected: str
    """The worst response."""
    chosen_candidate_id: str
    """Candidate that `chosen` comes from."""
    rejected_candidate_id: str
    """Candidate that `rejected` comes from."""
    chosen_reward: float
    """Standardised reward of `chosen`."""
    rejected_reward: float
    """Standardised reward of `rejected`."""
    chosen_perplexity: float
    """Perplexity of `chosen` under the client's generator."""
    round_index: int
    """Round in which `chosen` was written."""
    chosen_consensus: float = 0.0
    """Mean ROUGE-L of `chosen` to the query's other candidates of round 1."""
    chosen_origin: CandidateOrigin = CandidateOrigin.GENERATOR
    """Which model wrote `chosen`."""
    chosen_lineage: tuple[str, ...] = ()
    """Candidates that `chosen` was rewritten from, the generator's own first."""
    joined_round: int | None = None
    """Round in which the query joined the pool; None while it is outside."""
    prompt_origin: PromptOrigin = PromptOrigin.GENERATOR
    """Where `prompt` comes from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """What a model says makes a query's chosen response better than its rejected one."""

    query_id: str
    """The query whose responses were compared."""
    text: str
    """The comparison; a fixed sentence where the model wrote nothing or was not asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult(Generic[T_co]):
    """What a stage hands on, and what fell on the way."""

    values: tuple[T_co, ...]
    """Values for the next stage, in a fixed order."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many values went in, fell for which reason, and came out; shown in the report."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What else was measured on the way, by name; finite numbers."""
