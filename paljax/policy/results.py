"""What a policy run reports: utilities by group, KL, value, win rates; exact where they can be.

X prompts, Y actions, G groups.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jaxtyping import Float
from numpy.typing import NDArray

from paljax.kernels import maxmin_dual
from paljax.learners.objectives import Groups
from paljax.policies import Params
from paljax.policy.problems import FiniteTables, Problem
from paljax.storage import Table

Scores = dict[str, Any]
REFERENCE = "reference"
SINGLE_REWARD = "utilitarian"  # the optimum for one reward that averages everybody's
# Of the range of the rewards; what float64 reaches for any problem that was tried.
TOLERANCE = 1e-9


class Exact(NamedTuple):
    """The optimum of one objective, found without training."""

    policy: NDArray[np.float64]  # [X, Y]
    weights: list[float] | None  # q [G]; None where there is no one q
    gap: float  # primal minus dual, in the unit of the rewards


def optima(problem: Problem, beta: float, alpha: float) -> dict[str, Exact]:
    """The exact optimum of every objective of a finite problem, and the reference.

    Args:
        problem: One with tables.
        beta: Of the KL.
        alpha: Of CVaR, above zero; up to 1 / G it is MaxMin.
    """
    tables = _tables(problem)
    prompt_weights, shares = problem.prompt_weights, np.asarray(problem.groups.shares, float)
    num_groups = len(shares)
    with jax.enable_x64(True):
        solve = partial(maxmin_dual, beta=beta, group_matrix=jnp.eye(num_groups))
        arrays = (jnp.asarray(tables.rewards), jnp.asarray(tables.log_reference))
        span = float(np.ptp(tables.rewards)) or 1.0
        tolerance = TOLERANCE * span
        whole = jax.jit(partial(solve, *arrays, jnp.asarray(prompt_weights), tolerance=tolerance))
        # A cap of 2 is none; both then are one program.
        found = {"maxmin": _solved(whole(cap=2.0))}
        found["cvar"] = _solved(whole(cap=1 / (alpha * num_groups)))
        alone = jax.vmap(
            lambda rewards, log_reference: solve(
                rewards[None], log_reference[None], jnp.ones(1), tolerance=tolerance
            )
        )(*arrays)
    gap = float(np.asarray(alone.gap) @ prompt_weights)
    found["maxmin_per_prompt"] = Exact(np.asarray(alone.policy)[:, 0], None, gap)
    tilts = {
        "maxmin_per_sample": tables.rewards.min(axis=2),
        "utilitarian": tables.rewards @ shares,
        "majority": tables.rewards[:, :, int(shares.argmax())],
        REFERENCE: np.zeros(tables.rewards.shape[:2]),
    }
    for name, reward in tilts.items():
        scores = tables.log_reference + reward / beta
        policy = np.exp(scores - scores.max(axis=1, keepdims=True))
        found[name] = Exact(policy / policy.sum(axis=1, keepdims=True), None, 0.0)
    return found


def _solved(solution: Any) -> Exact:
    policy, q = np.asarray(solution.policy), np.asarray(solution.q)
    return Exact(policy, q.tolist(), float(solution.gap))


def exact_scores(
    problem: Problem, policy: Float[np.ndarray, "X Y"], against: Mapping[str, Any], beta: float
) -> Scores:
    """Scores of a policy by exact expectations.

    Args:
        problem: One with tables.
        policy: Probabilities.
        against: Policies [X, Y] to play against, by name: a win is a response that a group's reward
            puts above the other policy's, a tie counts half.
        beta: Of the KL.

    Returns:
        utilities and win_rates by group, minimum, mean (groups by their shares), kl, value.
    """
    tables, weights = _tables(problem), problem.prompt_weights
    utilities = np.einsum("x,xy,xyg->g", weights, policy, tables.rewards)
    held = policy > 0
    log_ratio = np.where(held, np.log(np.where(held, policy, 1)), 0.0)
    log_ratio -= np.where(held, tables.log_reference, 0.0)
    scores = _scores(problem.groups, utilities, float(weights @ (policy * log_ratio).sum(1)), beta)
    scores["win_rates"] = {
        name: dict(
            zip(problem.groups.names, _wins(tables.rewards, policy, other, weights), strict=True)
        )
        for name, other in against.items()
    }
    return scores


def sampled_scores(problem: Problem, params: Params, key: Any, samples: int, beta: float) -> Scores:
    """The same from fresh responses, with standard errors; prompts are the problem's own.

    The errors are of the responses drawn: how far another draw for the same prompts would differ.
    """
    policy, prompts = problem.policy, problem.prompts
    init_key, draw_key = jax.random.split(key)
    reference = policy.reference(policy.init(init_key))

    @jax.jit
    def draw(params: Params, reference: Params) -> tuple[Any, Any, Any]:
        drawn = policy.sample(params, draw_key, prompts, samples)
        log_policy, log_reference = (
            policy.log_probs(each, prompts, drawn.tokens, drawn.mask)
            for each in (params, reference)
        )
        rewards = problem.rewards.of_responses(prompts, drawn.tokens, drawn.mask)
        log_ratio = jnp.sum(log_policy - log_reference, axis=2)
        return rewards, log_ratio, jnp.sum(drawn.mask, axis=2)

    rewards, log_ratio, length = (np.asarray(part, float) for part in draw(params, reference))
    weights = problem.prompt_weights

    def error(values: NDArray[np.float64]) -> float:
        by_prompt = values.var(axis=1, ddof=1) / samples
        return float(np.sqrt((weights**2) @ by_prompt))

    utilities = np.einsum("x,xng->g", weights, rewards) / samples
    scores = _scores(problem.groups, utilities, float(weights @ log_ratio.mean(axis=1)), beta)
    names = problem.groups.names
    scores["standard_errors"] = {name: error(rewards[:, :, g]) for g, name in enumerate(names)}
    scores["kl_standard_error"] = error(log_ratio)
    scores["length"] = float(weights @ length.mean(axis=1))
    scores["samples"] = samples
    return scores


def policy_table(problem: Problem, policy: Float[np.ndarray, "X Y"], best: Any) -> Table:
    """policy.parquet: a row a prompt and action."""
    tables = _tables(problem)
    num_prompts, num_actions = policy.shape
    return Table(
        columns={
            "prompt": np.repeat(np.arange(num_prompts), num_actions),
            "action": list(tables.actions) * num_prompts,
            "probability": policy.ravel(),
            "reference": np.exp(tables.log_reference).ravel(),
            "maxmin": np.asarray(best).ravel(),
            "rewards": tables.rewards.reshape(num_prompts * num_actions, -1).tolist(),
        },
        types={
            "prompt": pa.int32(),
            "action": pa.string(),
            "probability": pa.float64(),
            "reference": pa.float64(),
            "maxmin": pa.float64(),
            "rewards": pa.list_(pa.float64()),
        },
    )


def total_variation(
    left: Float[np.ndarray, "X Y"], right: Float[np.ndarray, "X Y"], weights: NDArray[np.float64]
) -> float:
    """Half the sum of the absolute differences, averaged over prompts."""
    return float(weights @ np.abs(left - right).sum(axis=1) / 2)


def _scores(groups: Groups, utilities: NDArray[np.float64], kl: float, beta: float) -> Scores:
    mean = float(np.asarray(groups.shares, float) @ utilities)
    return {
        "utilities": dict(zip(groups.names, utilities.tolist(), strict=True)),
        "minimum": float(utilities.min()),
        "mean": mean,
        "kl": kl,
        "value": float(utilities.min()) - beta * kl,
    }


def _wins(
    rewards: Float[np.ndarray, "X Y G"],
    policy: Float[np.ndarray, "X Y"],
    other: Float[np.ndarray, "X Y"],
    weights: NDArray[np.float64],
) -> list[float]:
    """P(r_g(y) > r_g(y')) + P(r_g(y) = r_g(y')) / 2 for y of one policy and y' of the other."""
    wins = []
    for g in range(rewards.shape[2]):
        total = 0.0
        for x in range(len(rewards)):
            order = np.argsort(rewards[x, :, g], kind="stable")
            values = rewards[x, order, g]
            mass = np.concatenate([[0.0], np.cumsum(other[x, order])])
            below = mass[np.searchsorted(values, values, side="left")]
            up_to = mass[np.searchsorted(values, values, side="right")]
            total += weights[x] * float(policy[x, order] @ (below + up_to) / 2)
        wins.append(total)
    return wins


def _tables(problem: Problem) -> FiniteTables:
    if problem.tables is None:
        raise ValueError("the problem's actions can't be enumerated")
    return problem.tables
