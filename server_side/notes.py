"""What a simulation adds to a run's metrics and report, and what the server alone cannot know.

A simulation owns both parties, so it knows what a run stands for in a comparison and may hold the
synthetic set against the private records. The server is handed these figures and shows them; it
never sees a record, and a deployment has no notes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOverlap:
    """What one set of texts has in common with the private records; lengths and shares, no text."""

    num_texts: int
    """Texts that were looked for."""
    found_ngram_fraction: float
    """Share of the texts' distinct word n-grams that stand in some record."""
    texts_with_found_fraction: float
    """Share of the texts that have at least one such n-gram."""
    longest_common_words: int
    """Words of the longest passage that a text shares with a record."""
    longest_common_chars: int
    """Characters of the longest passage that a text shares with a record."""
    num_identifiers_found: int
    """Names, telephone numbers and birth dates of the records that occur in the texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivateOverlap:
    """The synthetic set held against the private records, with public text for comparison."""

    ngram_size: int
    """Words of an n-gram."""
    num_records: int
    """Distinct private records of the clients that took part."""
    num_identifiers: int
    """Distinct names, telephone numbers and birth dates in the records."""
    synthetic: TextOverlap
    """Prompts of the final pool, each with its chosen and with its rejected response."""
    public: TextOverlap
    """Prompts and references of the public test: what text of this domain shares anyway."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionPrice:
    """What holds for a run that is handed out because it was the best of several."""

    epsilon: float
    """ε of the selection; above that of one run, infinite where a run has none."""
    delta: float
    """δ at which it holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunNotes:
    """What a run stands for, and how near its synthetic set comes to the private records."""

    arm: str
    """Name under which the run is compared with others."""
    tuned_on: str
    """What the target was tuned on: `synthetic`, `private_records` or `private_records_dp`."""
    private_overlap: PrivateOverlap | None = None
    """Overlap with the private records; None where there is no synthetic set, or where records
    cannot be read."""
    clients_without_records: tuple[str, ...] = ()
    """Clients that took part and whose records could not be read any more for the overlap."""
    not_covered: tuple[str, ...] = ()
    """What else than the releases depends on the private records, each a sentence; no ledger counts
    it. Empty where the records are nobody's, or nothing does."""
    selection: SelectionPrice | None = None
    """Price of choosing this run among several; None where it was not chosen privately."""
