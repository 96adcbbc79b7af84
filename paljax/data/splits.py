"""Who learns from what: parts of the comparisons that never share a choice task.

Users are *seen* (they have training rows) or *unseen* (they join later). A seen user's tasks are
divided among train, validation and test; an unseen user's among support, which the user may learn
from, and query, on which the user is scored. *Validation users* stand for unseen ones until all is
chosen: their tasks that are not for test are such a support and query, by which λ of people who
join is chosen, and the refit learns from both as from any seen user's. Where the data are votes on
single items, these are split, each a task of its own, and comparisons come after
(`paljax.data.votes_to_pairs`).

What holds out whole items, pairs, topics or times is in `paljax.data.held_out`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Comparisons, Dataset
from paljax.errors import UserError

PARTS = ("train", "validation", "test", "support", "query")
# What the refit learns from beside the training part, where that is not the comparisons that chose:
# of votes these are pairs, and what is learned from may be the votes, or other pairs of them.
REFIT = "refit"
# Of validation users.
VALIDATION_SUPPORT, VALIDATION_QUERY = "validation_support", "validation_query"
SUPPORTS = ("support", VALIDATION_SUPPORT)  # parts whose rows arrive one by one
UNUSED = "unused"  # a row that no part may have, as one with an item of training and one of test
# Parts that a seen user's fits learn from, now or in the end; nothing of them may be scored.
OF_SEEN = ("train", "validation", VALIDATION_SUPPORT, VALIDATION_QUERY, REFIT)
OTHER_PARTS = (VALIDATION_SUPPORT, VALIDATION_QUERY, REFIT, UNUSED)  # that many splits lack


class Split(NamedTuple):
    """The part of every comparison, and the order in which support comparisons arrive."""

    part: NDArray[np.object_]  # [n] one of the names above
    arrival: NDArray[np.int32]  # [n] place among the user's support rows, from 0; -1 elsewhere

    def rows(self, *parts: str) -> NDArray[np.int64]:
        """Row numbers of these parts, ascending."""
        return np.flatnonzero(np.isin(self.part, parts))

    def parts(self) -> tuple[str, ...]:
        """Names of the parts: those that every split has, and the others that this one has."""
        return (*PARTS, *(part for part in OTHER_PARTS if len(self.rows(part))))

    def learned(self, *, refit: bool) -> NDArray[np.int64]:
        """Row numbers of what a seen user's model learns from, ascending.

        Args:
            refit: Once everything is chosen: the validation part counts, too.
        """
        if not refit:
            return self.rows("train")
        if (self.part == REFIT).any():
            return self.rows("train", REFIT)
        return self.rows("train", "validation", VALIDATION_SUPPORT, VALIDATION_QUERY)

    def support(self, comparisons: Comparisons, shots: int, part: str = "support") -> Comparisons:
        """Support comparisons of all unseen users; weight 0 for all but a user's first `shots`.

        Every number of shots gives arrays of the same shapes, and so shares a compiled fit.
        """
        rows = self.rows(part)
        pool = comparisons.select(rows)
        return pool._replace(weight=np.where(self.arrival[rows] < shots, pool.weight, 0))


class Judgements(NamedTuple):
    """What is split: n comparisons, or n votes where the data are votes."""

    user: NDArray[np.int32]  # [n]
    task: NDArray[np.int32]  # [n] rows with one number stay together
    items: NDArray[np.int32]  # [n, 2], or [n, 1] for votes


def judgements(dataset: Dataset) -> Judgements:
    """The votes of a dataset where it has any, else its comparisons."""
    if dataset.votes is not None:
        votes = dataset.votes
        task = np.arange(len(votes.user), dtype=np.int32)
        return Judgements(votes.user, task, votes.item[:, None])
    rows = dataset.comparisons
    return Judgements(rows.user, rows.task, np.stack([rows.chosen, rows.rejected], axis=1))


def split_at_random(
    dataset: Dataset,
    *,
    validation: float,
    test: float,
    unseen_users: float,
    query: float,
    seed: int,
    support: int | None = None,
    validation_users: float = 0.0,
) -> Split:
    """Split by user, and by choice task inside each user.

    Shares of a user's tasks are rounded at random, so that the parts keep their shares on average
    even where users have few tasks; a seen user keeps at least one task to learn from, an unseen
    user at least one to be scored on.

    Args:
        dataset: The comparisons.
        validation: Share of a seen user's tasks, in [0, 1).
        test: Share of a seen user's tasks, in [0, 1).
        unseen_users: Share of users that training never sees, in [0, 1).
        query: Share of an unseen user's tasks that is scored, in (0, 1].
        seed: Of the split alone.
        support: Tasks (votes, where the data are votes) of an unseen user that may be learned from;
            all others are scored, and `query` plays no part. Users with no more tasks than that are
            never unseen. None: the share that `query` leaves.
        validation_users: Share of the seen users with tasks enough for it who are validation users,
            in [0, 1); their tasks that are not for test are shared as an unseen user's.

    Returns:
        The split.

    Raises:
        UserError: If too few users have more than `support` tasks.
    """
    generator = np.random.default_rng(seed)
    rows = judgements(dataset)
    num_users = len(dataset.users)
    user_of_task = np.zeros(rows.task.max() + 1, np.int64)
    user_of_task[rows.task] = rows.user
    num_tasks = np.bincount(user_of_task, minlength=num_users)
    unseen = _unseen(generator, num_tasks, round(unseen_users * num_users), support)
    standing_in = _standing_in(num_tasks, unseen, validation_users, test, support, seed)
    order = np.lexsort((generator.random(len(user_of_task)), user_of_task))
    tasks_of_user = np.split(order, np.cumsum(num_tasks)[:-1])

    part_of_task = np.empty(len(user_of_task), object)
    rank_of_task = np.empty(len(user_of_task), np.int64)
    for user, tasks in enumerate(tasks_of_user):
        rank_of_task[tasks] = np.arange(len(tasks))
        dither = generator.random(2)
        if unseen[user]:
            num_query = _num_query(len(tasks), query, support, dither[0])
            part_of_task[tasks] = "support"
            part_of_task[tasks[:num_query]] = "query"
            continue
        num_test = min(int(test * len(tasks) + dither[0]), len(tasks) - 1)
        left = tasks[num_test:]
        part_of_task[tasks[:num_test]] = "test"
        if standing_in[user]:
            num_query = _num_query(len(left), query, support, dither[1])
            part_of_task[left] = VALIDATION_SUPPORT
            part_of_task[left[:num_query]] = VALIDATION_QUERY
        else:
            num_validation = min(int(validation * len(tasks) + dither[1]), len(left) - 1)
            part_of_task[left] = "train"
            part_of_task[left[:num_validation]] = "validation"
    part = part_of_task[rows.task]
    return Split(part, _arrivals(rows.user, part, rank_of_task[rows.task]))


def _num_query(num_tasks: int, query: float, support: int | None, dither: float) -> int:
    """How many of the tasks of a user who joins are scored: all beyond `support`, or a share."""
    if support is not None:
        return num_tasks - support
    return max(1, int(query * num_tasks + dither))


def _standing_in(
    num_tasks: NDArray[np.int64],
    unseen: NDArray[np.bool_],
    share: float,
    test: float,
    support: int | None,
    seed: int,
) -> NDArray[np.bool_]:
    """Which seen users are validation users: a share of those who have tasks enough for it.

    Of those, so that who answers much is not left out of training more often than asked for.
    """
    seen = np.flatnonzero(~unseen)
    most_test = np.minimum(np.floor(test * num_tasks + 1), num_tasks - 1)
    enough = seen[num_tasks[seen] - most_test[seen] > (support or 1)]
    wanted = round(share * len(enough))
    if share and not wanted:
        raise UserError(
            f"splits.validation_users: {share:g} of the {len(enough)} seen users with more than "
            f"{support or 1} tasks beside their test tasks is nobody; give more validation_users "
            "or less support"
        )
    # A generator of its own: who is unseen, and what is for test, depends on nothing here.
    chosen = np.random.default_rng([seed, 1]).permutation(enough)[:wanted]
    standing_in = np.zeros(len(num_tasks), bool)
    standing_in[chosen] = True
    return standing_in


def _unseen(
    generator: np.random.Generator, num_tasks: NDArray[np.int64], wanted: int, support: int | None
) -> NDArray[np.bool_]:
    """Who of the users with more than `support` tasks joins later, drawn at random."""
    order = generator.permutation(len(num_tasks))
    joining = order[num_tasks[order] > (support or 0)][:wanted]
    if len(joining) < wanted:
        raise UserError(
            f"splits.support: {support} wants {wanted} unseen users with more tasks than that, and "
            f"{len(joining)} have; give less support or unseen_users"
        )
    unseen = np.zeros(len(num_tasks), bool)
    unseen[joining] = True
    return unseen


def split_by_column(dataset: Dataset) -> Split:
    """Take the split from the file's `split` column.

    A user with rows in train or validation is seen. A user with neither is unseen: `support` rows
    are learned from in the order of the file, `test` rows are scored.

    Args:
        dataset: Comparisons with a split column.

    Returns:
        The split.

    Raises:
        UserError: If a user has both training and support rows, or nothing is for training.
    """
    if dataset.split is None:
        raise UserError("splits.column: the comparisons have no 'split' column")
    comparisons = dataset.comparisons
    part = dataset.split.copy()
    seen = np.zeros(len(dataset.users), bool)
    seen[comparisons.user[np.isin(part, ("train", "validation"))]] = True
    torn = seen[comparisons.user] & (part == "support")
    if torn.any():
        user = dataset.users[comparisons.user[torn][0]]
        raise UserError(
            f"split column: user {user!r} has rows in 'support' and in 'train' or 'validation'; "
            "a user either trains or joins later"
        )
    part[~seen[comparisons.user] & (part == "test")] = "query"
    return Split(part, _arrivals(comparisons.user, part, np.arange(len(part))))


def require_training_data(split: Split) -> None:
    """Refuse a split that leaves nothing to learn from, to choose by or to be scored on."""
    wanted = ["train", "validation", "test"]
    if len(split.rows(VALIDATION_SUPPORT)):
        wanted.append(VALIDATION_QUERY)
    for part in wanted:
        if not len(split.rows(part)):
            raise UserError(
                f"splits: no comparison is left for {part!r}; give more comparisons a user "
                "or change the shares under 'splits'"
            )


def require_choices(split: Split, comparisons: Comparisons) -> None:
    """Refuse a split in which nothing can be learned from, or nothing can be scored."""
    if not comparisons.weight[split.rows("train")].any():
        raise UserError(
            "splits: every comparison for 'train' has weight 0; nothing can be learned from them"
        )
    for part in ("validation", "test", "query", VALIDATION_QUERY):
        ties = comparisons.tie[split.rows(part)]
        if len(ties) and ties.all():
            raise UserError(
                f"splits: every comparison for {part!r} is a tie; nothing can be scored on them"
            )


def _arrivals(
    user: NDArray[np.int32], part: NDArray[np.object_], rank: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Number every user's support rows by rank, rows of one rank by their place in the file."""
    arrival = np.full(len(part), -1, np.int32)
    support = np.flatnonzero(np.isin(part, SUPPORTS))
    order = support[np.lexsort((support, rank[support], user[support]))]
    users = user[order]
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    lengths = np.diff(np.append(starts, len(users)))
    arrival[order] = np.arange(len(users)) - np.repeat(starts, lengths)
    return arrival
