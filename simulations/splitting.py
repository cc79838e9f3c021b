"""Share records out among the clients of a simulation, evenly or not.

Rows with the same prompt and rows of one group stay together, as in `lm.tables.split_rows`, and
every client gets enough units to draw its batches from. Which row goes where follows from the seed
alone.

Does not cover: one person at two clients. Where no group column is named, or where real clients
share patients, a person's records lie with several clients; each client's guarantee then holds for
what that client released, and the person bears the composition of them all.

Reference: Hsu, Qi and Brown (2019), "Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification": Dirichlet shares. There each client draws its mixture of classes;
here, as is usual since Li et al. (2022, "NIID-Bench"), each topic draws its shares of clients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lm.tables import TextRow, inseparable_clusters, split_rows
from protocol.errors import ConfigurationError
from simulations.config import SplitConfig, SplitKind


def split_among_clients(
    rows: Sequence[TextRow],
    num_clients: int,
    *,
    config: SplitConfig,
    count_units: Callable[[Sequence[TextRow]], int],
    min_units: int,
    seed: int,
) -> tuple[tuple[TextRow, ...], ...]:
    """Share rows out.

    Args:
        rows: All clients' rows; with topics where they are split by topic.
        num_clients: Number of clients.
        config: How to split.
        count_units: Counts the privacy units of some rows.
        min_units: Units that every client needs. Where a draw gives a client fewer, it is filled
            up from those who have most, so very uneven splits come out a little more even; shares
            that were named are refused.
        seed: Fixes which rows go where.

    Returns:
        One tuple a client, each in the order of `rows`.

    Raises:
        ConfigurationError: There are too few units for so many clients, or for the shares named.
        TableError: There are fewer separable rows than clients.
    """
    if config.kind is SplitKind.IID:
        # What is missing here is the caller's to say: it names the client.
        return split_rows(rows, num_clients, seed=seed)
    rng = np.random.default_rng(seed)
    clusters = inseparable_clusters(rows)
    if config.kind is SplitKind.BY_TOPIC:
        parts = _by_topic(rows, clusters, num_clients, config.concentration, rng)
    else:
        shares = config.shares or rng.dirichlet([config.concentration] * num_clients)
        parts = _by_size(clusters, np.asarray(shares, dtype=float), rng)
    units = {id(cluster): count_units([rows[i] for i in cluster]) for cluster in clusters}
    if config.kind is SplitKind.BY_SIZE and config.shares:
        smallest = min(sum(units[id(cluster)] for cluster in part) for part in parts)
        if smallest < min_units:
            raise ConfigurationError(
                f"Expected split.shares to leave every client at least {min_units} privacy units "
                f"(the largest expected_batch_size), found one with {smallest}. Supply more "
                "records, even out the shares, or lower client_side.*.expected_batch_size."
            )
    _fill_up(parts, units, min_units=min_units, rng=rng)
    return tuple(
        tuple(rows[i] for i in sorted(i for cluster in part for i in cluster)) for part in parts
    )


def _by_topic(
    rows: Sequence[TextRow],
    clusters: Sequence[list[int]],
    num_clients: int,
    concentration: float,
    rng: np.random.Generator,
) -> list[list[list[int]]]:
    # A cluster that spans topics counts for that of its first row.
    by_topic: dict[str, list[list[int]]] = {}
    for cluster in clusters:
        by_topic.setdefault(rows[cluster[0]].topic or "", []).append(cluster)
    parts: list[list[list[int]]] = [[] for _ in range(num_clients)]
    for topic in sorted(by_topic):
        own = [by_topic[topic][i] for i in rng.permutation(len(by_topic[topic]))]
        shares = rng.dirichlet([concentration] * num_clients)
        ends = np.round(np.cumsum(shares) * len(own)).astype(int)
        for part, start, end in zip(parts, [0, *ends[:-1]], ends, strict=True):
            part += own[start:end]
    return parts


def _by_size(
    clusters: Sequence[list[int]], shares: np.ndarray, rng: np.random.Generator
) -> list[list[list[int]]]:
    num_rows = sum(map(len, clusters))
    missing = shares / shares.sum() * num_rows
    parts: list[list[list[int]]] = [[] for _ in shares]
    # The largest go first, so that the parts come close to their shares.
    for index in sorted(rng.permutation(len(clusters)), key=lambda i: -len(clusters[i])):
        place = int(np.argmax(missing))
        parts[place].append(clusters[index])
        missing[place] -= len(clusters[index])
    return parts


def _fill_up(
    parts: list[list[list[int]]],
    units: dict[int, int],
    *,
    min_units: int,
    rng: np.random.Generator,
) -> None:
    """Move clusters from the clients with most units to those with too few."""
    sizes = [sum(units[id(cluster)] for cluster in part) for part in parts]
    while (smallest := min(sizes)) < min_units:
        place, donor = sizes.index(smallest), sizes.index(max(sizes))
        movable = [
            index
            for index, cluster in enumerate(parts[donor])
            if sizes[donor] - units[id(cluster)] >= min_units
        ]
        if not movable:
            raise ConfigurationError(
                f"Expected at least {min_units} privacy units for each of {len(parts)} clients "
                f"(the largest expected_batch_size), found {sum(sizes)} in all, of which those "
                "with one prompt or group cannot be divided. Supply more records, have fewer "
                "clients, or lower client_side.*.expected_batch_size."
            )
        cluster = parts[donor].pop(movable[int(rng.integers(len(movable)))])
        parts[place].append(cluster)
        sizes[donor] -= units[id(cluster)]
        sizes[place] += units[id(cluster)]
