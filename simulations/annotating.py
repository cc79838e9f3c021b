"""What a simulation adds to the metrics and report of a run on synthetic data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from client_side.folder import ClientFolder
from client_side.records import PrivateRecord
from lm.errors import LmError
from lm.tables import ColumnMap, read_table
from protocol.errors import RewardDSError
from protocol.ledger import ProxyKind
from server_side.admission import AdmittedRelease
from server_side.notes import RunNotes, SelectionPrice
from server_side.samples import CuratedSample
from simulations.config import SimulateConfig, TunedOn
from simulations.overlap import measure_overlap
from simulations.owned_records import read_owned_records
from simulations.prepare import World

_LOGGER = logging.getLogger(__name__)


def annotate_run(
    pool: Sequence[CuratedSample],
    *,
    config: SimulateConfig,
    world: World,
    releases: Sequence[AdmittedRelease],
    selection: SelectionPrice | None,
) -> RunNotes:
    """Say what a run stands for, and hold its final pool against the private records.

    Looked at are the records of those who took part. Where some cannot be read any more, there is
    no overlap, and notes and a warning say so: a side measurement costs no output.

    Args:
        pool: The final pool.
        config: The simulation.
        world: The parties, whose records are read.
        releases: What was admitted.
        selection: Price at which the run stands to be selected; None where it does not.

    Returns:
        Name, source and overlap: lengths and shares, no text of a record.
    """
    if selection is not None:
        # Privacy: the price covers what is released; the overlap is paid for by no ledger.
        return RunNotes(arm=config.arm, tuned_on=config.tuned_on.value, selection=selection)
    evaluation = world.server.evaluation
    assert evaluation.path is not None, "a world has a test file"
    columns = ColumnMap(prompt=evaluation.prompt_column, response=evaluation.response_column)
    public = read_table(evaluation.path, columns=columns).rows
    records: list[PrivateRecord] = []
    unread = []
    for client in _delivered(world, releases):
        try:
            records.extend(read_owned_records(client))
        except (RewardDSError, LmError, OSError) as problem:
            unread.append(client.path.name)
            _LOGGER.warning(
                "The synthetic set is not held against the private records, those of %s cannot be "
                "read any more: %s",
                client.path.name,
                problem,
            )
    notes = RunNotes(
        arm=config.arm, tuned_on=config.tuned_on.value, not_covered=not_covered(config)
    )
    if unread:
        return replace(notes, clients_without_records=tuple(unread))
    return replace(
        notes,
        private_overlap=measure_overlap(
            synthetic=pool_texts(pool),
            public=[f"{row.prompt}\n{row.response}" for row in public],
            records=[f"{record.prompt}\n{record.response}" for record in records],
        ),
    )


def not_covered(config: SimulateConfig) -> tuple[str, ...]:
    """Say what else than the releases depends on the private records in a simulation.

    A deployment does none of this; a private selection refuses settings that would.

    Args:
        config: The simulation.

    Returns:
        A sentence for each such thing; none where all records are the shipped fiction.
    """
    if not config.has_own_records:
        return ()
    are_own, found = config.main_records_are_own, []
    if config.declare_sizes:
        found.append(
            "The size that each client declares, by which its noise was found, was counted from "
            "its records (declare_sizes)."
        )
    if are_own and config.num_sharing > 1:
        found.append(
            f"One file was dealt out among {config.num_sharing} clients, so that one record more "
            "would move others from client to client."
        )
    if are_own and config.server_side.evaluation.path is None:
        found.append(
            "The test records were split off from the records: scores and examples are of them."
        )
    else:
        found.append("Test records whose prompt stands among the records were left out.")
    if config.tuned_on is TunedOn.SYNTHETIC:
        found.append(
            "What the synthetic rows have in common with the records was measured on these "
            "(private_overlap)."
        )
    return tuple(found)


def _delivered(world: World, releases: Sequence[AdmittedRelease]) -> list[ClientFolder]:
    """Return the clients that took part: those of which both proxies were admitted."""
    given = {(release.client_name, release.proxy) for release in releases}
    return [
        client
        for client in world.clients
        if all((client.path.name, proxy) in given for proxy in ProxyKind)
    ]


def pool_texts(pool: Sequence[CuratedSample]) -> list[str]:
    """Return all that is handed on of a pool: every prompt with each of its two responses."""
    texts = [f"{item.prompt}\n{text}" for item in pool for text in (item.chosen, item.rejected)]
    return list(dict.fromkeys(texts))  # a prompt with one answer has it on both sides
