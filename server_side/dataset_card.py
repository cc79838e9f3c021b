"""The card of the synthetic data set: how it was made, what it costs, and what is wrong with it.

A reader has the card and not the run, so that each sentence follows from the settings, the rows or
the certificates: the card of a baseline praises no reward, that of public prompts does not call
them sampled, and that of a release without noise claims no privacy. What none of these can tell,
such as whether a row repeats a record, the card leaves open and says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from protocol import SOFTWARE_VERSION
from protocol.artifacts import Certificate
from protocol.ledger import PrivacyUnit
from server_side.config import (
    ChooseBy,
    FilteringConfig,
    PoolGrowth,
    RefinementConfig,
    SelectBy,
    ThresholdRule,
)
from server_side.json_values import Json, from_json
from server_side.notes import RunNotes
from server_side.samples import CandidateOrigin, CuratedSample, PromptOrigin

_COLUMN_NOTES: Final = {
    "query_id": "name of the prompt in the run",
    "client_name": "client whose generator answered the prompt",
    "instruction": "that client's public description of its domain; the system turn",
    "prompt": "what was asked",
    "chosen": "response that was put first, as said above",
    "rejected": "response to the same prompt that was put behind it",
    "chosen_candidate_id": "candidate that `chosen` comes from",
    "rejected_candidate_id": "candidate that `rejected` comes from",
    "chosen_reward": "standardised reward of `chosen`; 0 where no reward model could judge it",
    "rejected_reward": "standardised reward of `rejected`; 0 likewise",
    "chosen_perplexity": "perplexity of `chosen` under the client's generator",
    "round_index": "round in which `chosen` was written; 1 is the generator's own",
    "chosen_consensus": "mean ROUGE-L of `chosen` to the generator's other responses to the prompt",
    "chosen_origin": "which model wrote `chosen`: generator, or rewrite by the target",
    "chosen_lineage": "candidates that `chosen` was rewritten from, the generator's own first",
    "joined_round": "round in which the prompt joined the pool",
    "prompt_origin": "generator: that client's generator wrote the prompt; few_shot: it was shown "
    "public prompts first; public: a public file",
}
_AGREEMENT: Final = "agreement with the generator's other responses"


def describe_dataset(
    pool: Sequence[CuratedSample],
    *,
    run_id: str,
    clients: Mapping[str, Certificate],
    settings: Mapping[str, object],
    notes: RunNotes | None = None,
) -> str:
    """Write the card of a data set.

    Args:
        pool: Its rows.
        run_id: Name of the run.
        clients: By client, the certificate that states the whole price.
        settings: All that decided the rows, as JSON values; the server's own under `config`, and
            what `ServerConfig.shown_models` gives.
        notes: What a simulation knows about the run; None in a deployment.

    Returns:
        Markdown with the front matter that `datasets` reads.
    """
    config: Json = settings["config"]
    filtering = from_json(FilteringConfig, config["filtering"])
    refinement = from_json(RefinementConfig, config["refinement"])
    making = (
        _models(settings, refinement),
        *_public_start(clients),
        _prompts(pool),
        _responses(pool, refinement),
        _order(pool, filtering),
        _selection(filtering, refinement),
        _rewards(pool, filtering),
    )
    limits = (*_LIMITS, *_limits_of_order(pool, filtering))
    sections = [
        _front_matter(pool, clients),
        f"# Prompts and synthetic responses of run {run_id}\n",
        f"{len(pool)} prompts, each with a `chosen` and a `rejected` response. Behind them stand "
        f"models that were tuned on {_protection(clients)}. Made with RewardDS "
        f"{SOFTWARE_VERSION}, software for the method of arXiv 2502.18517; the settings below say "
        "how much of it was used.\n",
        "## How it was made\n",
        _bullets(making),
        "## Use\n",
        "```python\nfrom datasets import load_dataset\n\n"
        'rows = load_dataset("path/of/this/folder", split="train")\n```\n',
        "Preference trainers expect the columns `prompt`, `chosen` and `rejected`.\n",
        _table(
            ("Column", "Meaning"),
            [(f"`{name}`", note) for name, note in _COLUMN_NOTES.items()],
        ),
        "## Privacy certificate\n",
        "Stated for each client separately, for everything that was ever released from its "
        "records, by the add-or-remove-one relation. The full statements are in "
        "`certificates.json`.\n",
        _table(
            ("Client", "ε (composed)", "δ", "Unit", "DP-SGD runs", "Accountant", "Rows here"),
            [_guarantee_row(name, clients[name], pool) for name in clients],
        ),
        "All that came after reads only these releases and public data, so it adds nothing to the "
        "price.\n",
        *_price_of_selection(notes),
        *_not_covered(notes),
        *_warnings(clients),
        "## Known limits\n",
        _bullets(limits),
        "## Settings\n",
        f"```json\n{_fenced(json.dumps(settings, indent=2, sort_keys=True, default=str))}\n```\n",
    ]
    return "\n".join(sections)


_LIMITS: Final = (
    "Nobody has checked what the models wrote: it may be wrong, contradictory or harmful, and must "
    "not be used as advice.",
    "The server never sees a record, so it cannot tell whether a row repeats one.",
    "A guarantee hides whether one unit took part in training. It does not hide what holds for the "
    "records as a whole, and it says nothing about public text that the models had memorised "
    "before.",
    "Names and numbers in the texts may be invented, come from public text, or be learnt from the "
    "records: check before publishing.",
    "A person whose records lie with several clients bears the sum of their prices.",
    "Texts of language models tend to be less diverse than what they were tuned on, and repeat the "
    "habits of their models.",
)


def _front_matter(pool: Sequence[CuratedSample], clients: Mapping[str, Certificate]) -> str:
    # `datasets` keeps what it has loaded by the names of folder and configuration, and by nothing
    # in the files. All runs name the folder alike, so that one run's rows would be another's.
    rows = json.dumps([dataclasses.asdict(sample) for sample in pool])
    name = f"rows_{hashlib.sha256(rows.encode()).hexdigest()[:16]}"
    tags = ["synthetic"] if _unprotected(clients) else ["synthetic", "differential-privacy"]
    return (
        f"---\nconfigs:\n- config_name: {name}\n  data_files:\n  - split: train\n"
        "    path: train.parquet\ntags:\n"
        + "".join(f"- {tag}\n" for tag in tags)
        + "task_categories:\n- text-generation\n---\n"
    )


def _protection(clients: Mapping[str, Certificate]) -> str:
    records = f"private records of {len(clients)} client{'s' * (len(clients) > 1)}"
    unprotected = _unprotected(clients)
    if len(unprotected) == len(clients):
        return f"{records}, without the protection of differential privacy"
    exceptions = f", except those of {_listed(unprotected)}" if unprotected else ""
    return f"{records} under differential privacy{exceptions}"


def _unprotected(clients: Mapping[str, Certificate]) -> list[str]:
    return [
        name
        for name, certificate in clients.items()
        if certificate.privacy.reproducible_noise or not math.isfinite(certificate.privacy.epsilon)
    ]


def _models(settings: Mapping[str, object], refinement: RefinementConfig) -> str:
    base = f"The clients' models were tuned from {settings['base_model']}"
    if refinement.num_rounds == 1:
        return f"{base}; its digest is among the settings below."
    target = f"the target model is {settings['target_model']}"
    return f"{base}, {target}; their digests are among the settings below."


def _public_start(clients: Mapping[str, Certificate]) -> list[str]:
    started = [name for name in clients if clients[name].start_digest is not None]
    if not started:
        return []
    return [
        f"The models of {_listed(started)} did not start from the base model: the server had tuned "
        "their starting weights on public text, whose merit is in these rows too."
    ]


def _prompts(pool: Sequence[CuratedSample]) -> str:
    origins = Counter(sample.prompt_origin for sample in pool)
    writers = "written by the clients' generators"
    if origins[PromptOrigin.FEW_SHOT]:
        writers += ", which were shown public prompts first"
    match origins[PromptOrigin.PUBLIC]:
        case 0:
            return f"The prompts were {writers}."
        case num_public if num_public == len(pool):
            return "The prompts were taken from a public file."
        case num_public:
            return (
                f"{num_public} of the {len(pool)} prompts were taken from a public file, the rest "
                f"{writers}."
            )


def _responses(pool: Sequence[CuratedSample], refinement: RefinementConfig) -> str:
    if refinement.num_rounds == 1:
        return "The responses were written by the clients' generators; nothing was rewritten."
    num_rewrites = sum(sample.chosen_origin is CandidateOrigin.REWRITE for sample in pool)
    return (
        "The first responses were written by the clients' generators. In later rounds the target "
        "model, tuned on the rows so far, was asked for rewrites; "
        f"{num_rewrites} of the {len(pool)} `chosen` responses are such."
    )


def _order(pool: Sequence[CuratedSample], filtering: FilteringConfig) -> str:
    match _criteria(pool, filtering):
        case []:
            return (
                "No score ordered the responses to a prompt: `chosen` is the first usable one of "
                "its round, `rejected` is another."
            )
        case [criterion]:
            by = criterion
        case criteria:
            by = f"the weighted ranks of {_listed(criteria)}"
    return f"`chosen` came first by {by}; `rejected` came last."


def _criteria(pool: Sequence[CuratedSample], filtering: FilteringConfig) -> list[str]:
    """Return by what the responses to a prompt were ordered; nothing where they were not."""
    match ChooseBy(filtering.choose_by):
        case ChooseBy.FIRST:
            return []
        case ChooseBy.CONSENSUS:
            return [_AGREEMENT]
        case ChooseBy.RANKS:
            weights = {
                "reward": filtering.alpha if _judged(pool) else 0,
                "likelihood under the client's generator": 1 - filtering.alpha,
                _AGREEMENT: filtering.consensus_weight,
            }
            return [criterion for criterion, weight in weights.items() if weight > 0]


def _selection(filtering: FilteringConfig, refinement: RefinementConfig) -> str:
    joins_later = refinement.num_rounds > 1 and refinement.pool_growth != PoolGrowth.RENEW
    is_open = joins_later and refinement.threshold == ThresholdRule.NONE
    is_distinct = filtering.max_similarity < 1
    if filtering.select_by == SelectBy.ALL or filtering.k == 1 or is_open:
        exception = ", unless its row was nearly the same as another" if is_distinct else ""
        return f"Every prompt with two usable responses was kept{exception}."
    exception = "; none was let in beside a row nearly the same" if is_distinct else ""
    figure = "reward" if filtering.select_by == SelectBy.REWARD else _AGREEMENT
    return f"The prompts competed for a place by their `chosen` response's {figure}{exception}."


def _rewards(pool: Sequence[CuratedSample], filtering: FilteringConfig) -> str:
    if not filtering.needs_reward:
        return "No reward had a say in any of this."
    judged = _judged(pool)
    if not judged:
        return "No reward model could judge these rows, so that their rewards are 0."
    text = "The rewards come from models that were tuned on the clients' records as well."
    if unjudged := sorted({sample.client_name for sample in pool} - judged):
        text += f" No such model could judge the rows of {_listed(unjudged)}: their rewards are 0."
    return text


def _judged(pool: Sequence[CuratedSample]) -> set[str]:
    """Return the clients of whose rows some have a reward; without a judge it is exactly 0."""
    return {sample.client_name for sample in pool if sample.chosen_reward or sample.rejected_reward}


def _limits_of_order(pool: Sequence[CuratedSample], filtering: FilteringConfig) -> list[str]:
    limits = ["`chosen` is what came first in the order above, not what an expert would choose."]
    if not _criteria(pool, filtering):
        limits = ["`chosen` was not chosen for being better than `rejected`."]
    if filtering.needs_reward and _judged(pool):
        limits.append("A reward model judges style more reliably than substance.")
    return limits


def _guarantee_row(
    name: str, certificate: Certificate, pool: Sequence[CuratedSample]
) -> tuple[str, ...]:
    ledger = certificate.privacy
    return (
        name,
        _epsilon(ledger.epsilon),
        f"{ledger.delta:.3g}",
        "one record" if ledger.unit is PrivacyUnit.RECORD else "all records of one person",
        str(len(ledger.events)),
        _code(f"{ledger.accountant} {ledger.accountant_version}"),
        str(sum(sample.client_name == name for sample in pool)),
    )


def _price_of_selection(notes: RunNotes | None) -> list[str]:
    if notes is None or notes.selection is None:
        return []
    selection = notes.selection
    return [
        "> **Chosen among several runs.** The table is about one run. These rows come from the "
        f"best of several, and what holds for them is ε = {_epsilon(selection.epsilon)} at δ = "
        f"{selection.delta:.3g} for each client (Papernot and Steinke, 2022).\n"
    ]


def _not_covered(notes: RunNotes | None) -> list[str]:
    if notes is None or not notes.not_covered:
        return []
    return [
        "> **A simulation on own records.** More than the releases depends on them, and the table "
        f"does not count it: {' '.join(notes.not_covered)}\n"
    ]


def _epsilon(epsilon: float) -> str:
    return f"{epsilon:.4g}" if math.isfinite(epsilon) else "∞ (none)"


def _warnings(clients: Mapping[str, Certificate]) -> list[str]:
    notes = []
    if loose := [name for name in clients if not math.isfinite(clients[name].privacy.epsilon)]:
        notes.append(
            f"> **No guarantee** for {_listed(loose)}: some release was trained without noise. Any "
            "row may depend on it, so treat all of them as private records.\n"
        )
    if fixed := [name for name in clients if clients[name].privacy.reproducible_noise]:
        notes.append(
            f"> **Simulation only** for {_listed(fixed)}: the noise came from a fixed seed, and "
            "noise that can be reproduced protects nobody.\n"
        )
    return notes


def _listed(names: Sequence[str]) -> str:
    """Join names as prose does.

    >>> _listed(["north", "south", "west"])
    'north, south and west'
    """
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _bullets(sentences: Sequence[str]) -> str:
    return "".join(f"- {sentence}\n" for sentence in sentences)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _code(text: str) -> str:
    # A client's own words, which nobody has compared with anything: shown, never interpreted.
    return f"`{text.replace('`', '')}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _fenced(text: str) -> str:
    # A setting is text of the operator's and must not close the block that it stands in.
    return text.replace("```", "'''")
