"""Learned groups beside known ones: which is which, and how many people are where they belong.

U users, K learned groups, G labels. Learned groups have no names of their own, so they are matched
to labels one to one, as many people as possible together.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Matching(NamedTuple):
    """Learned groups and labels, matched."""

    labels: tuple[str, ...]  # the G labels, sorted
    label_of: tuple[str | None, ...]  # the label matched to each learned group; None: left over
    counts: NDArray[np.int64]  # [K, G] people
    matched: int  # people whose group is matched to their label
    people: int


def match_groups(
    groups: NDArray[Any], labels: Sequence[str | None], *, num_groups: int
) -> Matching:
    """Match learned groups to labels so that most people are where their label is.

    Args:
        groups: Learned group of every user, in [0, num_groups).
        labels: Label of every user; a user without one is left out.
        num_groups: K.

    Returns:
        The matching; with K > G some groups are left over, with K < G some labels.

    Source:
        Kuhn (1955), the assignment problem.

    Example:
        >>> match_groups(np.array([1, 1, 0]), ["a", "a", "b"], num_groups=2).label_of
        ('b', 'a')
    """
    from scipy.optimize import linear_sum_assignment

    known = [place for place, label in enumerate(labels) if label is not None]
    names = tuple(sorted({str(labels[place]) for place in known}))
    counts = np.zeros((num_groups, len(names)), np.int64)
    for place in known:
        counts[int(groups[place]), names.index(str(labels[place]))] += 1
    rows, columns = linear_sum_assignment(-counts)
    label_of: list[str | None] = [None] * num_groups
    for row, column in zip(rows, columns, strict=True):
        label_of[row] = names[column]
    return Matching(names, tuple(label_of), counts, int(counts[rows, columns].sum()), len(known))


def label_of_user(
    users: NDArray[Any], labels: NDArray[np.object_] | None, num_users: int
) -> list[str | None]:
    """The label that all comparisons of a user carry; None where there is none or several."""
    if labels is None:
        return [None] * num_users
    found: list[set[str]] = [set() for _ in range(num_users)]
    for user, label in zip(users.tolist(), labels.tolist(), strict=True):
        found[user].add(str(label))
    return [next(iter(names)) if len(names) == 1 else None for names in found]
