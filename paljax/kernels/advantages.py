"""Advantages of sampled responses: B prompts, n responses each."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def leave_one_out(rewards: Float[Array, "B n"]) -> Float[Array, "B n"]:
    """Reward of each response minus the mean reward of the other responses to its prompt.

    Args:
        rewards: Rewards of n >= 2 responses a prompt, in nats.

    Returns:
        Advantages in nats; every row sums to zero.

    Raises:
        ValueError: If rewards is not a matrix or n < 2.

    Source:
        Kool et al. (2019); Ahmadian et al., arXiv 2402.14740, equation 6 (RLOO).

    Example:
        >>> leave_one_out(jnp.array([[1.0, 2.0, 6.0]]))
        Array([[-3. , -1.5,  4.5]], dtype=float32)
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards {rewards.shape} must be [B, n] with n >= 2")
    num_responses = rewards.shape[1]
    mean = jnp.mean(rewards, axis=1, keepdims=True)
    return (rewards - mean) * (num_responses / (num_responses - 1))
