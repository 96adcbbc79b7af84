"""An epoch as index arrays: which comparisons make a batch, and its distinct items and users.

n comparisons, S steps an epoch, B comparisons a batch, I distinct items, M prompts and R users in
one batch. A plan is a pure function of (seed, epoch), so an interrupted run continues exactly.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from paljax.data.by_user import one_over_total_weight
from paljax.data.dataset import Comparisons
from paljax.models import Inputs, gather


class Batch(NamedTuple):
    """Comparisons whose distinct items, prompts and users are listed once."""

    items: Inputs  # inputs of the distinct items, leading axis I
    prompts: Inputs | None  # inputs of the distinct prompts, leading axis M
    users: Int[Array, "R"]  # distinct rows of the user table, sorted; >= U is padding
    chosen: Int[Array, "B"]  # row of items
    rejected: Int[Array, "B"]  # row of items
    prompt: Int[Array, "B"]  # row of prompts
    user: Int[Array, "B"]  # row of users
    weight: Float[Array, "B"]  # sample weight; 0 is padding
    target: Float[Array, "B"]  # probability that the chosen item is preferred
    prior_share: Float[Array, "B"]  # what the comparison carries of its user's prior
    present: Bool[Array, "B"]  # False is padding


class Plan(NamedTuple):
    """Index arrays of S batches; the leading axis is the step."""

    items: NDArray[np.int32]  # [S, I] distinct rows of the item table, padded with row 0
    prompts: NDArray[np.int32]  # [S, M] distinct rows of the prompt table, padded with row 0
    users: NDArray[np.int32]  # [S, R] distinct users, sorted, padded with numbers >= U
    chosen: NDArray[np.int32]  # [S, B] place in items
    rejected: NDArray[np.int32]  # [S, B] place in items
    prompt: NDArray[np.int32]  # [S, B] place in prompts
    user: NDArray[np.int32]  # [S, B] place in users
    weight: NDArray[np.float32]  # [S, B]
    target: NDArray[np.float32]  # [S, B]
    prior_share: NDArray[np.float32]  # [S, B]
    present: NDArray[np.bool_]  # [S, B]


class Sizes(NamedTuple):
    """How many distinct things a batch has room for."""

    items: int  # I
    prompts: int  # M
    users: int  # R, where a batch lists them


def room(in_a_batch: int, in_all: int) -> int:
    """An eighth more than one epoch's batches need, but no more than there are in all."""
    return min(in_a_batch + -(-in_a_batch // 8), in_all)


class Rows(NamedTuple):
    """Comparisons to train on, with what each counts; every field has shape [n]."""

    comparisons: Comparisons
    weight: NDArray[np.float32]  # of mean one over the rows
    target: NDArray[np.float32]  # probability that the chosen item is preferred
    prior_share: NDArray[np.float32]  # sums over a user's rows to what the user's prior counts


class Tables(NamedTuple):
    """Inputs of all distinct items and prompts, on the device."""

    items: Inputs  # leading axis N
    prompts: Inputs | None  # leading axis of all prompts


def training_rows(
    comparisons: Comparisons, *, label_smoothing: float, weight_by_user: bool
) -> Rows:
    """Say what every training comparison counts, and its share of its user's prior.

    The objective is Σ_u s_u (Σ_{j of u} ω_j ℓ_j + λ KL_u) with sample weights ω: s_u is one, or one
    over the user's total weight, times a constant that makes the mean weight one.

    Args:
        comparisons: The training comparisons.
        label_smoothing: ε in [0, 1/2): the chosen item is preferred with probability 1 - ε.
        weight_by_user: Give every user the same total weight.

    Returns:
        The rows.
    """
    user, weight = comparisons.user, comparisons.weight.astype(np.float64)
    scale = np.ones(len(user))
    if weight_by_user:
        scale = one_over_total_weight(comparisons, weight)
    scale = scale / np.mean(scale * weight)
    return Rows(
        comparisons=comparisons,
        weight=(scale * weight).astype(np.float32),
        target=np.where(comparisons.tie, 0.5, 1 - label_smoothing).astype(np.float32),
        prior_share=(scale / np.bincount(user)[user]).astype(np.float32),
    )


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Number of batches; the last one may be partly padding."""
    return -(-num_rows // batch_size)


def plan_sizes(rows: Rows, *, batch_size: int, seed: int) -> Sizes:
    """Choose sizes that hold any epoch's batches, so that all epochs share a compiled step.

    Args:
        rows: The training rows.
        batch_size: B.
        seed: Of the data order.

    Returns:
        The most distinct items, prompts and users of a batch in epoch 0 and an eighth more, but no
        more than the rows have in all.
    """
    return plan_sizes_of(rows, _order(len(rows.weight), batch_size, seed, epoch=0)[0])


def plan_sizes_of(rows: Rows, order: NDArray[np.int64]) -> Sizes:
    """Sizes that hold these batches [S, B] of row numbers and an eighth more."""
    items, prompts, users = _values(rows.comparisons, order)

    def most(values: NDArray[np.int32]) -> int:
        in_a_batch = max(len(np.unique(row)) for row in values)
        return min(room(in_a_batch, len(np.unique(values))), int(values.shape[1]))

    return Sizes(most(items), most(prompts), most(users))


def plan_epoch(
    rows: Rows, *, sizes: Sizes, num_users: int, batch_size: int, seed: int, epoch: int
) -> Plan:
    """Shuffle an epoch into batches and list the distinct items, prompts and users of each.

    Args:
        rows: The training rows.
        sizes: I, M and R; an epoch that needs more takes more, and is compiled anew.
        num_users: U; numbers from U on are padding.
        batch_size: B.
        seed: Of the data order.
        epoch: From 0.

    Returns:
        The plan.
    """
    order, present = _order(len(rows.weight), batch_size, seed, epoch)
    return list_batches(rows, order, present, sizes=sizes, num_users=num_users)


def list_batches(
    rows: Rows,
    order: NDArray[np.int64],
    present: NDArray[np.bool_],
    *,
    sizes: Sizes,
    num_users: int,
) -> Plan:
    """List the distinct items, prompts and users of batches.

    Args:
        rows: The training rows.
        order: Row numbers of every batch, [S, B].
        present: Which of them are not padding, [S, B].
        sizes: I, M and R; batches that need more take more.
        num_users: U; numbers from U on are padding.

    Returns:
        The plan; padding moves no user.
    """
    both, prompts_of_rows, users_of_rows = _values(rows.comparisons, order)
    items, places = distinct(both, sizes.items, padding=0)
    prompts, prompt = distinct(prompts_of_rows, sizes.prompts, padding=0)
    users, user = distinct(_present_users(users_of_rows, present), sizes.users, padding=-1)
    # Numbers from U on, each once: the user table takes distinct, sorted rows.
    absent = users < 0
    users = np.where(absent, num_users + np.cumsum(absent, axis=1) - 1, users)
    return Plan(
        items=items,
        prompts=prompts,
        users=users.astype(np.int32),
        chosen=places[:, : order.shape[1]],
        rejected=places[:, order.shape[1] :],
        prompt=prompt,
        user=user,
        weight=rows.weight[order],
        target=rows.target[order],
        prior_share=rows.prior_share[order],
        present=present,
    )


def to_batch(tables: Tables, plan: Any) -> Batch:
    """Gather the inputs of one step's distinct items and prompts.

    Args:
        tables: Inputs of all items and prompts.
        plan: One step of a `Plan`, without the leading axis.

    Returns:
        The batch.
    """
    return Batch(
        **plan._asdict()
        | {
            "items": gather(tables.items, plan.items),
            "prompts": None if tables.prompts is None else gather(tables.prompts, plan.prompts),
        }
    )


def _order(
    num_rows: int, batch_size: int, seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of every batch, [S, B], and which of them are not padding."""
    steps = steps_per_epoch(num_rows, batch_size)
    order = np.zeros(steps * batch_size, np.int64)
    order[:num_rows] = np.random.default_rng((seed, epoch)).permutation(num_rows)
    # Padding repeats a row of its own batch: any other would bring in a user who is not there.
    order[num_rows:] = order[num_rows - 1]
    present = np.arange(order.size) < num_rows
    return order.reshape(steps, batch_size), present.reshape(steps, batch_size)


def _present_users(users: NDArray[np.int32], present: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Users [S, B], padding under the number of one who is there, or -1 where nobody is."""
    first = np.take_along_axis(users, np.argmax(present, axis=1)[:, None], axis=1)
    somebody = np.where(np.any(present, axis=1, keepdims=True), first, np.int32(-1))
    return np.where(present, users, somebody)


def _values(
    comparisons: Comparisons, order: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Items of both sides [S, 2B], prompts [S, B] and users [S, B] of every batch."""
    items = np.concatenate([comparisons.chosen[order], comparisons.rejected[order]], axis=1)
    return items, np.maximum(comparisons.prompt[order], 0), comparisons.user[order]


def distinct(
    values: NDArray[np.int32], size: int, *, padding: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Distinct values of each row, sorted and padded to one size, and the place of each value."""
    found = [np.unique(row, return_inverse=True) for row in values]
    size = max(size, *(len(distinct) for distinct, _ in found))
    table = np.full((len(values), size), padding, np.int32)
    for row, (distinct, _) in zip(table, found, strict=True):
        row[: len(distinct)] = distinct
    return table, np.stack([inverse for _, inverse in found]).astype(np.int32)


def place_tables(items: Inputs, prompts: Inputs | None) -> Tables:
    """Put the tables on the device."""
    return Tables(jax.tree.map(jnp.asarray, items), jax.tree.map(jnp.asarray, prompts))
