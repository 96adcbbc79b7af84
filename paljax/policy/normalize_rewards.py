"""Rewards that groups can be compared by: centred on the reference policy, or as win rates.

X prompts, Y responses in a table, n sampled responses a prompt, C rewards, K groups. A group's
reward is known only up to a constant for each prompt and a scale, and the minimum over groups
compares both. What a group makes of several rewards, `of_groups`, comes first: each reward measured
by itself and mixed after would put another order on responses. Everything here is a pure function
of arrays; only `require_finite` and `require_varied` look at values.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from paljax.errors import UserError, nearest

# Units in the last place by which a centre of equal rewards may miss them.
_ROUNDINGS = 8

Normalization = Literal["reference", "regret", "win_rate", "none"]


class Calibration(NamedTuple):
    """What rewards are measured against; frozen once it is made."""

    center: Float[Array, "X K"] | None  # nats, subtracted; None: the level stays
    scale: Float[Array, "K"]  # nats a unit, divided by; 1 where a reward is constant
    reference: Float[Array, "X n K"] | None  # rewards of responses of the reference, for win rates
    log_weights: Float[Array, "X n"] | None  # their log-probabilities, normalised


def of_groups(rewards: Float[Array, "X n C"], matrix: Float[Array, "K C"]) -> Float[Array, "X n K"]:
    """Rewards of the groups, Σ_c A_kc r_c, before anything measures them.

    Args:
        rewards: In nats, of responses.
        matrix: A, how much each group makes of each reward.

    Source:
        paljax's design, section 2.5.
    """
    return jnp.matmul(rewards, matrix.T, precision=jax.lax.Precision.HIGHEST)


def calibrate(
    rewards: Float[Array, "X n K"],
    *,
    kind: Normalization = "reference",
    beta: float | Float[Array, ""] = 1.0,
    log_reference: Float[Array, "X n"] | None = None,
    prompt_weights: Float[Array, "X"] | None = None,
) -> Calibration:
    """Measure rewards on responses of the reference policy.

    - reference: centre of each prompt, E_ref r_k(x, y); one scale a group, the standard deviation
      of r_k under the reference around these centres, its variance averaged over prompts.
    - regret: centre of each prompt, β log E_ref exp(r_k(x, y) / β), the most that a policy for
      group k alone could have (reward minus β KL). Scale one.
    - win_rate: the responses themselves.
    - none: nothing.

    Args:
        rewards: Rewards of every group, in nats: of samples of the reference policy, or of all
            responses.
        kind: A name above.
        beta: β > 0, nats of reward for a nat of KL; for regret only.
        log_reference: Log-probabilities of the responses where they are all there are. None: they
            are samples, of which `reference` needs at least two a prompt, and its variance counts
            n - 1.
        prompt_weights: Of the average over prompts, >= 0, summing to 1; None: equal ones.

    Returns:
        The calibration of these prompts.

    Raises:
        ValueError: If the kind is unknown or shapes don't fit.

    Source:
        paljax's design, section 2.5. Regret: the value of the KL-regularised optimum, Ziebart
        (2010); Rafailov et al., arXiv 2305.18290, equation 4.
    """
    _check(rewards, log_reference, kind)
    num_samples = rewards.shape[1]
    ones = jnp.ones(rewards.shape[2], rewards.dtype)
    if kind == "none":
        return Calibration(None, ones, None, None)
    log_weights = log_reference
    if log_weights is None:
        log_weights = jnp.full(rewards.shape[:2], -jnp.log(num_samples), rewards.dtype)
    if kind == "win_rate":
        return Calibration(None, ones, rewards, log_weights)
    if kind == "regret":
        tilted = log_weights[:, :, None] + rewards / beta
        return Calibration(beta * jax.nn.logsumexp(tilted, axis=1), ones, None, None)
    center, variance, varies = _spread(rewards, log_weights, prompt_weights)
    if log_reference is None:
        if num_samples < 2:
            raise ValueError(f"rewards {rewards.shape}: wanted two samples a prompt or more")
        variance = variance * (num_samples / (num_samples - 1))
    scale = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 1)
    return Calibration(center, scale, None, None)


def apply(calibration: Calibration, rewards: Float[Array, "X m K"]) -> Float[Array, "X m K"]:
    """Measure rewards of responses by a calibration of the same prompts.

    Args:
        calibration: Of `calibrate`, its prompts in the order of the rewards' (`at_prompts`).
        rewards: Rewards of any responses to them, in nats.

    Returns:
        (r_k - centre) / scale; for win rates E_{y' ~ ref} σ(r_k(x, y) - r_k(x, y')), the
        probability in [0, 1] that group k prefers the response to one of the reference.
    """
    if calibration.reference is not None and calibration.log_weights is not None:
        return _win_rates(rewards, calibration.reference, calibration.log_weights)
    if calibration.center is not None:
        rewards = rewards - calibration.center[:, None, :]
    return rewards / calibration.scale[None, None, :]


def at_prompts(calibration: Calibration, prompts: Int[Array, "B"]) -> Calibration:
    """The calibration of some of its prompts, in this order."""

    def rows(field: Array | None) -> Array | None:
        return None if field is None else jnp.take(field, prompts, axis=0)

    return calibration._replace(
        center=rows(calibration.center),
        reference=rows(calibration.reference),
        log_weights=rows(calibration.log_weights),
    )


def normalize(
    rewards: Float[Array, "X Y K"],
    log_reference: Float[Array, "X Y"],
    prompt_weights: Float[Array, "X"],
    *,
    kind: Normalization,
    beta: float | Float[Array, ""],
) -> Float[Array, "X Y K"]:
    """Normalise a table of all responses, exactly.

    Args:
        rewards: Rewards of every group, in nats.
        log_reference: Log-probabilities of the reference policy, normalised over Y; -inf for what
            it never says.
        prompt_weights: Of expectations over prompts, >= 0, summing to 1.
        kind: reference, regret, win_rate or none; see `calibrate`.
        beta: β > 0.

    Returns:
        Normalised rewards.

    Raises:
        ValueError: If the kind is unknown or shapes don't fit.

    Example:
        >>> rewards = jnp.array([[[1.0], [3.0]]])
        >>> even = jnp.log(jnp.array([[0.5, 0.5]]))
        >>> print(normalize(rewards, even, jnp.ones(1), kind="reference", beta=1.0)[0, :, 0])
        [-1.  1.]
    """
    calibration = calibrate(
        rewards, kind=kind, beta=beta, log_reference=log_reference, prompt_weights=prompt_weights
    )
    return apply(calibration, rewards)


def require_finite(rewards: Float[Array, "X n C"], names: Sequence[str]) -> None:
    """Refuse rewards that are not finite; groups that make nothing of them would not be, either.

    Args:
        rewards: Of responses of the reference policy.
        names: Of the rewards.

    Raises:
        UserError: Names the first such reward.
    """
    finite = np.isfinite(np.asarray(rewards)).all(axis=(0, 1))
    for name, usable in zip(names, finite, strict=True):
        if not usable:
            raise UserError(f"reward {name!r} is not finite (NaN or infinite)")


def require_varied(
    rewards: Float[Array, "X n K"],
    names: Sequence[str],
    *,
    kind: Normalization,
    log_reference: Float[Array, "X n"] | None = None,
    prompt_weights: Float[Array, "X"] | None = None,
) -> None:
    """Refuse groups whose reward has no scale where it is to be divided by one.

    Args:
        rewards: As `calibrate` takes them.
        names: Of the groups.
        kind: The normalisation.
        log_reference: As `calibrate` takes it: what it forbids is no spread.
        prompt_weights: As `calibrate` takes them: prompts of no weight have no spread, either.

    Raises:
        UserError: Names the first such group.
    """
    if kind != "reference":
        return
    log_weights = log_reference
    if log_weights is None:
        log_weights = jnp.full(rewards.shape[:2], -jnp.log(rewards.shape[1]), rewards.dtype)
    _, _, varies = _spread(rewards, log_weights, prompt_weights)
    for name, usable in zip(names, np.asarray(varies), strict=True):
        if not usable:
            raise UserError(
                f"group {name!r}: its reward is the same for all responses to a prompt, but for "
                "rounding, so it has no scale; leave the group out, or choose another "
                "normalisation: 'none', 'regret'"
            )


def _spread(
    rewards: Float[Array, "X n K"],
    log_weights: Float[Array, "X n"],
    prompt_weights: Float[Array, "X"] | None,
) -> tuple[Float[Array, "X K"], Float[Array, "K"], Bool[Array, "K"]]:
    """Centres, variances around them, and whether there is more to a variance than rounding.

    Only responses that the reference gives, to prompts that count, are looked at.
    """
    if prompt_weights is None:
        prompt_weights = jnp.full(len(rewards), 1 / len(rewards), rewards.dtype)
    probabilities = jnp.exp(log_weights)[:, :, None]
    center = jnp.sum(probabilities * rewards, axis=1)
    squares = jnp.sum(probabilities * (rewards - center[:, None, :]) ** 2, axis=1)
    variance = prompt_weights @ squares
    said = (probabilities > 0) & (prompt_weights > 0)[:, None, None]
    highest = jnp.max(jnp.where(said, rewards, -jnp.inf), axis=1)
    lowest = jnp.min(jnp.where(said, rewards, jnp.inf), axis=1)
    # What rounding leaves of a constant reward is no spread to divide by.
    epsilon = jnp.finfo(rewards.dtype).eps  # type: ignore[no-untyped-call]
    rounding = _ROUNDINGS * epsilon * jnp.max(jnp.where(said, jnp.abs(rewards), 0), axis=(0, 1))
    differs = jnp.any(highest > lowest, axis=0)
    return center, variance, differs & (variance > rounding**2)


def _win_rates(
    rewards: Float[Array, "X m K"],
    reference: Float[Array, "X n K"],
    log_weights: Float[Array, "X n"],
) -> Float[Array, "X m K"]:
    def of_prompt(arrays: tuple[Array, Array, Array]) -> Array:
        own, others, log_weight = arrays
        wins = jax.nn.sigmoid(own[:, None, :] - others[None, :, :])
        return jnp.einsum("mnk,n->mk", wins, jnp.exp(log_weight))

    # Prompt by prompt: all pairs of all prompts at once would not fit.
    rates: Array = jax.lax.map(of_prompt, (rewards, reference, log_weights))
    return rates


def _check(rewards: Array, log_reference: Array | None, kind: str) -> None:
    if kind not in get_args(Normalization):
        raise ValueError(f"kind {kind!r}: {nearest(kind, get_args(Normalization))}")
    fits = log_reference is None or log_reference.shape == rewards.shape[:2]
    if rewards.ndim != 3 or not fits:
        given = None if log_reference is None else log_reference.shape
        raise ValueError(
            f"rewards {rewards.shape} and log_reference {given} must be [X, n, K] and [X, n]"
        )
