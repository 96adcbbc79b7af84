"""Episodes: users whose comparisons are parted into support and query anew in every epoch.

S steps an epoch, R users a step, n comparisons a user, I distinct items and M prompts in a step. A
plan is a pure function of (seed, epoch), so an interrupted run continues exactly.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from paljax.data.batches import Sizes, Tables, distinct
from paljax.data.dataset import Comparisons
from paljax.models import Inputs, gather


class EpisodeBatch(NamedTuple):
    """Support and query comparisons of some users. A tie is two comparisons of half weight."""

    items: Inputs  # inputs of the distinct items, leading axis I
    prompts: Inputs | None  # inputs of the distinct prompts, leading axis M
    chosen: Int[Array, "R n"]  # row of items
    rejected: Int[Array, "R n"]  # row of items
    prompt: Int[Array, "R n"]  # row of prompts
    support: Float[Array, "R n"]  # sample weight of what the user is fitted to, else 0
    query: Float[Array, "R n"]  # sample weight of what the user is scored on, else 0


class EpisodePlan(NamedTuple):
    """Index arrays of S episode batches; the leading axis is the step."""

    items: NDArray[np.int32]  # [S, I]
    prompts: NDArray[np.int32]  # [S, M]
    chosen: NDArray[np.int32]  # [S, R, n]
    rejected: NDArray[np.int32]  # [S, R, n]
    prompt: NDArray[np.int32]  # [S, R, n]
    support: NDArray[np.float32]  # [S, R, n]
    query: NDArray[np.float32]  # [S, R, n]


class UserRows(NamedTuple):
    """One epoch's comparisons by user, in the order in which they are parted."""

    rows: NDArray[np.int64]  # [U', n] row numbers, padded with 0
    present: NDArray[np.bool_]  # [U', n]
    support: NDArray[np.bool_]  # [U', n]


def part_users(
    comparisons: Comparisons,
    *,
    most_comparisons: int,
    generator: np.random.Generator,
    of_votes: bool = False,
) -> UserRows:
    """Part every user's choice tasks, or votes, at random into support and query.

    Each user's tasks, and the rows of each task, are shuffled, the first `most_comparisons`
    comparisons are kept, and the first s tasks are support, s uniform from 0 to one less than the
    user's tasks: a model that trains on such episodes serves new users at every stage.

    Comparisons that are made of votes share them: parted by task, one vote would be in support and
    query at once, and the model would learn to trust the support too much. Their votes are parted
    instead, at least two of a user's into the query, and a pair with a vote on each side is left
    out.

    Args:
        comparisons: Training comparisons.
        most_comparisons: n at most, in one episode; the shuffle brings others in later epochs.
        generator: Of the epoch.
        of_votes: Whether the comparisons are made of votes, one of a user on an item.

    Returns:
        The parted users; those without comparisons are left out. No task (vote) is on both sides.
    """
    luck = generator.random(comparisons.task.max() + 1)[comparisons.task]
    # Inside a task too: of one that is larger than an episode, each epoch shows another part.
    luck_of_row = generator.random(len(luck))
    torn: NDArray[np.bool_] = np.zeros(len(luck), np.bool_)
    in_support: NDArray[np.bool_] = np.zeros(len(luck), np.bool_)
    if of_votes:
        sides = _sides_of_votes(comparisons, generator)
        in_support = np.asarray(sides.all(axis=1))
        torn = np.asarray(sides.any(axis=1) & ~in_support)
    order = np.lexsort((luck_of_row, comparisons.task, luck, torn, comparisons.user))
    user, task = comparisons.user[order], comparisons.task[order]
    is_first = np.diff(user, prepend=-1) != 0
    start = np.flatnonzero(is_first)
    number = np.cumsum(is_first) - 1
    place = np.arange(len(order)) - start[number]
    kept = (place < most_comparisons) & ~torn[order]
    num_users = len(start)
    if not of_votes:
        # Tasks that have begun up to each row, counted from the user's first.
        begun = np.cumsum(np.diff(task, prepend=-1) != 0)
        task_place = begun - begun[start][number]
        num_tasks = np.zeros(num_users, np.int64)
        np.maximum.at(num_tasks, number[kept], task_place[kept] + 1)
        support_tasks = (generator.random(num_users) * num_tasks).astype(np.int64)
        in_support[order] = task_place < support_tasks[number]

    # A power of two where that is allowed: fits on more data then share a compiled step.
    most = 1 << int(place.max()).bit_length()
    shape = (num_users, min(most, most_comparisons))
    rows, present = np.zeros(shape, np.int64), np.zeros(shape, bool)
    support = np.zeros(shape, bool)
    rows[number[kept], place[kept]] = order[kept]
    present[number[kept], place[kept]] = True
    support[number[kept], place[kept]] = in_support[order[kept]]
    return UserRows(rows, present, support)


