"""Rules that choose a distribution over Y candidates, all equally concentrated.

A rule that scores statements picks π ∝ exp(score / temperature); MaxMin picks π for all groups
together. The temperature is the one at which exp(entropy of π) is a given number of statements:
a shortlist of that size. No rule then wins by daring more.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.polis_consensus.votes import Counts
from paljax.kernels import maxmin_dual

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

MAXMIN = "MaxMin, learned rewards"
# One Bradley-Terry reward of statements against silence has a number for each statement, and its
# likelihood is highest at the log-odds of everybody's votes: the order of majority rule.
SINGLE = "Majority rule, single reward"
NAMES = (
    MAXMIN,
    "Group-informed consensus",
    "MaxMin, counted votes",
    "Utilitarian, learned rewards",
    SINGLE,
    "Largest group's reward",
)
# Temperatures are found between these, in units of a score's range.
COLDEST, HOTTEST = 1e-4, 1e2
HALVINGS = 40
TOLERANCE = 1e-9


class Chosen(NamedTuple):
    """A distribution over the candidates and the temperature that it was found at."""

    policy: Vector  # [Y]
    temperature: float  # β, in the unit of the scores


def choose(agreement: Matrix, shares: Vector, counted: Counts, size: float) -> dict[str, Chosen]:
    """What every rule chooses.

    Args:
        agreement: Predicted probability that a member of a group agrees, [G, Y].
        shares: Of the groups in the people, [G].
        counted: The votes that the rewards were learned from.
        size: Of the shortlist, in statements.

    Returns:
        By name of the rule.
    """
    # Polis's smoothing, one agreeing and one other vote: Small et al. (2021), "group-informed
    # consensus" is the product of these over groups.
    smoothed = (counted.agreed + 1) / (counted.voted + 2)
    everybody = (counted.agreed.sum(axis=0) + 1) / (counted.voted.sum(axis=0) + 2)
    scores: Mapping[str, Vector] = {
        "Group-informed consensus": np.log(smoothed).sum(axis=0),
        "Utilitarian, learned rewards": shares @ agreement,
        SINGLE: everybody,
        "Largest group's reward": agreement[int(shares.argmax())],
    }
    found = {name: of_score(score, size) for name, score in scores.items()}
    found[MAXMIN] = fairest(agreement, size)
    found["MaxMin, counted votes"] = fairest(smoothed, size)
    return {name: found[name] for name in NAMES}


def of_score(score: Vector, size: float) -> Chosen:
    """π ∝ exp(score / temperature) with exp(entropy) = size."""

    def tilted(temperature: float) -> Vector:
        weights = np.exp((score - score.max()) / temperature)
        return np.asarray(weights / weights.sum())

    return _as_concentrated(tilted, float(np.ptp(score)), size)


def fairest(agreement: Matrix, size: float) -> Chosen:
    """The distribution whose worst-off group agrees most, with exp(entropy) = size."""
    with jax.enable_x64(True):
        rewards = jnp.asarray(agreement.T[None])

        def solved(temperature: float) -> Vector:
            return np.asarray(_maxmin(rewards, temperature).policy[0])

        return _as_concentrated(solved, float(np.ptp(agreement)), size)


@jax.jit
def _maxmin(rewards: Any, beta: Any) -> Any:
    num_actions, num_groups = rewards.shape[1:]
    return maxmin_dual(
        rewards,
        jnp.full((1, num_actions), -jnp.log(num_actions)),
        jnp.ones(1),
        beta=beta,
        group_matrix=jnp.eye(num_groups),
        tolerance=TOLERANCE,
    )


def _as_concentrated(policy_at: Callable[[float], Vector], unit: float, size: float) -> Chosen:
    """Bisect the logarithm of the temperature: entropy rises with it."""
    low, high = np.log(COLDEST * unit), np.log(HOTTEST * unit)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if effective_number(policy_at(float(np.exp(middle)))) < size:
            low = middle
        else:
            high = middle
    # Rounded, so that a run can be gone on with by a program that rounds elsewhere.
    temperature = float(f"{np.exp((low + high) / 2):.5g}")
    return Chosen(policy_at(temperature), temperature)


def effective_number(policy: Vector) -> float:
    """exp(entropy): how many equally likely statements are as spread out."""
    held = policy[policy > 0]
    return float(np.exp(-(held * np.log(held)).sum()))
