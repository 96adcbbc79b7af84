"""Users in blocks: a device owns some of them, and with them their comparisons.

U users in L blocks of V places, D devices with L / D blocks each, S steps an epoch. Blocks, and so
batches, are those of L and not of D: on any number of devices that divides L a fit takes the same
steps, and rows lie in one order, so that a checkpoint written on one number is read on another.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.batches import Plan, Rows, Sizes, list_batches, plan_sizes_of, steps_per_epoch


class Blocks(NamedTuple):
    """Where every user is."""

    row: NDArray[np.int32]  # [U] of a table [L V, ...], block after block
    num_blocks: int  # L
    places: int  # V, in each block

    @property
    def num_rows(self) -> int:
        """L V."""
        return self.num_blocks * self.places


def deal_users(num_comparisons: NDArray[Any], num_blocks: int) -> Blocks:
    """Deal users to blocks so that blocks have about as many comparisons.

    Users are dealt in the order of their comparisons, there and back like cards to L players: what
    one block has more is at most what the busiest user has.

    Args:
        num_comparisons: Of every user, shape [U].
        num_blocks: L.

    Returns:
        The blocks; in a block users keep their order, so that one block changes nothing.
    """
    num_users = len(num_comparisons)
    turn = np.arange(num_users)
    forward, place = (turn // num_blocks) % 2 == 0, turn % num_blocks
    block = np.empty(num_users, np.int64)
    block[np.argsort(-num_comparisons, kind="stable")] = np.where(
        forward, place, num_blocks - 1 - place
    )
    order = np.argsort(block, kind="stable")
    sizes = np.bincount(block, minlength=num_blocks)
    places = max(int(sizes.max()), 1)
    row = np.empty(num_users, np.int32)
    row[order] = (
        block[order] * places + np.arange(num_users) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    )
    return Blocks(row, num_blocks, places)


class Deal(NamedTuple):
    """Rows to train on, with their users numbered by place in a device."""

    rows: Rows
    of_block: list[NDArray[np.int64]]  # [L] rows of each block
    room: int  # comparisons of a block in one step, at most
    steps: int  # S
    num_devices: int  # D
    users: int  # a device has


def deal_rows(rows: Rows, blocks: Blocks, *, num_devices: int, batch_size: int) -> Deal:
    """Deal comparisons to the devices that own their users.

    Args:
        rows: The training rows.
        blocks: Where users are.
        num_devices: D, which divides L.
        batch_size: Of all devices together, at most and on average.

    Returns:
        The deal. S is what it is on one device; each block spreads its rows evenly over S steps.
    """
    row = blocks.row[rows.comparisons.user]
    users = blocks.num_rows // num_devices
    steps = steps_per_epoch(len(row), batch_size)
    order = np.argsort(row // blocks.places, kind="stable")
    ends = np.cumsum(np.bincount(row // blocks.places, minlength=blocks.num_blocks))
    of_block = np.split(order, ends[:-1])
    room = max(-(-len(own) // steps) for own in of_block)
    local = rows.comparisons._replace(user=(row % users).astype(np.int32))
    return Deal(rows._replace(comparisons=local), of_block, room, steps, num_devices, users)


def plan_dealt(deal: Deal, *, sizes: Sizes, seed: int, epoch: int) -> Plan:
    """Shuffle each block's rows over an epoch's steps and list what is distinct on each device.

    Returns:
        The plan of D S batches: S of the first device, then S of the next.
    """
    order, present = _order(deal, seed, epoch)
    return list_batches(deal.rows, order, present, sizes=sizes, num_users=deal.users)


def plan_dealt_sizes(deal: Deal, *, seed: int) -> Sizes:
    """Sizes that hold any epoch's batches of any device (see `plan_sizes`)."""
    return plan_sizes_of(deal.rows, _order(deal, seed, epoch=0)[0])


def _order(deal: Deal, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of every batch, [D S, B], and which of them are not padding."""
    num_blocks = len(deal.of_block)
    order = np.zeros((num_blocks, deal.steps, deal.room), np.int64)
    present = np.zeros(order.shape, bool)
    for block, own in enumerate(deal.of_block):
        if not len(own):
            continue  # padding of row 0; no user of the batch is moved
        shuffled = np.random.default_rng((seed, epoch, block)).permutation(own)
        ends = np.arange(1, deal.steps + 1) * len(own) // deal.steps
        starts = np.concatenate([[0], ends[:-1]])
        place = starts[:, None] + np.arange(deal.room)
        present[block] = place < ends[:, None]
        order[block] = shuffled[np.minimum(place, len(own) - 1)]
    shape = (deal.num_devices, num_blocks // deal.num_devices, deal.steps, deal.room)
    flat = (deal.num_devices * deal.steps, shape[1] * deal.room)
    return (
        order.reshape(shape).swapaxes(1, 2).reshape(flat),
        present.reshape(shape).swapaxes(1, 2).reshape(flat),
    )
