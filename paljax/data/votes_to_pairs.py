"""From votes on single items to comparisons, so that no vote is in two parts.

A user who agrees with one statement and disagrees with another prefers the first. Where pairs are
formed first and split afterwards, one vote is a side of many pairs and lies in training and test at
once: the answers to most test pairs have been seen. So votes are split first, and a pair is formed
only of two votes of one user in one part. Pairs also leave out how readily somebody agrees.

What is scored are pairs. What is learned from may be the votes themselves, as comparisons of their
item with levels of the scale: a user's n votes are then n comparisons with each level, while their
pairs, which share votes, look like up to n²/4 independent answers and say nothing of two items that
both are liked.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import (
    Comparisons,
    Dataset,
    Votes,
    level_names,
    weighed_by_levels,
)
from paljax.data.splits import (
    OF_SEEN,
    PARTS,
    REFIT,
    SUPPORTS,
    UNUSED,
    VALIDATION_QUERY,
    VALIDATION_SUPPORT,
    Split,
)
from paljax.errors import UserError

Passes = Literal["drop", "middle", "lowest"]
LearnFrom = Literal["pairs", "votes"]

SCORED = ("validation", "test", "query", VALIDATION_QUERY)  # parts whose pairs are scored
ALL = (*PARTS, VALIDATION_SUPPORT, VALIDATION_QUERY)  # a part's place seeds its pairs

# The one level of votes that are yes or no; who joins later sends votes as comparisons with it.
NEUTRAL = "neither liked nor disliked"


class Paired(NamedTuple):
    """Comparisons made of votes."""

    dataset: Dataset  # with the comparisons, and the votes that were used
    split: Split  # of the comparisons
    vote_split: Split  # of the votes


class _Rows(NamedTuple):
    """n comparisons made of votes."""

    vote: NDArray[np.int64]  # [n] a vote of the row
    chosen: NDArray[np.int32]  # [n] row of the items
    rejected: NDArray[np.int32]  # [n] row of the items
    tie: NDArray[np.bool_]  # [n]
    task: NDArray[np.int64]  # [n]
    part: NDArray[np.object_]  # [n]
    arrival: NDArray[np.int32]  # [n]

    def select(self, rows: NDArray[Any]) -> "_Rows":
        return _Rows(*(field[rows] for field in self))


def votes_to_pairs(
    dataset: Dataset,
    split_votes: Callable[[Dataset], Split],
    *,
    passes: Passes = "drop",
    least_difference: float = 0.0,
    most_per_user: int | None = 200,
    learn_from: LearnFrom = "pairs",
    num_levels: int = 1,
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
        learn_from: "votes": training and support rows are comparisons of an item with a level,
            which the item wins where it was rated higher, with a tie where it was rated so. Choices
            are made by pairs of the validation part; the refit learns from its votes, which are
            comparisons of the part `REFIT`.
        num_levels: L, in equal distances inside the scale: one is its middle. A vote is L rows of
            one task, whether it is above each level, each of weight 1 / L: a composite likelihood
            of a rating, in which λ counts votes.
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
    pair = partial(_pairs, votes, least=least_difference, most=most_per_user, seed=seed)
    of_parts = pair(vote_split, SCORED if learn_from == "votes" else ALL)
    rows = _paired(votes, of_parts, vote_split)
    if learn_from == "pairs" and (vote_split.part == VALIDATION_SUPPORT).any():
        rows = _both(rows, _of_refit(votes, vote_split, pair))
    if learn_from == "votes":
        levels = _levels(votes.value[np.isin(vote_split.part, (*OF_SEEN, "support"))], num_levels)
        dataset = _with_levels(dataset, levels)
        rows = _both(_against_levels(votes, vote_split, levels, len(dataset.items)), rows)
    rows = rows.select(np.argsort(votes.user[rows.vote], kind="stable"))
    dataset = dataset._replace(
        comparisons=_comparisons(votes, rows),
        group=None if votes.group is None else votes.group[rows.vote],
        topic=None if dataset.topic is None else dataset.topic[rows.vote],
    )
    return Paired(
        weighed_by_levels(dataset, level_names(dataset)),
        Split(rows.part, rows.arrival),
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


def _pairs(
    votes: Votes,
    split: Split,
    parts: Sequence[str],
    *,
    least: float,
    most: int | None,
    seed: int,
) -> NDArray[np.int64]:
    """Pairs of votes inside each of the parts, the better liked first, [pairs, 2]."""
    pairs = [np.zeros((0, 2), np.int64)]
    for part in parts:
        for mine in _by_user(votes, np.flatnonzero(split.part == part)):
            if part in SUPPORTS:
                mine = mine[np.argsort(split.arrival[mine], kind="stable")]
                pairs.append(_first_complete(mine, votes.value[mine], least, most))
            else:
                place = ALL.index(part)
                generator = np.random.default_rng([seed, place, int(votes.user[mine[0]])])
                mine = generator.permutation(mine)
                pairs.append(_round_by_round(mine, votes.value[mine], least, most))
    if not sum(map(len, pairs)):
        raise UserError(
            f"no pair can be formed of {len(votes.user)} votes: in no part does a user like one "
            f"item better than another{f' by {least:g}' if least else ''}"
        )
    return np.concatenate(pairs)


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


def _paired(votes: Votes, pairs: NDArray[np.int64], split: Split) -> _Rows:
    """Pairs of votes, the better liked first, as comparisons; complete with their later vote."""
    better, worse = pairs.T
    later = np.maximum(split.arrival[better], split.arrival[worse])
    none = np.zeros(len(pairs), np.bool_)
    task = len(votes.user) + np.arange(len(pairs))
    part = split.part[better]
    return _Rows(better, votes.item[better], votes.item[worse], none, task, part, later)


def _of_refit(
    votes: Votes, split: Split, pair: Callable[[Split, Sequence[str]], NDArray[np.int64]]
) -> _Rows:
    """Pairs that the refit learns from beside those of "train": of validation users' votes all
    together, as of any seen user's, and those of "validation".
    """
    stood_in = np.isin(split.part, (VALIDATION_SUPPORT, VALIDATION_QUERY))
    of_others = np.where(split.part == "validation", "validation", UNUSED)
    as_seen = Split(np.where(stood_in, "train", of_others), split.arrival)
    rows = _paired(votes, pair(as_seen, ("train", "validation")), as_seen)
    none = np.full(len(rows.vote), -1, np.int32)
    return rows._replace(part=np.full(len(rows.vote), REFIT, object), arrival=none)


def _levels(value: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    values = np.unique(value)
    if not len(values):
        raise UserError("splits: no vote is left for 'train'; change the shares under 'splits'")
    if count > max(len(values) - 1, 1):
        raise UserError(
            f"pairs.num_levels: {count} levels for votes of {len(values)} different values; give "
            f"at most {max(len(values) - 1, 1)}"
        )
    return np.asarray(np.linspace(values[0], values[-1], count + 2)[1:-1])


def _with_levels(dataset: Dataset, levels: NDArray[np.float64]) -> Dataset:
    items = dataset.items
    assert isinstance(items, tuple)
    names = (NEUTRAL,) if len(levels) == 1 else tuple(f"rated {level:g}" for level in levels)
    for name in names:
        if name in items:
            raise UserError(
                f"pairs.learn_from: 'votes' are compared with {name!r}, which is an item of these "
                "data; wanted 'pairs'"
            )
    return dataset._replace(items=items + names, num_levels=len(names))


def _against_levels(
    votes: Votes, split: Split, levels: NDArray[np.float64], num_items: int
) -> _Rows:
    """Votes that are learned from as comparisons of their item with every level, [v L]."""
    of_seen = np.isin(split.part, OF_SEEN)
    # Now, or in the refit; the support that validation users join with is both.
    now = np.isin(split.part, ("train", "support", VALIDATION_SUPPORT))
    voted = np.concatenate([np.flatnonzero(now), np.flatnonzero(of_seen & (split.part != "train"))])
    parts = split.part[voted].astype(object)
    parts[now.sum() :] = REFIT
    vote, part = np.repeat(voted, len(levels)), np.repeat(parts, len(levels))
    item, value = votes.item[vote], votes.value[vote]
    level = np.tile(np.arange(len(levels)), len(voted))
    other = (num_items - len(levels) + level).astype(np.int32)
    higher, same = value > levels[level], np.isclose(value, levels[level])
    return _Rows(
        vote,
        np.where(higher, item, other),
        np.where(higher, other, item),
        same,
        vote,
        part,
        np.where(part == REFIT, -1, split.arrival[vote]).astype(np.int32),
    )


def _both(first: _Rows, second: _Rows) -> _Rows:
    fields: Iterable[Any] = zip(first, second, strict=True)
    return _Rows(*map(np.concatenate, fields))


def _comparisons(votes: Votes, rows: _Rows) -> Comparisons:
    count = len(rows.vote)
    return Comparisons(
        user=votes.user[rows.vote],
        prompt=np.full(count, -1, np.int32),
        chosen=rows.chosen,
        rejected=rows.rejected,
        weight=np.ones(count, np.float32),
        tie=rows.tie,
        task=np.unique(rows.task, return_inverse=True)[1].astype(np.int32),
    )
