"""Examples of each stage, picked by rule and not by taste.

From the final pool: the samples with the highest, the median and the lowest reward, and the best
one that was rewritten. Beside them the best of those that are not in it, by what the pool was
selected by. From the test: rows at even distances.
"""

from __future__ import annotations

from dataclasses import dataclass

from lm.tables import TextRow
from server_side.evaluation import ArmScores, Metric
from server_side.report.inputs import ReportInputs
from server_side.samples import CuratedSample, PromptOrigin

_NUM_ANSWERS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateExample:
    """One response to an example's prompt."""

    text: str
    """What it says."""
    reward: str
    """Its standardised reward."""
    perplexity: str
    """Its perplexity under the generator."""
    consensus: str
    """Its mean ROUGE-L to the generator's other responses."""
    role: str
    """`chosen`, `rejected` or empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundExample:
    """What one round did with an example's prompt."""

    round_index: int
    """The round."""
    feedback: str
    """What the rewrites were based on; empty in round 1."""
    candidates: tuple[CandidateExample, ...]
    """Those that were chosen or rejected, or else the one with the best reward."""
    others: tuple[CandidateExample, ...]
    """The round's other responses, best reward first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryExample:
    """One synthetic prompt and all that became of it."""

    label: str
    """Why it was picked."""
    query_id: str
    """Its name in the run."""
    client_name: str
    """Whose generator answered it."""
    origin: PromptOrigin
    """Where the prompt comes from."""
    prompt: str
    """What it says."""
    rounds: tuple[RoundExample, ...]
    """What each round did with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerExample:
    """One test prompt with the answers of both arms."""

    prompt: str
    """What is asked."""
    reference: str
    """The test row's response."""
    untuned: str
    """First answer of the untuned target."""
    untuned_rouge: str
    """Mean ROUGE-L of its answers."""
    tuned: str
    """First answer of the tuned target."""
    tuned_rouge: str
    """Mean ROUGE-L of its answers."""


def query_examples(inputs: ReportInputs) -> list[QueryExample]:
    """Return the picked prompts with the candidates of every round."""
    pool = sorted(inputs.pools[max(inputs.pools)], key=lambda s: (-s.chosen_reward, s.query_id))
    picked: dict[str, tuple[str, CuratedSample]] = {}

    def pick(label: str, sample: CuratedSample | None) -> None:
        if sample is not None and sample.query_id not in picked:
            picked[sample.query_id] = (label, sample)

    if pool:
        pick("highest reward in the pool", pool[0])
        pick(
            "best reward among the rewritten",
            next((sample for sample in pool if sample.round_index > 1), None),
        )
        pick("median reward in the pool", pool[len(pool) // 2])
        pick("lowest reward in the pool", pool[-1])
    pick("best of those that are not in the pool", inputs.fallen)
    return [
        QueryExample(
            label=label,
            query_id=query_id,
            client_name=sample.client_name,
            origin=sample.prompt_origin,
            prompt=sample.prompt,
            rounds=_rounds(
                inputs,
                query_id,
                chosen_id=sample.chosen_candidate_id,
                rejected_id=sample.rejected_candidate_id,
            ),
        )
        for query_id, (label, sample) in picked.items()
    ]


def answer_examples(inputs: ReportInputs) -> list[AnswerExample]:
    """Return test rows at even distances with the first answer of each arm."""
    num_rows = len(inputs.test_rows)
    step = max(1, num_rows // _NUM_ANSWERS)
    return [
        _answer(inputs.test_rows[i], inputs.untuned, inputs.tuned, i)
        for i in range(0, num_rows, step)
    ][:_NUM_ANSWERS]


def _answer(row: TextRow, untuned: ArmScores, tuned: ArmScores, index: int) -> AnswerExample:
    return AnswerExample(
        prompt=row.prompt,
        reference=row.response,
        untuned=untuned.answers[index][0],
        untuned_rouge=f"{untuned.rows[index].rouge_mean(Metric.ROUGEL):.3f}",
        tuned=tuned.answers[index][0],
        tuned_rouge=f"{tuned.rows[index].rouge_mean(Metric.ROUGEL):.3f}",
    )


def _rounds(
    inputs: ReportInputs, query_id: str, *, chosen_id: str, rejected_id: str
) -> tuple[RoundExample, ...]:
    rounds = []
    for round_index, scored in inputs.scored.items():
        own = [item for item in scored if item.candidate.query_id == query_id]
        if not own:
            continue
        feedback = next(
            (f.text for f in inputs.feedback.get(round_index, ()) if f.query_id == query_id), ""
        )
        roles = {rejected_id: "rejected", chosen_id: "chosen"}
        candidates = [
            CandidateExample(
                text=item.candidate.response,
                reward=f"{item.reward:+.2f}".replace("-", "−"),
                perplexity=f"{item.perplexity:.3g}",
                consensus=f"{item.consensus:.2f}",
                role=roles.get(item.candidate.candidate_id, ""),
            )
            for item in sorted(own, key=lambda item: -item.reward)
        ]
        shown = [candidate for candidate in candidates if candidate.role] or candidates[:1]
        rounds.append(
            RoundExample(
                round_index=round_index,
                feedback=feedback,
                candidates=tuple(shown),
                others=tuple(c for c in candidates if c not in shown),
            )
        )
    return tuple(rounds)
