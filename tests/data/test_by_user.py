"""Users in blocks: each in one of them, with all of their comparisons and no others."""

import numpy as np
import pytest

from paljax.data.by_user import BLOCK, SHORTEST, rows_by_user, user_blocks
from paljax.data.dataset import Comparisons


def comparisons_of(counts: list[int]) -> Comparisons:
    """So many comparisons of each user, shuffled; which one a row is stands in `task`."""
    user = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = np.arange(len(user), dtype=np.int32)
    return Comparisons(user.astype(np.int32), rows, rows, rows, rows, rows > 0, rows)


@pytest.mark.parametrize("room", [0, 1024])
def test_every_user_is_in_one_block_with_the_comparisons_of_that_user(room):
    generator = np.random.default_rng(1)
    counts = [0, 1, 400, *generator.integers(0, 40, 2 * BLOCK).tolist(), 33, 32]
    rows = comparisons_of(counts)
    weights = generator.random(len(rows.user)).astype(np.float32)
    blocks = user_blocks(rows, weights, len(counts), room=room)
    found = np.concatenate([block.users for block in blocks])
    assert sorted(found[found < len(counts)]) == list(range(len(counts)))
    assert {block.rows.shape[0] for block in blocks} == {BLOCK}
    assert {block.rows.shape[1] for block in blocks} == ({64, 512} if not room else {128, 1024})
    for block in blocks:
        for user, mine, mask in zip(block.users, block.rows, block.mask, strict=True):
            wanted = np.flatnonzero(rows.user == user)
            np.testing.assert_array_equal(mine[mask > 0], wanted)
            np.testing.assert_array_equal(mask[mask > 0], weights[wanted])


def test_few_users_of_one_size_are_one_block_in_their_order():
    rows = comparisons_of([3, 0, SHORTEST, 7])
    weights = np.ones(len(rows.user), np.float32)
    (block,) = user_blocks(rows, weights, 4)
    assert block.users.tolist() == [0, 1, 2, 3]
    for one, other in zip(block[1:], rows_by_user(rows, weights, 4), strict=True):
        np.testing.assert_array_equal(one, other)
