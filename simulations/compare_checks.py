"""Whether runs that are to be compared differ in their arm alone, as far as their folders say.

What makes a pairing meaningless is refused: another target, other test records, or a test that is
taken in another way. What makes a difference mean something else than the arm is said: releases
that were trained anew, another ε, other code, another device, unlike amounts of tuning.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from client_side.config import ClientConfig
from lm.settings import load_settings, to_mapping
from protocol.errors import StageError
from server_side.evaluation import Metric
from server_side.measuring.comparing import ArmRun, Comparison
from server_side.provenance import read_provenance
from simulations.config import SimulateConfig, TunedOn
from simulations.run_folder import SETTINGS_FILE

_SAME_BUDGET: Final = 0.01
"""Share by which two composed ε may differ and still be called the same."""
_DIGESTS: Final = {"target model": "target_model", "test records": "test_records"}
# How wide an interval is and who else judges; or where rows lie, and how many, of which those that
# all runs judged are compared.
_NOT_OF_THE_TEST: Final = ("path", "judge", "num_resamples", "confidence_level", "max_rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOrigin:
    """What a finished run was made of."""

    folder: Path
    """Its folder."""
    arm: str
    """Name of its arm."""
    seed: int
    """Its seed."""
    test: Mapping[str, object]
    """By name, what decides how the target is judged."""
    clients: ClientConfig
    """What the clients were asked for."""
    releases: Mapping[str, str]
    """Digest of each release; empty where there is none."""
    epsilons: tuple[float, ...]
    """Composed ε of each client, that of an arm on private records too; infinite without noise."""
    code: frozenset[Hashable]
    """Digests of the code that computed, at every start; empty where nobody noted them."""
    devices: frozenset[str]
    """What it computed on, at every start; empty where nobody noted it."""
    dtypes: frozenset[str]
    """What its machine computes in fastest, at every start; empty where nobody noted it."""


def read_origin(folder: Path, *, label: str | None = None) -> RunOrigin:
    """Read what a run was made of.

    Args:
        folder: The run's folder.
        label: Its arm; None takes what its settings say.

    Returns:
        What settings and provenance say; what the latter does not say is None or empty.

    Raises:
        SettingsError: Its settings cannot be read.
    """
    config = load_settings(SimulateConfig, folder / SETTINGS_FILE)
    facts = read_provenance(folder)
    digests: Mapping[str, Any] = facts.get("digests", {})
    ledgers: Mapping[str, Any] = facts.get("ledgers", {})
    starts = [facts, *facts.get("resumed", ())] if facts else []
    has_price = config.tuned_on is not TunedOn.PRIVATE_RECORDS
    return RunOrigin(
        folder=folder,
        arm=label or config.arm,
        seed=config.seed,
        test={
            **{name: digests.get(key) for name, key in _DIGESTS.items()},
            **_test_settings(config),
        },
        clients=config.client_side,
        releases=digests.get("releases", {}),
        epsilons=tuple(
            math.inf if ledger["epsilon"] is None else float(ledger["epsilon"])
            for ledger in ledgers.values()
            if has_price
        ),
        code=frozenset((own["sources_digest"], own.get("simulation_digest")) for own in starts),
        devices=frozenset(own["device"] for own in starts if "device" in own),
        dtypes=frozenset(own["dtype"] for own in starts if "dtype" in own),
    )


def require_one_test(origins: Sequence[RunOrigin]) -> None:
    """Refuse runs of one seed whose targets or tests differ.

    Args:
        origins: All runs that are to be compared. What a run says nothing of is not compared.

    Raises:
        StageError: It names two runs and what differs.
    """
    for own in _by_seed(origins):
        known: dict[str, RunOrigin] = {}
        for origin in own:
            # Digests of which a run says nothing are not compared; a setting of null is a setting.
            silent = {name for name in _DIGESTS if origin.test[name] is None}
            for name in origin.test.keys() - silent:
                first = known.setdefault(name, origin)
                if first.test[name] != origin.test[name]:
                    raise StageError(
                        f"Expected runs with seed={first.seed} to judge one target by one test, "
                        f"found another {name} in {origin.folder} than in {first.folder}. Compare "
                        "runs that differ in their arm alone."
                    )


def origin_notes(origins: Sequence[RunOrigin], comparison: Comparison) -> list[str]:
    """Say what else than the arm may make runs differ.

    Args:
        origins: All runs that are compared.
        comparison: How they did.

    Returns:
        Sentences, for below the tables; none where only the arms differ.
    """
    notes = []
    anew = {
        origin.arm
        for own in _by_seed(origins)
        for origin, *others in _by_clients(own)
        if any(other.releases != origin.releases for other in others)
    }
    if anew:
        notes.append(
            "Trained anew: with the same client settings, runs of one seed start from different "
            f"releases ({', '.join(sorted(anew))} and others), so their differences hold the noise "
            "of two trainings. Run them in one sweep, or with one shared_folder."
        )
    priced = [(max(origin.epsilons), origin.arm) for origin in origins if origin.epsilons]
    if priced and max(priced)[0] > min(priced)[0] * (1 + _SAME_BUDGET):
        (least, cheap), (most, dear) = min(priced), max(priced)
        notes.append(f"Different budgets: {cheap} at ε = {least:.3g}, {dear} at ε = {most:.3g}.")
    seen = [(count, arm.arm) for arm in comparison.arms for count in arm.samples_seen]
    if seen and max(seen)[0] != min(seen)[0]:
        (fewest, brief), (greatest, long) = min(seen), max(seen)
        notes.append(
            f"Different amounts of tuning: {brief} saw {fewest} samples, {long} {greatest}. Set "
            "server_side.finetuning.num_steps to give all arms as many steps."
        )
    if len(frozenset().union(*(origin.code for origin in origins))) > 1:
        notes.append(
            "Different code: not all runs were made with the same version of it from start to end."
        )
    devices: frozenset[str] = frozenset().union(*(origin.devices for origin in origins))
    if len(devices) > 1:
        notes.append(
            f"Different devices ({', '.join(sorted(devices))}): the same seed draws other texts on "
            "each."
        )
    dtypes: frozenset[str] = frozenset().union(*(origin.dtypes for origin in origins))
    if len(dtypes) > 1:
        notes.append(
            f"Different machines: some computed fastest in {' and some in '.join(sorted(dtypes))}, "
            "so the same seed draws other texts on each, and scores differ a little."
        )
    return notes


def untuned_notes(runs: Sequence[ArmRun]) -> list[str]:
    """Say where runs of one seed do not have the untuned target's answers in common.

    Args:
        runs: All runs that are compared.

    Returns:
        A sentence, for below the tables; none where the answers score alike.
    """
    unlike = set()
    first: dict[tuple[int, str], Mapping[Metric, float]] = {}
    for run in runs:
        for row in run.untuned.rows:
            if first.setdefault((run.seed, row.row_id), row.rouge) != row.rouge:
                unlike.add(run.seed)
    if not unlike:
        return []
    return [
        f"The untuned target answered differently in runs of seed "
        f"{', '.join(map(str, sorted(unlike)))}, as other devices, engines or numbers of threads "
        "have it do. The reference's run stands for it, and gaps are measured from there."
    ]


def _test_settings(config: SimulateConfig) -> dict[str, object]:
    evaluation = config.server_side.evaluation
    if evaluation.instruction is None:  # then the test is taken under the clients' own
        evaluation = replace(evaluation, instruction=config.client_side.records.instruction)
    return {
        f"evaluation.{name}": value
        for name, value in to_mapping(evaluation).items()
        if name not in _NOT_OF_THE_TEST
    }


def _by_seed(origins: Sequence[RunOrigin]) -> list[list[RunOrigin]]:
    ordered = sorted(origins, key=lambda origin: origin.seed)
    return [list(own) for _, own in groupby(ordered, key=lambda origin: origin.seed)]


def _by_clients(origins: Sequence[RunOrigin]) -> list[list[RunOrigin]]:
    """Put runs together that have releases and asked the clients for the same."""
    groups: list[list[RunOrigin]] = []
    for origin in origins:
        if not origin.releases:
            continue
        for group in groups:
            if group[0].clients == origin.clients:
                group.append(origin)
                break
        else:
            groups.append([origin])
    return groups
