"""Agreement of held-out people with what rules chose, with intervals by bootstrap over people.

G groups, F folds, Y candidates, R resamples (row 0 is the people as they are).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.polis_consensus import rules, votes

INTERVAL = (2.5, 97.5)


class Agreements(NamedTuple):
    """Of every rule: the agreement of each group, [1 + R, G]; row 0 is the estimate."""

    by_rule: dict[str, NDArray[np.float64]]


def agreements(
    talk: votes.Conversation,
    policies: Sequence[dict[str, NDArray[np.float64]]],
    *,
    resamples: int,
    seed: int,
) -> Agreements:
    """Mean over folds of Σ_y π_fold(y) · (share of the group's held-out voters who agreed with y).

    People are resampled within a group and fold. Statements that nobody of the group voted on, in
    the fold or in a resample of it, are left out and π renormalised.
    """
    generator = np.random.default_rng(seed)
    shape = (1 + resamples, len(talk.groups))
    totals = {rule: np.zeros(shape) for rule in rules.NAMES}
    for fold, chosen in enumerate(policies):
        for g in range(len(talk.groups)):
            people = np.flatnonzero((talk.fold == fold) & (talk.group == g))
            copies = generator.multinomial(
                len(people), np.full(len(people), 1 / len(people)), size=resamples
            )
            copies = np.vstack([np.ones((1, len(people))), copies])
            rows = np.ix_(people, talk.candidates)
            voted = copies @ talk.voted[rows]
            agreed = copies @ (talk.agreed & talk.voted)[rows]
            rate = agreed / np.maximum(voted, 1)
            for rule, policy in chosen.items():
                weight = policy * (voted > 0)
                totals[rule][:, g] += (weight * rate).sum(axis=1) / weight.sum(axis=1)
    return Agreements({rule: total / len(policies) for rule, total in totals.items()})


def compare(
    talk: votes.Conversation, found: Agreements, shares: NDArray[np.float64]
) -> dict[str, Any]:
    """By rule: every group's agreement, the worst group's, the people's, and MaxMin's lead.

    The worst group has the interval of that group, taken as given; the lead that of the difference
    of two minima, paired within people.
    """
    best = found.by_rule[rules.MAXMIN].min(axis=1)
    rows = {}
    for rule, values in found.by_rule.items():
        worst = int(values[0].argmin())
        lead = best - values.min(axis=1)
        rows[rule] = {
            "groups": dict(zip(talk.groups, values[0].tolist(), strict=True)),
            "intervals": dict(zip(talk.groups, map(_interval, values.T), strict=True)),
            "worst_group": talk.groups[worst],
            "worst": float(values[0, worst]),
            "worst_interval": _interval(values[:, worst]),
            "mean": float(values[0] @ shares),
            "mean_interval": _interval(values @ shares),
            "maxmin_ahead": float(lead[0]),
            "maxmin_ahead_interval": _interval(lead),
        }
    return rows


def over_conversations(found: Sequence[Agreements]) -> dict[str, Any]:
    """The mean over conversations of the worst group's agreement, and MaxMin's lead in it."""
    worst = {
        rule: np.mean([talk.by_rule[rule].min(axis=1) for talk in found], axis=0)
        for rule in rules.NAMES
    }
    return {
        rule: {
            "worst": float(values[0]),
            "maxmin_ahead": float((worst[rules.MAXMIN] - values)[0]),
            "maxmin_ahead_interval": _interval(worst[rules.MAXMIN] - values),
        }
        for rule, values in worst.items()
    }


def _interval(values: NDArray[np.float64]) -> list[float]:
    """95 % percentiles of the resamples, which are all rows but the first."""
    return [float(end) for end in np.percentile(values[1:], INTERVAL)]