def _sides_of_votes(comparisons: Comparisons, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Whether the votes on the chosen and on the rejected item are support, [n, 2]."""
    items = np.stack([comparisons.chosen, comparisons.rejected], axis=1).astype(np.int64)
    user = np.broadcast_to(comparisons.user[:, None], items.shape)
    votes, vote = np.unique(user * (items.max() + 1) + items, return_inverse=True)
    voter = votes // (items.max() + 1)
    order = np.lexsort((generator.random(len(votes)), voter))
    counts = np.bincount(voter)
    rank = np.empty(len(votes), np.int64)
    rank[order] = np.arange(len(votes)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Uniform from none to all votes but two, without which there is no pair to predict.
    num_support = (generator.random(len(counts)) * (counts - 1)).astype(np.int64)
    return np.asarray((rank < num_support[voter])[vote].reshape(items.shape))


def plan_episodes(
    comparisons: Comparisons,
    weights: NDArray[np.float32],
    query_weights: NDArray[np.float32],
    *,
    sizes: Sizes,
    users_per_batch: int,
    most_comparisons: int,
    seed: int,
    epoch: int,
    num_devices: int = 1,
    of_votes: bool = False,
) -> EpisodePlan:
    """Part an epoch's users into episodes and list the distinct items and prompts of each step.

    Args:
        comparisons: Training comparisons without ties (see `weighted_choices`).
        weights: Their sample weights as support, shape [n].
        query_weights: Their sample weights as query, shape [n].
        sizes: Room for distinct items and prompts.
        users_per_batch: R.
        most_comparisons: Most comparisons of a user in one episode.
        seed: Of the data order.
        epoch: From 0.
        num_devices: D; each step's users are dealt to so many.
        of_votes: Whether the comparisons are made of votes, which are then parted.

    Returns:
        The plan of D S batches, S of the first device and then S of the next; every user with
        comparisons is in one step of it, the same one for any D.
    """
    generator = np.random.default_rng((seed, epoch))
    parted = part_users(
        comparisons, most_comparisons=most_comparisons, generator=generator, of_votes=of_votes
    )
    num_users = len(parted.rows)
    steps = -(-num_users // users_per_batch)
    order = np.full(steps * users_per_batch, -1)
    order[:num_users] = generator.permutation(num_users)
    order = _dealt(order.reshape(steps, users_per_batch), num_devices)
    users, real = np.maximum(order, 0), (order >= 0)[..., None]
    rows = parted.rows[users]
    present = parted.present[users] & real
    is_support = parted.support[users]
    shape = rows.shape

    flat = rows.reshape(len(rows), -1)
    both = np.concatenate([comparisons.chosen[flat], comparisons.rejected[flat]], axis=1)
    items, places = distinct(both, sizes.items, padding=0)
    prompts, prompt = distinct(np.maximum(comparisons.prompt[flat], 0), sizes.prompts, padding=0)
    return EpisodePlan(
        items=items,
        prompts=prompts,
        chosen=places[:, : flat.shape[1]].reshape(shape),
        rejected=places[:, flat.shape[1] :].reshape(shape),
        prompt=prompt.reshape(shape),
        support=np.where(present & is_support, weights[rows], 0).astype(np.float32),
        query=np.where(present & ~is_support, query_weights[rows], 0).astype(np.float32),
    )


def _dealt(users: NDArray[np.int64], num_devices: int) -> NDArray[np.int64]:
    """Deal each step's users [S, R] to D devices, [D S, R / D], and fill up with -1."""
    steps, size = users.shape
    part = -(-size // num_devices)
    filled = np.full((steps, num_devices * part), -1)
    filled[:, :size] = users
    return filled.reshape(steps, num_devices, part).swapaxes(0, 1).reshape(-1, part)


def to_episode_batch(tables: Tables, plan: Any) -> EpisodeBatch:
    """Gather the inputs of one step's distinct items and prompts."""
    inputs = {
        "items": gather(tables.items, plan.items),
        "prompts": None if tables.prompts is None else gather(tables.prompts, plan.prompts),
    }
    return EpisodeBatch(**plan._asdict() | inputs)
