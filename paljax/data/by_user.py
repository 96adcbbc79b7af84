"""Comparisons arranged by the user who made them: U users, n the most comparisons of one user."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Comparisons


def weighted_choices(comparisons: Comparisons) -> tuple[Comparisons, NDArray[np.float32]]:
    """Comparisons without ties, and their weights: a tie becomes a choice of half weight each way.

    Where there is no comparison, one of no weight stands in, so that there is a row to gather.
    """
    if not len(comparisons.user):
        blank: list[NDArray[Any]] = [np.zeros(1, field.dtype) for field in comparisons]
        return Comparisons(*blank), np.zeros(1, np.float32)
    tied = comparisons.select(comparisons.tie)
    mirrored = tied._replace(chosen=tied.rejected, rejected=tied.chosen)
    both = Comparisons(
        *(np.concatenate(fields) for fields in zip(comparisons, mirrored, strict=True))
    )
    return both, np.where(both.tie, both.weight / 2, both.weight).astype(np.float32)


def one_over_total_weight(comparisons: Comparisons, weights: NDArray[Any]) -> NDArray[np.float64]:
    """For every comparison, one over its user's total weight; 1 where the total is zero."""
    totals = np.bincount(comparisons.user, weights=weights)
    return np.asarray((1 / np.where(totals > 0, totals, 1))[comparisons.user])


def power_of_two(count: int) -> int:
    """The smallest power of two that is no smaller."""
    return 1 << max(count - 1, 0).bit_length()


def rows_by_user(
    comparisons: Comparisons, weights: NDArray[np.float32], num_users: int, *, room: int = 0
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Row numbers of every user's comparisons and their weights, both [U, n] and padded with 0.

    n is a power of two and at least `room`: what a program is compiled for serves other data too.
    """
    counts = np.bincount(comparisons.user, minlength=num_users)
    size = max(power_of_two(int(counts.max())), room)
    order = np.argsort(comparisons.user, kind="stable")
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.zeros((num_users, size), np.int32)
    mask = np.zeros((num_users, size), np.float32)
    rows[comparisons.user[order], place] = order
    mask[comparisons.user[order], place] = weights[order]
    return rows, mask
