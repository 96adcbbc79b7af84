"""From votes on single items to comparisons, so that no vote is in two parts.

A user who agrees with one statement and disagrees with another prefers the first. Where pairs are
formed first and split afterwards, one vote is a side of many pairs and lies in training and test at
once: the answers to most test pairs have been seen. So votes are split first, and a pair is formed
only of two votes of one user in one part. Pairs also leave out how readily somebody agrees.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Comparisons, Dataset, Votes
from paljax.data.splits import PARTS, Split
from paljax.errors import UserError

Passes = Literal["drop", "middle", "lowest"]


class Paired(NamedTuple):
    """Comparisons made of votes."""

    dataset: Dataset  # with the comparisons, and the votes that were used
    split: Split  # of the comparisons
    vote_split: Split  # of the votes


def votes_to_pairs(
    dataset: Dataset,
    split_votes: Callable[[Dataset], Split],
    *,
    passes: Passes = "drop",
    least_difference: float = 0.0,
    most_per_user: int | None = 200,
    seed: int = 0,
) -> Paired:
    """Split the votes, then pair each user's votes inside every part.

    Within a part all pairs of a user's votes that differ are candidates. Where there are more than
    `most_per_user`, they are taken round by round from the votes in a circle, in random order: in
    each round every vote meets the one that lies as many places further on, so that no vote is used
    much oftener than another. A user's support arrives vote by vote: of those pairs the first to be
    complete are taken, and `Split.arrival` is the place of the later vote, so that n shots are the
    pairs of a user's first n votes.

    Args:
        dataset: With votes.
        split_votes: Splits them; called with the votes that are left after `passes`.
        passes: What a vote without an opinion counts: nothing ("drop"), the middle of the scale, or
            its lowest value.
        least_difference: Two votes that differ by less are no pair: on a fine scale, a hand that
            slipped is no preference. Equal votes never are.
        most_per_user: Pairs of one user in one part. None: all.
        seed: Of the choice of pairs; a user's pairs depend on nothing else.

    Returns:
        The comparisons, grouped by user and part, and both splits.

    Raises:
        UserError: If no pair can be formed.
    """
    dataset = dataset._replace(votes=_with_opinions(dataset, passes))
    votes = dataset.votes
    assert votes is not None
    vote_split = split_votes(dataset)
    pairs: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64)]
    for place, part in enumerate(PARTS):
        for mine in _by_user(votes, np.flatnonzero(vote_split.part == part)):
            if part == "support":
                mine = mine[np.argsort(vote_split.arrival[mine], kind="stable")]
                value = votes.value[mine]
                pairs.append(_first_complete(mine, value, least_difference, most_per_user))
            else:
                generator = np.random.default_rng([seed, place, int(votes.user[mine[0]])])
                mine = generator.permutation(mine)
                value = votes.value[mine]
                pairs.append(_round_by_round(mine, value, least_difference, most_per_user))
    chosen, rejected = np.concatenate(pairs).T
    if not len(chosen):
        raise UserError(
            f"no pair can be formed of {len(votes.user)} votes: in no part does a user like one "
            f"item better than another{f' by {least_difference:g}' if least_difference else ''}"
        )
    order = np.argsort(votes.user[chosen], kind="stable")
    chosen, rejected = chosen[order], rejected[order]
    later = np.maximum(vote_split.arrival[chosen], vote_split.arrival[rejected])
    return Paired(
        dataset._replace(
            comparisons=_comparisons(votes, chosen, rejected),
            group=None if votes.group is None else votes.group[chosen],
        ),
        Split(vote_split.part[chosen], later),
        vote_split,
    )


def _with_opinions(dataset: Dataset, passes: Passes) -> Votes:
    votes = dataset.votes
    assert votes is not None
    passed = np.isnan(votes.value)
    if passed.all():
        raise UserError("no pair can be formed: every vote is a pass")
    if passes == "drop":
        return votes.select(~passed)
    low, high = np.nanmin(votes.value), np.nanmax(votes.value)
    value = low if passes == "lowest" else (low + high) / 2
    return votes._replace(value=np.where(passed, value, votes.value).astype(np.float32))


def _by_user(votes: Votes, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Vote numbers of each user who has any, in their order."""
    if not len(rows):
        return []
    order = rows[np.argsort(votes.user[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(votes.user[order])) + 1)


def _round_by_round(
    votes: NDArray[np.int64], value: NDArray[np.float32], least: float, most: int | None
) -> NDArray[np.int64]:
    """Pairs of votes in a circle, at most `most`: liked better, liked less, [pairs, 2]."""
    size, found = len(votes), 0
    rounds = [np.zeros((0, 2), np.int64)]
    for distance in range(1, size // 2 + 1):
        one = np.arange(size // 2 if 2 * distance == size else size)
        rounds.append(_differing(one, (one + distance) % size, value, least))
        found += len(rounds[-1])
        if most is not None and found >= most:
            break
    return np.asarray(votes[np.concatenate(rounds)[:most]])


def _first_complete(
    votes: NDArray[np.int64], value: NDArray[np.float32], least: float, most: int | None
) -> NDArray[np.int64]:
    """Pairs of votes in order of the later one, at most `most`, [pairs, 2]."""
    later, earlier = np.tril_indices(len(votes), -1)
    return np.asarray(votes[_differing(later, earlier, value, least)[:most]])


def _differing(
    one: NDArray[np.int64], other: NDArray[np.int64], value: NDArray[np.float32], least: float
) -> NDArray[np.int64]:
    """The pairs whose values differ, by `least` or more, the higher first."""
    better = np.where(value[one] > value[other], one, other)
    worse = np.where(value[one] > value[other], other, one)
    pairs: NDArray[np.int64] = np.stack([better, worse], axis=1)
    difference = value[better] - value[worse]
    return pairs[(difference > 0) & (difference >= least)]


def _comparisons(
    votes: Votes, chosen: NDArray[np.int64], rejected: NDArray[np.int64]
) -> Comparisons:
    count = len(chosen)
    return Comparisons(
        user=votes.user[chosen],
        prompt=np.full(count, -1, np.int32),
        chosen=votes.item[chosen],
        rejected=votes.item[rejected],
        weight=np.ones(count, np.float32),
        tie=np.zeros(count, np.bool_),
        task=np.arange(count, dtype=np.int32),
    )
