"""The synthetic data set: parquet and JSON lines with a card, in a folder of its own.

`datasets.load_dataset(folder)` loads it.

Layout: `train.parquet` and `train.jsonl` (the same rows), `certificates.json` (every admitted
certificate, word for word), `README.md` (the card, `server_side/dataset_card.py`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from protocol.artifacts import Certificate
from protocol.documents import to_document
from protocol.errors import StageError
from server_side.dataset_card import describe_dataset
from server_side.notes import RunNotes
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


def export_dataset(
    pool: Sequence[CuratedSample],
    *,
    folder: Path,
    run_id: str,
    certificates: Sequence[Certificate],
    settings: Mapping[str, object],
    notes: RunNotes | None = None,
) -> Path:
    """Write the final pool as a data set that others can load and judge.

    Args:
        pool: Samples of the last round.
        folder: Where to write; it appears only when whole. An older one there is replaced.
        run_id: Name of the run.
        certificates: Certificates of all admitted releases that the data were sampled from.
        settings: As for `describe_dataset`.
        notes: What a simulation knows about the run; None in a deployment.

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
        clients = guarantees(certificates)
        card = describe_dataset(
            pool, run_id=run_id, clients=clients, settings=settings, notes=notes
        )
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
    """Return, by client, the certificate that lists the most events, and of such the dearest.

    Each certificate lists all that was ever released or reserved from a client's records up to its
    own release, so that the longest list is the whole price. The ε of two certificates alone do not
    tell which that is: each holds at a δ of its own.
    """
    latest: dict[str, Certificate] = {}
    for certificate in certificates:
        known = latest.get(certificate.client_name)
        if known is None or _extent(certificate) >= _extent(known):
            latest[certificate.client_name] = certificate
    return dict(sorted(latest.items()))


def _extent(certificate: Certificate) -> tuple[int, float]:
    return len(certificate.privacy.events), certificate.privacy.epsilon


def _schema() -> pa.Schema:
    return pa.schema(
        [(field.name, _ARROW_TYPES[str(field.type)]) for field in dataclasses.fields(CuratedSample)]
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
