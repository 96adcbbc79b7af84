"""Comparisons in memory: host NumPy arrays that index tables of distinct users, items and prompts.

Some data are votes on single items instead; `paljax.data.votes_to_pairs` makes comparisons of them
once they are split.

Shapes: n comparisons, v votes, N distinct items, M distinct prompts, D numbers an item.
"""

from collections.abc import Mapping, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Comparisons(NamedTuple):
    """n comparisons, one entry each; every field has shape [n]."""

    user: NDArray[np.int32]  # row of Dataset.users
    prompt: NDArray[np.int32]  # row of Dataset.prompts, -1 without a prompt
    chosen: NDArray[np.int32]  # row of Dataset.items
    rejected: NDArray[np.int32]  # row of Dataset.items
    weight: NDArray[np.float32]  # sample weight, >= 0
    tie: NDArray[np.bool_]  # the two sides were judged equal
    task: NDArray[np.int32]  # rows with one number belong to one choice task

    def select(self, rows: NDArray[Any]) -> "Comparisons":
        """Return the comparisons at `rows` (a mask or row numbers), in that order."""
        return Comparisons(*(field[rows] for field in self))


class Votes(NamedTuple):
    """v votes of users on items, one entry each and at most one of a user on an item."""

    user: NDArray[np.int32]  # [v] row of Dataset.users
    item: NDArray[np.int32]  # [v] row of Dataset.items
    value: NDArray[np.float32]  # [v] higher is liked better; NaN where the user passed
    group: NDArray[np.object_] | None  # [v] label of the user's group

    def select(self, votes: NDArray[Any]) -> "Votes":
        """Return the votes at `votes` (a mask or numbers), in that order."""
        group = None if self.group is None else self.group[votes]
        return Votes(self.user[votes], self.item[votes], self.value[votes], group)


# A table of distinct items or prompts: numbers [N, D], or N texts.
Table = NDArray[np.float32] | tuple[str, ...]


