"""Likelihood of choices, and what it says about who chose.

B comparisons, U users, K prototypes or groups. Margins are reward(chosen) - reward(rejected) in
nats of log-odds.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def log_choice(margins: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Log-probability of the choice made, log σ(m).

    Args:
        margins: Reward of the chosen item minus that of the rejected one, in nats.

    Returns:
        Log-probabilities in nats, <= 0; finite for every finite margin.

    Source:
        Bradley and Terry (1952).

    Example:
        >>> log_choice(jnp.array([0.0]))
        Array([-0.6931472], dtype=float32)
    """
    return jax.nn.log_sigmoid(margins)


def log_odds(
    margins: Float[Array, "*batch K"], log_weights: Float[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Log-odds of a choice by someone who belongs to one of K groups, nobody knows which.

    log Σ_k w_k σ(m_k) - log Σ_k w_k σ(-m_k), the margin whose σ is the posterior predictive. It is
    not the margin Σ_k w_k m_k of the mean reward: groups that disagree loudly cancel there, and
    here leave the odds of their sizes.

    Args:
        margins: Margin under every group's reward, in nats.
        log_weights: Log-probabilities of the groups, normalised; -inf for an impossible group.

    Returns:
        Margins in nats, between the least and the greatest of the possible groups' margins.

    Raises:
        ValueError: If the two shapes differ.

    Source:
        paljax's design, section 2.4.

    Example:
        >>> log_weights = jnp.log(jnp.array([0.9, 0.1]))
        >>> print(f"{log_odds(jnp.array([20.0, -20.0]), log_weights):.3f}")
        2.197
    """
    if margins.shape != log_weights.shape:
        raise ValueError(
            f"margins {margins.shape} and log_weights {log_weights.shape} must have one shape"
        )
    precise = _at_least_float32(margins)
    log_weights = log_weights.astype(precise)
    chosen = jax.nn.logsumexp(log_weights + log_choice(margins.astype(precise)), axis=-1)
    rejected = jax.nn.logsumexp(log_weights + log_choice(-margins.astype(precise)), axis=-1)
    return (chosen - rejected).astype(margins.dtype)


def sum_by_user(
    log_choices: Float[Array, "B K"], users: Int[Array, "B"], *, num_users: int
) -> Float[Array, "U K"]:
    """Log-likelihood of all choices of each user under every group, Σ_j log σ(m_jk).

    Args:
        log_choices: Log-probability of every comparison under every group, in nats; weighted where
            comparisons count differently.
        users: Row of the user who made the comparison, in [0, num_users).
        num_users: U.

    Returns:
        Log-likelihoods in nats; 0 for a user without comparisons.

    Raises:
        ValueError: If the shapes don't fit each other.

    Example:
        >>> sum_by_user(jnp.array([[-1.0], [-2.0]]), jnp.array([1, 1]), num_users=2)
        Array([[ 0.],
               [-3.]], dtype=float32)
    """
    if log_choices.ndim != 2 or users.shape != log_choices.shape[:1]:
        raise ValueError(
            f"log_choices {log_choices.shape} and users {users.shape} must be [B, K] and [B]"
        )
    # A sum over many comparisons loses what bfloat16 can't hold; at least float32 keeps it.
    precise = log_choices.astype(_at_least_float32(log_choices))
    sums = jax.ops.segment_sum(precise, users, num_segments=num_users)
    return sums.astype(log_choices.dtype)


def log_evidence(
    margins: Float[Array, "B K"],
    users: Int[Array, "B"],
    log_prior: Float[Array, "K"],
    *,
    num_users: int,
) -> Float[Array, "U"]:
    """Log-probability of all choices of each user when the user's group is unknown.

    log Σ_k η_k Π_j σ(m_jk), where j runs over the user's comparisons.

    Args:
        margins: Margin of every comparison under every group's reward, in nats.
        users: Row of the user who made the comparison, in [0, num_users).
        log_prior: log η, normalised; -inf for an empty group.
        num_users: U.

    Returns:
        Log-probabilities in nats; 0 for a user without comparisons.

    Raises:
        ValueError: If the shapes don't fit each other.

    Source:
        MaxMin-RLHF, arXiv 2402.08925, section 4; paljax's design, section 2.4.

    Example:
        >>> log_evidence(jnp.zeros((2, 1)), jnp.array([0, 0]), jnp.zeros(1), num_users=2)
        Array([-1.3862944,  0.       ], dtype=float32)
    """
    log_joint = _log_joint(margins, users, log_prior, num_users)
    return jax.nn.logsumexp(log_joint, axis=1).astype(margins.dtype)


def responsibilities(
    margins: Float[Array, "B K"],
    users: Int[Array, "B"],
    log_prior: Float[Array, "K"],
    *,
    num_users: int,
) -> Float[Array, "U K"]:
    """Probability of each group given all choices of the user: the E-step.

    q_uk ∝ η_k Π_j σ(m_jk), where j runs over the user's comparisons.

    Args:
        margins: Margin of every comparison under every group's reward, in nats.
        users: Row of the user who made the comparison, in [0, num_users).
        log_prior: log η, normalised; -inf for an empty group.
        num_users: U.

    Returns:
        Rows that sum to 1; a user without comparisons gets η.

    Raises:
        ValueError: If the shapes don't fit each other.

    Source:
        MaxMin-RLHF, arXiv 2402.08925, algorithm 2 in its soft form; paljax's design, section 2.4.

    Example:
        >>> prior = jnp.log(jnp.array([0.5, 0.5]))
        >>> responsibilities(jnp.array([[0.0, 0.0]]), jnp.array([0]), prior, num_users=1)
        Array([[0.5, 0.5]], dtype=float32)
    """
    log_joint = _log_joint(margins, users, log_prior, num_users)
    return jax.nn.softmax(log_joint, axis=1).astype(margins.dtype)


def _log_joint(margins: Array, users: Array, log_prior: Array, num_users: int) -> Array:
    if (
        margins.ndim != 2
        or users.shape != margins.shape[:1]
        or log_prior.shape != margins.shape[1:]
    ):
        raise ValueError(
            f"margins {margins.shape}, users {users.shape} and log_prior {log_prior.shape} "
            "must be [B, K], [B] and [K]"
        )
    precise = _at_least_float32(margins)
    log_likelihood = sum_by_user(log_choice(margins.astype(precise)), users, num_users=num_users)
    return log_prior.astype(precise)[None, :] + log_likelihood


def _at_least_float32(array: Array) -> Any:
    return jnp.float64 if array.dtype == jnp.float64 else jnp.float32
