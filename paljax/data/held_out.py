"""Splits that hold something out for everybody: items, pairs, topics, or what came last.

Every split is a pure function of the data, its shares and its seed. No user is held out: who has no
training rows is predicted as the population. A choice task whose rows belong to different parts, as
one with an item of training and one of test, is of no use to either and becomes `UNUSED`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Dataset
from paljax.data.splits import UNUSED, Judgements, Split, judgements
from paljax.errors import UserError, nearest

ROLES = np.array(["train", "validation", "test", UNUSED], object)
_TRAIN, _VALIDATION, _TEST, _UNUSED = range(4)


def hold_out_items(dataset: Dataset, *, validation: float, test: float, seed: int) -> Split:
    """Cold items: no item of the test part is in any other part, nor one of validation.

    Args:
        dataset: The comparisons or votes.
        validation: Share of the items, in [0, 1).
        test: Share of the items, in [0, 1).
        seed: Of the choice of items.

    Returns:
        The split; comparisons of items from different parts are unused.
    """
    rows = judgements(dataset)
    roles = _draw_roles(len(dataset.items), "items", validation, test, seed)
    return _by_task(rows, roles[rows.items])


def hold_out_pairs(dataset: Dataset, *, validation: float, test: float, seed: int) -> Split:
    """Held-out pairs: what two items (or one choice task's) are compared in one part by anybody is
    compared in no other.

    Args:
        dataset: The comparisons.
        validation: Share of the distinct sets of items, in [0, 1).
        test: Share of them, in [0, 1).
        seed: Of the choice.

    Returns:
        The split.

    Raises:
        UserError: If the data are votes, which lie on single items.
    """
    if dataset.votes is not None:
        raise UserError(
            "splits.name: 'pairs' holds out pairs of items, and these data are votes on single "
            "items; choose one of 'random', 'items'"
        )
    rows = judgements(dataset)
    shown: list[set[int]] = [set() for _ in range(int(rows.task.max()) + 1)]
    for task, pair in zip(rows.task.tolist(), rows.items.tolist(), strict=True):
        shown[task].update(pair)
    numbers: dict[frozenset[int], int] = {}
    of_task = np.array([numbers.setdefault(frozenset(items), len(numbers)) for items in shown])
    roles = _draw_roles(len(numbers), "pairs", validation, test, seed)
    return _by_task(rows, roles[of_task[rows.task]][:, None])


def hold_out_topics(
    dataset: Dataset,
    *,
    validation: float,
    test: float,
    topics: Sequence[str] | None = None,
    seed: int,
) -> Split:
    """Held-out topics: whole topics, as debates, are for testing.

    Args:
        dataset: The comparisons.
        validation: Share of the topics, in [0, 1); at least one where it is above 0.
        test: Share of the topics, in [0, 1); at least one where it is above 0.
        topics: The topics to test on, instead of a share.
        seed: Of the choice of topics.

    Returns:
        The split.

    Raises:
        UserError: If the data have no topics, or not the named ones.
    """
    if dataset.topic is None:
        raise UserError("splits.name: 'topic' needs a topic for every row, and the data have none")
    rows = judgements(dataset)
    names, of_row = np.unique(dataset.topic.astype(str), return_inverse=True)
    for topic in topics or ():
        if topic not in names:
            raise UserError(f"splits.topics: {topic!r} is no topic here; {nearest(topic, names)}")
    if topics is None:
        roles = _draw_roles(len(names), "topics", validation, test, seed)
    else:
        named = np.isin(names, list(topics))
        roles = np.full(len(names), _TEST)
        roles[~named] = _draw_roles(int((~named).sum()), "other topics", validation, 0.0, seed)
    return _by_task(rows, roles[of_row][:, None])


def split_by_time(
    dataset: Dataset, *, by: Literal["user", "all"], validation: float, test: float
) -> Split:
    """The latest choice tasks are for testing, and those before them for validation.

    Every task of a part is later than all of the part before it, so tasks of one time stay together
    and a share can come out smaller.

    Args:
        dataset: The comparisons.
        by: Whether each user's own latest tasks are held out, or the latest of all.
        validation: Share of the tasks, in [0, 1).
        test: Share of the tasks, in [0, 1).

    Returns:
        The split.

    Raises:
        UserError: If the data have no timestamps.
    """
    if dataset.timestamp is None:
        raise UserError(
            "splits.name: 'time' needs a timestamp for every row, and the data have none"
        )
    rows = judgements(dataset)
    num_tasks = int(rows.task.max()) + 1
    time = np.full(num_tasks, -np.inf)
    np.maximum.at(time, rows.task, dataset.timestamp)
    whose = np.zeros(num_tasks, np.int64)
    if by == "user":
        whose[rows.task] = rows.user
    role = np.full(num_tasks, _TRAIN)
    order = np.lexsort((time, whose))
    for tasks in np.split(order, np.flatnonzero(np.diff(whose[order])) + 1):
        left = _before(time, tasks, test)
        role[tasks[len(left) :]] = _TEST
        # The share is of all tasks, not of those that are left.
        earliest = _before(time, left, min(validation * len(tasks) / len(left), 1.0))
        role[left[len(earliest) :]] = _VALIDATION
    return _by_task(rows, role[rows.task][:, None])


def _before(time: NDArray[np.float64], tasks: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The sorted tasks without the latest share of them; at least one is left."""
    kept = max(len(tasks) - round(share * len(tasks)), 1)
    return tasks[: np.searchsorted(time[tasks], time[tasks[kept - 1]], side="right")]


def _draw_roles(
    count: int, what: str, validation: float, test: float, seed: int
) -> NDArray[np.int64]:
    """A role for each of `count` things: shares rounded, at least one where a share is above 0."""
    num_test, num_validation = (
        max(round(share * count), 1) if share > 0 else 0 for share in (test, validation)
    )
    if num_test + num_validation >= count:
        raise UserError(
            f"splits: {count} {what} can't be shared out: {num_validation} for validation and "
            f"{num_test} for test leave none for training"
        )
    roles = np.full(count, _TRAIN)
    order = np.random.default_rng(seed).permutation(count)
    roles[order[:num_test]] = _TEST
    roles[order[num_test : num_test + num_validation]] = _VALIDATION
    return roles


def _by_task(rows: Judgements, roles: NDArray[np.int64]) -> Split:
    """The role that all rows of a task have, with all their items; UNUSED where they differ."""
    num_tasks = int(rows.task.max()) + 1
    lowest, highest = np.full(num_tasks, _UNUSED), np.full(num_tasks, _TRAIN)
    np.minimum.at(lowest, rows.task, roles.min(axis=1))
    np.maximum.at(highest, rows.task, roles.max(axis=1))
    of_task = np.where(lowest == highest, lowest, _UNUSED)
    part = ROLES[of_task[rows.task]]
    return Split(part, np.full(len(part), -1, np.int32))
