"""Likelihood of choices, and what it says about who chose.

B comparisons, U users, K prototypes or groups. Margins are reward(chosen) - reward(rejected) in
nats of log-odds.
"""

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
    # A sum over many comparisons loses what bfloat16 can't hold; at least float32 keeps it.
    precise = jnp.float64 if margins.dtype == jnp.float64 else jnp.float32
    log_choices = log_choice(margins.astype(precise))
    log_likelihood = jax.ops.segment_sum(log_choices, users, num_segments=num_users)
    return log_prior.astype(precise)[None, :] + log_likelihood
