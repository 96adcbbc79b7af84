"""Baseline for yes/no votes: how readily a user agrees, and how readily people agree to an item.

The log-odds that user u agrees to item i are c_u + b_i. The intercepts are fitted to the votes
themselves; between two items of one user only b remains, so the baseline shows what a pair's order
owes to items alone once lenient and strict voters are told apart. U users, N items, v votes.
"""

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Comparisons, Votes
from paljax.reward.predictors import Margins, Predictor

# Standard deviation of either intercept under its Gaussian prior, in nats: agreement from 2 to 98 %
# lies within two of them.
SPREAD = 2.0
# Each step solves both sets in turn; on Polis nothing moves by a thousandth after half of them.
STEPS = 40


def are_yes_no(votes: Votes) -> bool:
    """Whether the votes have two values."""
    return len(np.unique(votes.value)) == 2


def item_intercepts(votes: Votes, *, num_users: int, num_items: int) -> NDArray[np.float64]:
    """Fit c and b by penalised maximum likelihood, a Newton step for each set in turn.

    Args:
        votes: Training votes, of two values without NaN; the higher is agreement.
        num_users: U.
        num_items: N.

    Returns:
        b [N]; zero for an item without votes.

    Source:
        Rasch (1960), with Gaussian priors.
    """
    agrees = votes.value > votes.value.min()
    ease, leniency = np.zeros(num_items), np.zeros(num_users)
    for _ in range(STEPS):
        for intercepts, whose in ((leniency, votes.user), (ease, votes.item)):
            expected = 1 / (1 + np.exp(-(leniency[votes.user] + ease[votes.item])))
            size = len(intercepts)
            slope = np.bincount(whose, weights=agrees - expected, minlength=size)
            curvature = np.bincount(whose, weights=expected * (1 - expected), minlength=size)
            # At most a nat a step: Newton overshoots where nearly everybody agrees.
            step = (slope - intercepts / SPREAD**2) / (curvature + 1 / SPREAD**2)
            intercepts += np.clip(step, -1, 1)
    return ease


def user_and_item_intercepts(votes: Votes, *, num_users: int, num_items: int) -> Predictor:
    """Everybody prefers the item that is easier to agree to.

    Args:
        votes: Training votes, of two values without NaN.
        num_users: U.
        num_items: N.

    Returns:
        The predictor.
    """
    ease = item_intercepts(votes, num_users=num_users, num_items=num_items)

    def margins(rows: Comparisons) -> Margins:
        return np.asarray(ease[rows.chosen] - ease[rows.rejected])

    return Predictor(seen=margins, joining=lambda support, query: margins(query))
