"""User and item intercepts: the penalised likelihood's optimum; lenient voters are set apart."""

import numpy as np
from scipy.optimize import minimize

from paljax.data.dataset import Votes
from paljax.reward.intercepts import SPREAD, are_yes_no, item_intercepts

NUM_USERS, NUM_ITEMS = 7, 5


def votes(seed=0) -> Votes:
    """A part of all votes, with the values that Polis has."""
    generator = np.random.default_rng(seed)
    cells = generator.permutation(NUM_USERS * NUM_ITEMS)[:26]
    value = np.where(generator.random(26) < 0.6, 1.0, -1.0).astype(np.float32)
    return Votes(
        (cells // NUM_ITEMS).astype(np.int32), (cells % NUM_ITEMS).astype(np.int32), value, None
    )


def test_intercepts_are_those_of_a_general_optimiser():
    given = votes()

    def loss(both):
        total = np.sum(both**2) / (2 * SPREAD**2)
        for user, item, value in zip(given.user, given.item, given.value, strict=True):
            total += np.logaddexp(0, -value * (both[user] + both[NUM_USERS + item]))
        return total

    found = minimize(loss, np.zeros(NUM_USERS + NUM_ITEMS), method="BFGS", options={"gtol": 1e-8})
    ease = item_intercepts(given, num_users=NUM_USERS, num_items=NUM_ITEMS)
    np.testing.assert_allclose(ease, found.x[NUM_USERS:], atol=1e-4)


def test_a_lenient_voter_says_little_for_an_item():
    """Items 0 and 1 have a vote for them each: of who always agrees, and of who seldom does."""
    lenient = [(0, item, 1) for item in (0, 2, 3, 4)]
    strict = [(1, 1, 1), (1, 2, -1), (1, 3, -1), (1, 4, -1)]
    user, item, value = np.array(lenient + strict).T
    given = Votes(user.astype(np.int32), item.astype(np.int32), value.astype(np.float32), None)
    ease = item_intercepts(given, num_users=3, num_items=6)
    assert ease[1] > ease[0] + 0.5
    assert ease[5] == 0


def test_two_values_are_yes_and_no():
    assert are_yes_no(votes())
    assert not are_yes_no(votes()._replace(value=np.arange(26, dtype=np.float32)))
