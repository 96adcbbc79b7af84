"""What one iteration of EM reads: every comparison for the E-step, batches for the M-step.

n comparisons, U users, S gradient steps of an M-step.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from paljax.data.batches import Plan, Rows, Sizes, Tables, plan_epoch
from paljax.data.dataset import Comparisons


class Choices(NamedTuple):
    """All comparisons that say who a user is, sorted by user."""

    user: Int[Array, "n"]
    prompt: Int[Array, "n"]  # row of the prompt table; 0 without prompts
    chosen: Int[Array, "n"]  # row of the item table
    rejected: Int[Array, "n"]  # row of the item table
    weight: Float[Array, "n"]
    target: Float[Array, "n"]  # probability that the chosen item is preferred
    observed: Bool[Array, "U"]  # whether the user has a comparison that counts


class Iteration(NamedTuple):
    """One iteration: an E-step on all choices, then a gradient step on each batch."""

    tables: Tables
    choices: Choices
    plan: Plan  # leading axis S


class IterationTables(NamedTuple):
    """What stays on the device."""

    tables: Tables
    choices: Choices


def choices_by_user(
    comparisons: Comparisons, *, num_users: int, label_smoothing: float = 0.0
) -> Choices:
    """Sort comparisons by user and put them on the device.

    Args:
        comparisons: The comparisons; a tie is half a choice for each side.
        num_users: U.
        label_smoothing: ε in [0, 1/2): the chosen item is preferred with probability 1 - ε.

    Returns:
        The choices.
    """
    ordered = comparisons.select(np.argsort(comparisons.user, kind="stable"))
    weight = np.bincount(ordered.user, weights=ordered.weight, minlength=num_users)
    target = np.where(ordered.tie, 0.5, 1 - label_smoothing).astype(np.float32)
    return Choices(
        user=jnp.asarray(ordered.user),
        prompt=jnp.asarray(np.maximum(ordered.prompt, 0)),
        chosen=jnp.asarray(ordered.chosen),
        rejected=jnp.asarray(ordered.rejected),
        weight=jnp.asarray(ordered.weight),
        target=jnp.asarray(target),
        observed=jnp.asarray(weight > 0),
    )


def plan_iteration(
    rows: Rows,
    *,
    sizes: Sizes,
    num_users: int,
    batch_size: int,
    passes: int,
    seed: int,
    epoch: int,
) -> Plan:
    """Shuffle the comparisons into the batches of one M-step.

    Args:
        rows: The training rows.
        sizes: Room for distinct items, prompts and users of a batch.
        num_users: U.
        batch_size: Comparisons a batch.
        passes: How often the M-step goes through all comparisons, each time in another order.
        seed: Of the data order.
        epoch: The iteration, from 0.

    Returns:
        The plan, with a leading axis of one iteration, then one of gradient steps.
    """

    def plans(sizes: Sizes) -> list[Plan]:
        return [
            plan_epoch(
                rows,
                sizes=sizes,
                num_users=num_users,
                batch_size=batch_size,
                seed=seed,
                epoch=epoch * passes + part,
            )
            for part in range(passes)
        ]

    parts = plans(sizes)
    needed = Sizes(
        items=max(plan.items.shape[1] for plan in parts),
        prompts=max(plan.prompts.shape[1] for plan in parts),
        users=max(plan.users.shape[1] for plan in parts),
    )
    if any(
        plan.items.shape[1] < needed.items
        or plan.prompts.shape[1] < needed.prompts
        or plan.users.shape[1] < needed.users
        for plan in parts
    ):
        parts = plans(needed)
    return Plan(*(np.concatenate(fields)[None] for fields in zip(*parts, strict=True)))


def to_iteration(tables: IterationTables, plan: Plan) -> Iteration:
    """Put the iteration's plan beside what stays on the device."""
    return Iteration(tables.tables, tables.choices, plan)
