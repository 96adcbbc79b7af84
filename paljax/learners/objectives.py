"""What a policy is trained for: how rewards of G groups become one reward of a response.

Every objective is a function of the groups and its own keyword arguments, which are the keys of the
configuration's `objective` section.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
from annotated_types import Gt, Le
from jaxtyping import Array, Float

from paljax.ranges import Count


class Groups(NamedTuple):
    """Who is to be served."""

    names: tuple[str, ...]  # [G]
    shares: Float[Array, "G"]  # of the population, summing to 1


class Objective(NamedTuple):
    """How groups' rewards are weighed."""

    weights: Float[Array, "G"]  # q at the start
    adapts: bool  # whether q goes to the worst-off
    by_prompt: bool  # whether every prompt has a q of its own
    cap: float  # largest weight of a group
    # (groups' rewards of responses, q) -> the reward to maximise
    of_response: Callable[[Float[Array, "... G"], Float[Array, "... G"]], Float[Array, "..."]]


def weighed(rewards: Float[Array, "... G"], q: Float[Array, "... G"]) -> Float[Array, "..."]:
    """Σ_g q_g r_g."""
    return jnp.sum(q * rewards, axis=-1)


def least(rewards: Float[Array, "... G"], q: Float[Array, "... G"]) -> Float[Array, "..."]:
    """min_g r_g, of every response by itself; q plays no part."""
    return jnp.min(rewards, axis=-1)


def maxmin(groups: Groups, /) -> Objective:
    """The worst-off group's expected utility, over all prompts: MaxMin-RLHF, equation 7."""
    return Objective(_even(groups), adapts=True, by_prompt=False, cap=1.0, of_response=weighed)


def maxmin_per_prompt(groups: Groups, /) -> Objective:
    """The expectation over prompts of the worst-off group's expected utility at that prompt.

    Weights at a prompt are those of the visits before: at the first they are even, so that a fit
    which sees every prompt once is utilitarian with even shares.
    """
    return maxmin(groups)._replace(by_prompt=True)


def maxmin_per_sample(groups: Groups, /) -> Objective:
    """The expected minimum over groups: what MaxMin-RLHF's released code trains, and no MaxMin."""
    return Objective(_even(groups), adapts=False, by_prompt=False, cap=1.0, of_response=least)


def utilitarian(groups: Groups, /) -> Objective:
    """The mean utility, groups weighed by their shares of the population."""
    return Objective(groups.shares, adapts=False, by_prompt=False, cap=1.0, of_response=weighed)


def majority(groups: Groups, /) -> Objective:
    """The utility of the group with the largest share; the first of several."""
    largest = jnp.arange(len(groups.names)) == jnp.argmax(groups.shares)
    return utilitarian(groups)._replace(weights=largest.astype(groups.shares.dtype))


def single(groups: Groups, /, *, group: Count = 0) -> Objective:
    """The utility of one group, by its number.

    Raises:
        ValueError: If there is no such group.
    """
    if group >= len(groups.names):
        raise ValueError(f"there is no group {group}; the last of {len(groups.names)} is "
                         f"{len(groups.names) - 1}")  # fmt: skip
    chosen = jnp.arange(len(groups.names)) == group
    return utilitarian(groups)._replace(weights=chosen.astype(groups.shares.dtype))


def cvar(groups: Groups, /, *, alpha: Annotated[float, Gt(0), Le(1)] = 0.5) -> Objective:
    """The mean utility of the worst-off part α of the groups: q_g <= 1 / (α G)."""
    return maxmin(groups)._replace(cap=1 / (alpha * len(groups.names)))


def _even(groups: Groups) -> Float[Array, "G"]:
    return jnp.full(len(groups.names), 1 / len(groups.names), groups.shares.dtype)


OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "maxmin": maxmin,
    "maxmin_per_prompt": maxmin_per_prompt,
    "maxmin_per_sample": maxmin_per_sample,
    "utilitarian": utilitarian,
    "majority": majority,
    "single": single,
    "cvar": cvar,
}


def build_objective(name: str, groups: Groups, options: Mapping[str, Any]) -> Objective:
    """An objective by its name, with its keyword arguments."""
    return OBJECTIVES[name](groups, **options)
