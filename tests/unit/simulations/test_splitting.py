"""Uneven splits: nobody is lost, nothing inseparable is parted, everybody has enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.tables import TextRow, inseparable_clusters
from protocol.errors import ConfigurationError
from simulations.config import SplitConfig, SplitKind
from simulations.splitting import split_among_clients

ROWS = [
    TextRow(prompt=f"prompt {n}", response=f"response {n}", topic=f"topic {n % 8}")
    for n in range(400)
]


def split(
    config: SplitConfig,
    *,
    rows: Sequence[TextRow] = ROWS,
    num_clients: int = 4,
    min_units: int = 10,
    seed: int = 1,
) -> tuple[tuple[TextRow, ...], ...]:
    return split_among_clients(
        rows, num_clients, config=config, count_units=len, min_units=min_units, seed=seed
    )


def by_topic(concentration: float) -> SplitConfig:
    return SplitConfig(kind=SplitKind.BY_TOPIC, concentration=concentration)


def skew(parts: Sequence[Sequence[TextRow]]) -> float:
    """Mean over topics of the largest client's share: 1 / 4 where all have the same."""
    topics = {row.topic for row in ROWS}
    shares = [[sum(row.topic == topic for row in part) for part in parts] for topic in topics]
    return float(np.mean([max(counts) / sum(counts) for counts in shares]))


@given(
    kind=st.sampled_from(SplitKind),
    concentration=st.sampled_from([0.01, 0.3, 5.0]),
    labels=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=60, max_size=90),
    seed=st.integers(0, 100),
)
def test_a_split_loses_nobody_and_parts_nothing_that_belongs_together(
    kind: SplitKind, concentration: float, labels: list[tuple[int, int]], seed: int
) -> None:
    rows = [
        TextRow(prompt=f"p{a}", response=str(n), group=f"g{n if n % 3 else b}", topic=f"t{a % 3}")
        for n, (a, b) in enumerate(labels)
    ]
    if len(inseparable_clusters(rows)) < 3:
        return

    parts = split(
        SplitConfig(kind=kind, concentration=concentration),
        rows=rows,
        num_clients=3,
        min_units=0,
        seed=seed,
    )

    assert Counter(id(row) for part in parts for row in part) == Counter(map(id, rows))
    for name in ("prompt", "group"):
        owners = [{getattr(row, name) for row in part} for part in parts]
        assert sum(map(len, owners)) == len(set().union(*owners))


def test_a_small_concentration_gives_each_client_its_own_topics() -> None:
    assert skew(split(by_topic(1000.0))) < 0.35
    assert skew(split(by_topic(0.05))) > 0.7


@pytest.mark.parametrize("kind", [SplitKind.BY_TOPIC, SplitKind.BY_SIZE])
@pytest.mark.parametrize("seed", range(5))
def test_every_client_gets_its_minimum(kind: SplitKind, seed: int) -> None:
    """So small a concentration gives whole topics, or nearly all, to one client."""
    config = SplitConfig(kind=kind, concentration=0.01)
    assert min(map(len, split(config, min_units=0, seed=seed))) < 95

    parts = split(config, min_units=95, seed=seed)

    assert min(map(len, parts)) == 95


@pytest.mark.parametrize("kind", [SplitKind.BY_TOPIC, SplitKind.BY_SIZE])
@pytest.mark.parametrize("concentration", [1e-320, 1e6])
def test_every_concentration_that_is_taken_gives_a_split(
    kind: SplitKind, concentration: float
) -> None:
    parts = split(SplitConfig(kind=kind, concentration=concentration))

    assert sum(map(len, parts)) == len(ROWS)
    assert (min(map(len, parts)) > 95) is (concentration == 1e6)


@pytest.mark.parametrize("concentration", [0.0, 2e6, 1e308, float("inf"), float("nan")])
def test_a_concentration_from_which_no_shares_can_be_drawn_is_refused(
    concentration: float,
) -> None:
    with pytest.raises(ConfigurationError, match=r"split\.concentration .* \(0, 10\^6\]"):
        by_topic(concentration)


def test_shares_give_the_sizes() -> None:
    parts = split(SplitConfig(kind=SplitKind.BY_SIZE, shares=[1.0, 1.0, 2.0, 4.0]))

    assert [len(part) for part in parts] == [50, 50, 100, 200]


def test_shares_that_were_named_are_kept_or_refused() -> None:
    config = SplitConfig(kind=SplitKind.BY_SIZE, shares=[1.0, 1.0, 2.0, 4.0])

    with pytest.raises(ConfigurationError, match=r"split.shares.*at least 51.*one with 50"):
        split(config, min_units=51)


def test_the_minimum_counts_units_not_rows() -> None:
    """Every unit has four rows here."""
    rows = [
        TextRow(prompt=f"p{n}", response="r", group=f"g{n // 4}", topic=f"t{n // 100}")
        for n in range(400)
    ]

    parts = split_among_clients(
        rows,
        4,
        config=by_topic(0.01),
        count_units=lambda some: len({row.group for row in some}),
        min_units=20,
        seed=1,
    )

    assert min(len({row.group for row in part}) for part in parts) == 20


@pytest.mark.parametrize("kind", SplitKind)
def test_the_seed_alone_decides(kind: SplitKind) -> None:
    config = SplitConfig(kind=kind)

    assert split(config) == split(config)
    assert split(config) != split(config, seed=2)


def test_too_few_units_are_told_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"101 privacy units for each of 4 .*400 in all"):
        split(by_topic(1.0), min_units=101)
