"""From the scores of every attack to bounds on ε: over all canaries, and over each kind of them.

Each bound is given twice: as it holds for its row alone, and as it holds for all rows at once.
Whoever looks at many attacks and quotes the best of them must quote the latter.

Shapes: `m` canaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from simulations.audit.bounds import area_under_curve, audit_bound
from simulations.audit.config import CanaryKind

_ALL_KINDS: Final = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackScores:
    """What one attack said of every canary."""

    release: str
    """What was attacked: generator, reward, or text."""
    attack: str
    """How."""
    values: Sequence[float]
    """One for each canary, (m,); higher where it was likelier trained on."""
    claimed_epsilon: float
    """ε that is claimed for what was attacked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRow:
    """One attack on one release, judged over one kind of canary."""

    release: str
    """What was attacked: generator, reward, or text."""
    attack: str
    """How."""
    kind: str
    """Kind of canary, or `all`."""
    num_canaries: int
    """Canaries it was judged on, m."""
    area_under_curve: float | None
    """How often an included canary scores above another; 0.5 is chance. None where coins left none
    of the kind in, or none out."""
    num_guesses: int
    """Guesses of the best strategy."""
    num_correct: int
    """Right ones among them."""
    epsilon: float
    """Lower bound on ε, holding for this row alone at the confidence level."""
    joint_epsilon: float
    """Lower bound on ε, holding for all rows at once at the confidence level."""
    claimed_epsilon: float
    """ε that is claimed for what was attacked."""

    @property
    def exceeds_claim(self) -> bool:
        """Whether the bound that holds for all rows at once is above the claim."""
        return self.joint_epsilon > self.claimed_epsilon


def judge_scores(
    scores: Sequence[AttackScores],
    *,
    kinds: Sequence[CanaryKind],
    coins: npt.NDArray[np.bool_],
    delta: float,
    confidence_level: float,
) -> tuple[AuditRow, ...]:
    """Bound ε by each attack, over all canaries and over each kind of them.

    Args:
        scores: What the attacks said.
        kinds: Kind of each canary, (m,).
        coins: Which were trained on, (m,).
        delta: δ of the claim.
        confidence_level: Probability with which a bound holds.

    Returns:
        One row an attack and kind; where there is one kind only, no row for all of them.
    """
    distinct = list(dict.fromkeys(kinds))
    groups = {kind.value: np.array([item is kind for item in kinds]) for kind in distinct}
    if len(distinct) > 1:
        groups = {_ALL_KINDS: np.ones(len(kinds), dtype=np.bool_), **groups}
    significance = 1 - confidence_level
    num_rows = len(scores) * len(groups)
    rows = []
    for item in scores:
        values = np.asarray(item.values)
        for name, members in groups.items():
            alone, joint = (
                audit_bound(values[members], coins[members], delta=delta, significance=level)
                for level in (significance, significance / num_rows)
            )
            rows.append(
                AuditRow(
                    release=item.release,
                    attack=item.attack,
                    kind=name,
                    num_canaries=int(members.sum()),
                    area_under_curve=area_under_curve(values[members], coins[members]),
                    num_guesses=alone.num_guesses,
                    num_correct=alone.num_correct,
                    epsilon=alone.epsilon,
                    joint_epsilon=joint.epsilon,
                    claimed_epsilon=item.claimed_epsilon,
                )
            )
    return tuple(rows)
