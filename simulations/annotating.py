"""What a simulation adds to the metrics and report of a run on synthetic data."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from client_side.folder import ClientFolder
from client_side.records import PrivateRecord
from lm.errors import LmError
from lm.tables import ColumnMap, read_table
from protocol.errors import RewardDSError
from protocol.ledger import ProxyKind
from server_side.admission import AdmittedRelease
from server_side.notes import RunNotes, SelectionPrice
from server_side.samples import CuratedSample
from simulations.config import SimulateConfig
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
    if unread:
        return RunNotes(
            arm=config.arm, tuned_on=config.tuned_on.value, clients_without_records=tuple(unread)
        )
    return RunNotes(
        arm=config.arm,
        tuned_on=config.tuned_on.value,
        private_overlap=measure_overlap(
            pool_texts(pool),
            [f"{row.prompt}\n{row.response}" for row in public],
            records=[f"{record.prompt}\n{record.response}" for record in records],
        ),
    )


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