class Dataset(NamedTuple):
    """Comparisons with the tables that they index and what is known about the rows."""

    comparisons: Comparisons
    users: tuple[str, ...]  # distinct user ids
    items: Table  # distinct by content
    prompts: Table | None  # distinct by content
    attributes: tuple[str, ...]  # names of the D numbers of an item, () when unnamed
    group: NDArray[np.object_] | None  # [n] label of the row's group
    split: NDArray[np.object_] | None  # [n] train, validation, test or support
    timestamp: NDArray[np.float64] | None  # [n]
    dropped: dict[str, int]  # rows left out on request, by reason
    facts: dict[str, float | str]  # what the builder knows of the data, e.g. bayes_accuracy
    topic: NDArray[np.object_] | None = None  # [n] what the row is about, e.g. its debate
    votes: Votes | None = None  # what the comparisons are made of
    task_id: NDArray[np.object_] | None = None  # [n] the user's name of the task, None without one
    # The last rows of `items` are no items but levels that votes are compared with.
    num_levels: int = 0

    def is_level(self, items: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether rows of `items` are levels, which nobody votes on or wants."""
        return np.asarray(items >= len(self.items) - self.num_levels)


def weighed_by_levels(dataset: Dataset, levels: Sequence[str]) -> Dataset:
    """A vote's comparisons with all L levels weigh one together, in a file as in training.

    Args:
        dataset: Comparisons, some of them of an item with a level.
        levels: Texts of the levels; none: nothing changes.
    """
    if not levels:
        return dataset
    is_level = np.isin(np.array(dataset.items, object), np.array(levels, object))
    rows = dataset.comparisons
    with_level = is_level[rows.chosen] | is_level[rows.rejected]
    weight = np.where(with_level, rows.weight / len(levels), rows.weight).astype(np.float32)
    return dataset._replace(comparisons=rows._replace(weight=weight))


def level_names(dataset: Dataset) -> tuple[str, ...]:
    """Texts of the levels that votes are compared with, the lowest first."""
    names = dataset.items[len(dataset.items) - dataset.num_levels :]
    return tuple(map(str, names))


def assemble(
    user_id: Sequence[str],
    chosen: NDArray[Any] | Sequence[str],
    rejected: NDArray[Any] | Sequence[str],
    *,
    prompt: NDArray[Any] | Sequence[str] | None = None,
    tie: NDArray[Any] | Sequence[bool] | None = None,
    weight: NDArray[Any] | Sequence[float] | None = None,
    task_id: Sequence[str | None] | None = None,
    group: Sequence[str] | None = None,
    split: Sequence[str] | None = None,
    timestamp: NDArray[Any] | Sequence[float] | None = None,
    topic: Sequence[str] | None = None,
    attributes: Sequence[str] = (),
    dropped: Mapping[str, int] | None = None,
    facts: Mapping[str, float | str] | None = None,
) -> Dataset:
    """Build a dataset from columns of equal length n, one entry a comparison.

    Users, items, prompts and tasks are numbered in order of first appearance: row by row, the
    chosen item before the rejected one.

    Args:
        user_id: Who chose.
        chosen: The preferred items: numbers [n, D], or n texts.
        rejected: The other items, of the same kind and width.
        prompt: What the items answer: numbers [n, any width], or n texts. None: no prompts.
        tie: Whether the two sides were judged equal. None: no row is a tie.
        weight: Sample weights, >= 0. None: 1 everywhere.
        task_id: Rows of one user with one task_id are one choice task; a row with None is a task
            of its own. None: every row is.
        group: Label of the row's group.
        split: train, validation, test or support.
        timestamp: Seconds since 1970, UTC.
        topic: What the row is about.
        attributes: Names of the D numbers of an item; empty when unnamed or text.
        dropped: Rows left out before, by reason.
        facts: What the builder knows of the data.

    Returns:
        The dataset; items and prompts are distinct by content (numbers in float32, where -0 is 0).

    Raises:
        ValueError: Columns differ in length, items in kind or width, or a number is not finite.

    Example:
        >>> assemble(["ann", "ben"], ["tea", "tea"], ["milk", "rum"]).items
        ('tea', 'milk', 'rum')
    """
    of_items = {"chosen": chosen, "rejected": rejected, "prompt": prompt, "topic": topic}
    of_rows = {"tie": tie, "weight": weight, "task_id": task_id, "group": group, "split": split}
    _check_lengths(len(user_id), of_items | of_rows | {"timestamp": timestamp})
    user, users = _distinct(user_id)
    item, items = _distinct(_alternate(chosen, rejected))
    prompt_row, prompts = (np.full(len(user), -1), None) if prompt is None else _distinct(prompt)
    _check_attributes(attributes, items)
    return Dataset(
        _comparisons(user, item, prompt_row, weight, tie, task_id),
        tuple(users),
        items,
        prompts,
        tuple(attributes),
        group=_objects(group),
        split=_objects(split),
        timestamp=None if timestamp is None else np.array(timestamp, np.float64),
        dropped=dict(dropped or {}),
        facts=dict(facts or {}),
        topic=_objects(topic),
        task_id=_objects(task_id),
    )


def _check_lengths(n: int, columns: Mapping[str, Sized | None]) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != n:
            raise ValueError(f"{name} has {len(column)} rows, user_id has {n}")


def _check_attributes(attributes: Sequence[str], items: Table) -> None:
    width = items.shape[1] if isinstance(items, np.ndarray) else 0
    if len(attributes) not in (0, width):
        raise ValueError(f"{len(attributes)} attributes for items of {width} numbers")


def _comparisons(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    prompt: NDArray[np.int64],
    weight: NDArray[Any] | Sequence[float] | None,
    tie: NDArray[Any] | Sequence[bool] | None,
    task_id: Sequence[str | None] | None,
) -> Comparisons:
    """Comparisons of numbered users, prompts and items, the chosen ones at even places."""
    n = len(user)
    return Comparisons(
        user=user.astype(np.int32),
        prompt=prompt.astype(np.int32),
        chosen=item[0::2].astype(np.int32),
        rejected=item[1::2].astype(np.int32),
        weight=np.ones(n, np.float32) if weight is None else np.array(weight, np.float32),
        tie=np.zeros(n, np.bool_) if tie is None else np.array(tie, np.bool_),
        task=_task_numbers(user, [None] * n if task_id is None else task_id),
    )


def _objects(labels: Sequence[str | None] | None) -> NDArray[np.object_] | None:
    return None if labels is None else np.array(labels, np.object_)


def assemble_votes(
    user_id: Sequence[str],
    item: Sequence[str],
    value: NDArray[Any],
    *,
    group: Sequence[str] | None = None,
    dropped: Mapping[str, int] | None = None,
    facts: Mapping[str, float | str] | None = None,
) -> Dataset:
    """Build a dataset of votes from columns of equal length, one entry a vote.

    Users and items are numbered in order of first appearance. Where a user voted on an item more
    than once, the first vote counts and the others are dropped as "repeated vote".

    Args:
        user_id: Who voted.
        item: On which text.
        value: How: higher is liked better, NaN where the user passed.
        group: Label of the user's group.
        dropped: Votes left out before, by reason.
        facts: What the builder knows of the data.

    Returns:
        The dataset, which has no comparisons yet.
    """
    (user, users), (row, items) = _distinct(user_id), _distinct(item)
    first = np.unique(user * len(items) + row, return_index=True)[1]
    first.sort()
    votes = Votes(
        user=user.astype(np.int32),
        item=row.astype(np.int32),
        value=np.array(value, np.float32),
        group=_objects(group),
    ).select(first)
    dropped = dict(dropped or {})
    if len(first) < len(user):
        dropped["repeated vote"] = len(user) - len(first)
    none = np.zeros(0, np.int32)
    return Dataset(
        comparisons=Comparisons(
            user=none,
            prompt=none,
            chosen=none,
            rejected=none,
            weight=np.zeros(0, np.float32),
            tie=np.zeros(0, np.bool_),
            task=none,
        ),
        users=tuple(users),
        items=items,
        prompts=None,
        attributes=(),
        group=None,
        split=None,
        timestamp=None,
        dropped=dropped,
        facts=dict(facts or {}),
        votes=votes,
    )


def _distinct(values: NDArray[Any] | Sequence[str]) -> tuple[NDArray[np.int64], Table]:
    """Number the rows by content in order of first appearance; return numbers and table."""
    if not isinstance(values, np.ndarray):
        texts = pa.array(values, pa.large_string()).dictionary_encode()
        return np.asarray(texts.indices, np.int64), tuple(texts.dictionary.to_pylist())
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"numbers have shape {values.shape}, wanted [rows, width]")
    numbers = np.ascontiguousarray(values, np.float32) + np.float32(0)  # -0 becomes 0
    if not np.isfinite(numbers).all():
        raise ValueError("an item or prompt holds a number that is NaN or infinite in float32")
    # A row is one string of bytes to Arrow, whose hash table keeps the order; np.unique would sort.
    row_type = pa.binary(numbers.shape[1] * numbers.itemsize)
    rows = pa.Array.from_buffers(row_type, len(numbers), [None, pa.py_buffer(numbers)])
    codes = np.asarray(rows.dictionary_encode().indices, np.int64)
    first_rows = np.unique(codes, return_index=True)[1]
    return codes, numbers[first_rows]


def _alternate(
    chosen: NDArray[Any] | Sequence[str], rejected: NDArray[Any] | Sequence[str]
) -> NDArray[Any] | list[str]:
    """Return chosen 0, rejected 0, chosen 1, rejected 1, ..."""
    if isinstance(chosen, np.ndarray) and isinstance(rejected, np.ndarray):
        if chosen.shape != rejected.shape or chosen.ndim != 2:
            raise ValueError(f"chosen has shape {chosen.shape}, rejected {rejected.shape}")
        return np.stack([chosen, rejected], axis=1).reshape(-1, chosen.shape[1])
    if isinstance(chosen, np.ndarray) or isinstance(rejected, np.ndarray):
        raise ValueError("chosen and rejected must both be numbers or both be text")
    return [item for pair in zip(chosen, rejected, strict=True) for item in pair]


def _task_numbers(user: NDArray[np.int64], task_id: Sequence[str | None]) -> NDArray[np.int32]:
    """Number the pairs (user, task_id) in order of first appearance; None is equal to nothing."""
    labels = pa.array(task_id, pa.large_string()).dictionary_encode()
    label = np.asarray(labels.indices.fill_null(-1), np.int64)
    num_labels, rows = len(labels.dictionary), np.arange(len(label))
    label = np.where(label < 0, num_labels + rows, label)
    pairs = pa.array(user * (num_labels + len(label)) + label).dictionary_encode()
    return np.asarray(pairs.indices, np.int32)
