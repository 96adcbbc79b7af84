"""Comparisons arranged by the user who made them: U users, n the most comparisons of one user."""

from typing import Any, NamedTuple

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
    by_user = _arrange(comparisons, num_users)
    size = max(power_of_two(int(by_user.counts.max())), room)
    block = _block(np.arange(num_users), by_user, weights, size)
    return block.rows, block.mask


class _ByUser(NamedTuple):
    """Comparisons in the order of their users."""

    order: NDArray[np.int64]  # [n] row numbers
    first: NDArray[np.int64]  # [U] place of a user's first one in `order`
    counts: NDArray[np.int64]  # [U] how many a user has


def _arrange(comparisons: Comparisons, num_users: int) -> _ByUser:
    counts = np.bincount(comparisons.user, minlength=num_users)
    order = np.argsort(comparisons.user, kind="stable")
    return _ByUser(order, np.cumsum(counts) - counts, counts)


class UserBlock(NamedTuple):
    """Some users whose comparisons are about as many, C of them or padding."""

    users: NDArray[np.int64]  # [C], num_users for padding
    rows: NDArray[np.int32]  # [C, n] row numbers of their comparisons, padded with 0
    mask: NDArray[np.float32]  # [C, n] weights of these


BLOCK = 256  # users
SHORTEST, LONGER = 32, 8  # n of the shortest blocks, and of a block over the next shorter one


def user_blocks(
    comparisons: Comparisons, weights: NDArray[np.float32], num_users: int, *, room: int = 0
) -> list[UserBlock]:
    """Users in blocks by how many comparisons they have, so that few are padded to the most.

    A few people answer twenty times as often as most. There are blocks of n = room, room / 8, ...
    rows a user, all of as many users, so that few programs serve all fits with one room.

    Args:
        comparisons: The users' comparisons; `user` counts from 0.
        weights: Their sample weights.
        num_users: U.
        room: The largest n at least.

    Returns:
        Blocks, each user in one of them.
    """
    by_user = _arrange(comparisons, num_users)
    largest = max(power_of_two(int(by_user.counts.max())), room)
    sizes = [largest]
    while sizes[-1] // LONGER >= SHORTEST:
        sizes.append(sizes[-1] // LONGER)
    size_of = np.array(sizes[::-1])[np.searchsorted(sizes[::-1], by_user.counts)]
    block_size = min(BLOCK, num_users)
    blocks = []
    for size in np.unique(size_of):
        mine = np.flatnonzero(size_of == size)
        for start in range(0, len(mine), block_size):
            some = mine[start : start + block_size]
            users = np.full(block_size, num_users)
            users[: len(some)] = some
            blocks.append(_block(users, by_user, weights, int(size)))
    return blocks


def _block(
    users: NDArray[np.int64], by_user: _ByUser, weights: NDArray[np.float32], size: int
) -> UserBlock:
    """The comparisons of some users, or of padding, side by side."""
    order, first, counts = by_user
    real = users < len(counts)
    safe = np.where(real, users, 0)
    present = np.arange(size) < np.where(real, counts[safe], 0)[:, None]
    places = np.where(present, first[safe][:, None] + np.arange(size), 0)
    rows = np.where(present, order[places], 0).astype(np.int32)
    return UserBlock(users, rows, np.where(present, weights[rows], 0).astype(np.float32))
