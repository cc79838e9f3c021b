"""The synthetic data set: parquet and JSON lines with a card, in a folder of its own.

`datasets.load_dataset(folder)` loads it. The card states each client's guarantee as its certificate
does, the settings that made the data, and what is known to be wrong with such data.

Layout: `train.parquet` and `train.jsonl` (the same rows), `certificates.json` (every admitted
certificate, word for word), `README.md` (the card).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from protocol import SOFTWARE_VERSION
from protocol.artifacts import Certificate
from protocol.documents import to_document
from protocol.errors import StageError
from protocol.ledger import PrivacyUnit
from server_side.samples import CuratedSample

_ARROW_TYPES: Final = {
    "str": pa.string(),
    "CandidateOrigin": pa.string(),
    "PromptOrigin": pa.string(),
    "float": pa.float64(),
    "int": pa.int64(),
    "int | None": pa.int64(),
    "tuple[str, ...]": pa.list_(pa.string()),
}

_COLUMN_NOTES: Final = {
    "query_id": "name of the synthetic prompt in the run",
    "client_name": "client whose generator answered the prompt",
    "instruction": "that client's public description of its domain; the system turn",
    "prompt": "what was asked",
    "chosen": "best response that was found",
    "rejected": "worst response to the same prompt",
    "chosen_candidate_id": "candidate that `chosen` comes from",
    "rejected_candidate_id": "candidate that `rejected` comes from",
    "chosen_reward": "standardised reward of `chosen`",
    "rejected_reward": "standardised reward of `rejected`",
    "chosen_perplexity": "perplexity of `chosen` under the client's generator",
    "round_index": "round in which `chosen` was written; 1 is the generator's own",
    "chosen_consensus": "mean ROUGE-L of `chosen` to the generator's other responses to the prompt",
    "chosen_origin": "which model wrote `chosen`: generator, or rewrite by the target",
    "chosen_lineage": "candidates that `chosen` was rewritten from, the generator's own first",
    "joined_round": "round in which the prompt joined the pool",
    "prompt_origin": "generator: that client's generator wrote the prompt; few_shot: it was shown "
    "public prompts first; public: a public file",
}


def export_dataset(
    pool: Sequence[CuratedSample],
    *,
    folder: Path,
    run_id: str,
    certificates: Sequence[Certificate],
    settings: Mapping[str, object],
) -> Path:
    """Write the final pool as a data set that others can load and judge.

    Args:
        pool: Samples of the last round.
        folder: Where to write; it appears only when whole. An older one there is replaced.
        run_id: Name of the run.
        certificates: Certificates of all admitted releases that the data were sampled from.
        settings: The server's settings, as JSON values.

    Returns:
        `folder`.

    Raises:
        StageError: The pool is empty.
    """
    if not pool:
        raise StageError(
            "Expected samples to export, found an empty pool. Ask for more queries, or keep a "
            "larger share of them."
        )
    rows = [dataclasses.asdict(sample) for sample in pool]
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), part / "train.parquet")
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        _write(part / "train.jsonl", "".join(f"{line}\n" for line in lines))
        statements = [to_document(certificate) for certificate in certificates]
        _write(part / "certificates.json", json.dumps(statements, indent=2) + "\n")
        card = _card(pool, run_id=run_id, certificates=certificates, settings=settings)
        _write(part / "README.md", card)
        part.chmod(0o755)  # mkdtemp makes folders for the owner alone
        for path in part.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def guarantees(certificates: Sequence[Certificate]) -> dict[str, Certificate]:
    """Return, by client, the certificate with the dearest ledger: the one that holds all events.

    Each certificate lists all that was ever released or reserved from a client's records up to its
    own release, so that the greatest composed ε is the whole price.
    """
    dearest: dict[str, Certificate] = {}
    for certificate in certificates:
        known = dearest.get(certificate.client_name)
        if known is None or certificate.privacy.epsilon >= known.privacy.epsilon:
            dearest[certificate.client_name] = certificate
    return dict(sorted(dearest.items()))


def _schema() -> pa.Schema:
    return pa.schema(
        [(field.name, _ARROW_TYPES[str(field.type)]) for field in dataclasses.fields(CuratedSample)]
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _card(
    pool: Sequence[CuratedSample],
    *,
    run_id: str,
    certificates: Sequence[Certificate],
    settings: Mapping[str, object],
) -> str:
    clients = guarantees(certificates)
    sections = [
        _FRONT_MATTER,
        f"# Synthetic prompts and responses of run {run_id}\n",
        f"{len(pool)} prompts with a preferred and a rejected response, written by language models "
        "that were tuned on private records under differential privacy, filtered by a reward model "
        "tuned in the same way. No line is a record of a client. Made with RewardDS "
        f"{SOFTWARE_VERSION} (method: arXiv 2502.18517).\n",
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
        "Sampling, filtering and rewriting read only these releases and public data, so they add "
        "nothing to the price.\n",
        *_warnings(clients),
        "## Known limits\n",
        *(f"- {limit}\n" for limit in _LIMITS),
        "\n## Settings\n",
        f"```json\n{_fenced(json.dumps(settings, indent=2, sort_keys=True, default=str))}\n```\n",
    ]
    return "\n".join(sections)


_FRONT_MATTER: Final = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train.parquet
tags:
- synthetic
- differential-privacy
task_categories:
- text-generation
---
"""

_LIMITS: Final = (
    "Nobody has checked the texts. They were sampled from small language models: they may be "
    "wrong, contradictory or harmful, and must not be used as advice.",
    "The guarantee hides whether one unit took part in training. It does not hide what holds for "
    "the records as a whole, and it says nothing about text that the public base model had "
    "memorised before.",
    "Names and numbers in the texts are the models' inventions or the base model's memory; that a "
    "real person bears one is chance, but check before publishing.",
    "A reward model judges style more reliably than substance: `chosen` is what it ranked "
    "first, not what an expert would.",
    "A person whose records lie with several clients bears the sum of their prices.",
    "The texts are less diverse than the records and repeat the habits of their models.",
)


def _guarantee_row(
    name: str, certificate: Certificate, pool: Sequence[CuratedSample]
) -> tuple[str, ...]:
    ledger = certificate.privacy
    return (
        name,
        f"{ledger.epsilon:.4g}" if math.isfinite(ledger.epsilon) else "∞ (none)",
        f"{ledger.delta:.3g}",
        "one record" if ledger.unit is PrivacyUnit.RECORD else "all records of one person",
        str(len(ledger.events)),
        f"{ledger.accountant} {ledger.accountant_version}",
        str(sum(sample.client_name == name for sample in pool)),
    )


def _warnings(clients: Mapping[str, Certificate]) -> list[str]:
    notes = []
    if loose := [name for name in clients if not math.isfinite(clients[name].privacy.epsilon)]:
        notes.append(
            f"> **No guarantee** for {', '.join(loose)}: some release was trained without noise. "
            "Treat these rows as private records.\n"
        )
    if fixed := [name for name in clients if clients[name].privacy.reproducible_noise]:
        notes.append(
            f"> **Simulation only** for {', '.join(fixed)}: the noise came from a fixed seed, and "
            "noise that can be reproduced protects nobody.\n"
        )
    return notes


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _fenced(text: str) -> str:
    # A setting is text of the operator's and must not close the block that it stands in.
    return text.replace("```", "'''")
