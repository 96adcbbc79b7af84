"""Pairs of votes: no vote in two parts, what a pair means, and caps that favour no vote."""

from collections import Counter
from functools import partial

import numpy as np
import pytest

from paljax.data.dataset import Dataset, assemble_votes
from paljax.data.splits import (
    PARTS,
    REFIT,
    VALIDATION_QUERY,
    VALIDATION_SUPPORT,
    Split,
    split_at_random,
)
from paljax.data.votes_to_pairs import NEUTRAL, votes_to_pairs
from paljax.errors import UserError

SHARES = {"validation": 0.2, "test": 0.25, "unseen_users": 0.2, "query": 0.4, "seed": 3}
at_random = partial(split_at_random, **SHARES)


def ballots(num_users: int = 15, num_items: int = 40, passes: float = 0.2) -> Dataset:
    """Users who each vote on most of the items; -1, 1 or a pass."""
    generator = np.random.default_rng(0)
    cells = np.argwhere(generator.random((num_users, num_items)) < 0.8)
    user, item = generator.permutation(cells).T
    value = generator.choice([-1.0, 1.0], len(user), p=[0.3, 0.7])
    value[generator.random(len(user)) < passes] = np.nan
    return assemble_votes(
        [f"user {number}" for number in user],
        [f"statement {number}" for number in item],
        value,
        group=[f"group {number % 3}" for number in user],
    )


def all_in(part: str):
    return lambda data: Split(
        np.full(len(data.votes.user), part, object), np.arange(len(data.votes.user), dtype=np.int32)
    )


def votes_by_part(dataset: Dataset, part) -> dict[str, set[tuple[int, int]]]:
    """The (user, item) votes that the pairs of each part are made of."""
    rows, found = dataset.comparisons, {}
    for name in set(part):
        mine = rows.select(part == name)
        found[name] = {*zip(mine.user, mine.chosen), *zip(mine.user, mine.rejected)}  # noqa: B905
    return found


def texts_of(data: Dataset, rows) -> set[tuple[str, str]]:
    pairs = zip(rows.chosen, rows.rejected, strict=True)
    return {(data.items[better], data.items[worse]) for better, worse in pairs}


def test_no_vote_is_in_two_parts():
    paired = votes_to_pairs(ballots(), at_random)
    found = votes_by_part(paired.dataset, paired.split.part)
    assert set(found) == set(PARTS)
    assert sum(map(len, found.values())) == len(set().union(*found.values()))


def test_pairs_first_and_split_afterwards_shares_votes():
    """Why votes are split first: this order has most votes of the test part in training, too."""
    paired = votes_to_pairs(ballots(), all_in("train"), most_per_user=None)
    naive = split_at_random(paired.dataset._replace(votes=None), **SHARES)
    found = votes_by_part(paired.dataset, naive.part)
    shared = found["train"] & found["test"]
    assert len(shared) > 0.9 * len(found["test"])


@pytest.mark.parametrize("most", [None, 7])
def test_a_pair_is_one_users_better_liked_item_over_a_worse_liked(most):
    data = ballots()
    paired = votes_to_pairs(data, at_random, most_per_user=most)
    votes, rows = data.votes, paired.dataset.comparisons
    value = dict(zip(zip(votes.user, votes.item, strict=True), votes.value, strict=True))
    part = dict(
        zip(
            zip(paired.dataset.votes.user, paired.dataset.votes.item, strict=True),
            paired.vote_split.part,
            strict=True,
        )
    )
    seen = set()
    for user, better, worse, where in zip(
        rows.user, rows.chosen, rows.rejected, paired.split.part, strict=True
    ):
        assert value[user, better] == 1
        assert value[user, worse] == -1
        assert part[user, better] == part[user, worse] == where
        seen.add((user, frozenset((better, worse))))
    assert len(seen) == len(rows.user)
    counts = Counter(zip(rows.user, paired.split.part, strict=True))
    if most is None:
        # All of them: in every part of every user, agreements times disagreements.
        for (user, where), count in counts.items():
            mine = [v for (u, i), v in value.items() if u == user and part.get((u, i)) == where]
            assert count == mine.count(1) * mine.count(-1)
    else:
        assert max(counts.values()) == most
    groups = [f"group {int(data.users[user].split()[1]) % 3}" for user in rows.user]
    assert list(paired.dataset.group) == groups


def test_a_cap_uses_no_vote_much_oftener_than_another():
    value = np.array([1.0] * 30 + [-1.0] * 30)
    data = assemble_votes(["ann"] * 60, [f"s{n}" for n in range(60)], value)
    rows = votes_to_pairs(data, all_in("train"), most_per_user=60).dataset.comparisons
    used = np.bincount(np.concatenate([rows.chosen, rows.rejected]), minlength=60)
    # Sixty pairs are two sides of sixty votes: two each if all were alike; a random choice of
    # pairs leaves out about eight votes and uses one six times.
    assert used.sum() == 120
    assert used.max() <= 4
    assert (used == 0).sum() <= 4


def test_more_pairs_keep_those_that_fewer_have():
    few, many = (votes_to_pairs(ballots(), at_random, most_per_user=most) for most in (5, 20))
    sides = [
        set(zip(p.dataset.comparisons.user, p.dataset.comparisons.chosen,
                p.dataset.comparisons.rejected, strict=True))
        for p in (few, many)
    ]  # fmt: skip
    assert sides[0] < sides[1]


def test_the_seed_decides_and_nothing_else():
    one, same = (votes_to_pairs(ballots(), at_random, most_per_user=9, seed=1) for _ in range(2))
    other = votes_to_pairs(ballots(), at_random, most_per_user=9, seed=2)
    for left, right in zip(one.dataset.comparisons, same.dataset.comparisons, strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(one.vote_split.part, other.vote_split.part)
    assert not np.array_equal(one.dataset.comparisons.chosen, other.dataset.comparisons.chosen)


def test_shots_are_the_pairs_of_a_users_first_votes():
    by_votes = partial(split_at_random, **SHARES, support=12)
    paired = votes_to_pairs(ballots(passes=0.0), by_votes)
    votes, rows, split = paired.dataset.votes, paired.dataset.comparisons, paired.split
    support = paired.vote_split.rows("support")
    assert set(np.bincount(votes.user[support])) == {0, 12}
    place = {
        (votes.user[vote], votes.item[vote]): paired.vote_split.arrival[vote] for vote in support
    }
    for shots in (0, 1, 2, 5, 12):
        pool = split.support(rows, shots)
        given = pool.select(pool.weight > 0)
        used = {*zip(given.user, given.chosen), *zip(given.user, given.rejected)}  # noqa: B905
        assert all(place[vote] < shots for vote in used)
        # Every pair of a user's first votes that differ is there.
        for user in np.unique(votes.user[support]):
            mine = [
                v for v in support if votes.user[v] == user and place[user, votes.item[v]] < shots
            ]
            values = votes.value[mine].tolist()
            assert (given.user == user).sum() == values.count(1) * values.count(-1)


def test_a_cap_on_support_keeps_the_pairs_that_are_complete_first():
    data = assemble_votes(["ann"] * 12, [f"s{n}" for n in range(12)], np.array([1.0, -1.0] * 6))
    places = np.random.default_rng(0).permutation(12).astype(np.int32)
    split = Split(np.full(12, "support", object), places)
    all_pairs, few = (votes_to_pairs(data, lambda _: split, most_per_user=m) for m in (None, 7))
    assert sorted(few.split.arrival) == sorted(all_pairs.split.arrival)[:7]


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ("drop", {("yes", "no")}),
        ("middle", {("yes", "no"), ("yes", "pass"), ("pass", "no")}),
        ("lowest", {("yes", "no"), ("yes", "pass")}),
    ],
)
def test_what_a_pass_counts(passes, expected):
    data = assemble_votes(["ann"] * 3, ["yes", "no", "pass"], np.array([1, -1, np.nan]))
    rows = votes_to_pairs(data, all_in("train"), passes=passes).dataset.comparisons
    items = data.items
    assert {
        (items[a], items[b]) for a, b in zip(rows.chosen, rows.rejected, strict=True)
    } == expected


def test_ratings_are_votes_with_more_values():
    data = assemble_votes(["ann"] * 4, list("abcd"), np.array([10.0, 90.0, 40.0, 40.0]))
    rows = votes_to_pairs(data, all_in("train")).dataset.comparisons
    pairs = {
        "".join(data.items[i] for i in pair)
        for pair in zip(rows.chosen, rows.rejected, strict=True)
    }
    assert pairs == {"ba", "bc", "bd", "ca", "da"}


def test_a_second_vote_on_an_item_is_dropped_and_counted():
    data = assemble_votes(["ann", "ann", "ben", "ann"], list("xxxy"), np.array([1.0, -1, -1, -1]))
    assert data.votes.value.tolist() == [1, -1, -1]
    assert data.dropped == {"repeated vote": 1}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([1.0, 1.0, 1.0], "no pair can be formed of 3 votes: in no part does a user like one item"),
        ([np.nan] * 3, "no pair can be formed: every vote is a pass"),
    ],
)
def test_votes_that_say_nothing_are_refused(value, line):
    data = assemble_votes(["ann"] * 3, list("abc"), np.array(value))
    with pytest.raises(UserError, match=line):
        votes_to_pairs(data, all_in("train"))


@pytest.mark.parametrize("part", ["test", "support"])
def test_ratings_that_hardly_differ_are_no_pair(part):
    data = assemble_votes(["ann"] * 4, ["a", "b", "c", "d"], np.array([0.0, 5.0, 9.0, 5.0]))
    paired = votes_to_pairs(data, all_in(part), least_difference=5.0, most_per_user=None)
    expected = {("b", "a"), ("c", "a"), ("d", "a")}  # 5 is enough, 4 is not, and 0 never
    assert texts_of(paired.dataset, paired.dataset.comparisons) == expected
    with pytest.raises(UserError, match="better than another by 10"):
        votes_to_pairs(data, all_in(part), least_difference=10.0)


def values_of(data: Dataset) -> dict[tuple[int, int], float]:
    votes = data.votes
    return dict(zip(zip(votes.user, votes.item, strict=True), votes.value, strict=True))


def test_votes_that_are_learned_from_stand_against_the_neutral_item():
    """Every vote of training, support and, for the refit, validation once; pairs elsewhere."""
    paired = votes_to_pairs(ballots(), at_random, learn_from="votes")
    data, split, value = paired.dataset, paired.split, values_of(paired.dataset)
    neutral = data.items.index(NEUTRAL)
    assert (data.num_levels, neutral) == (1, len(data.items) - 1)
    found: dict[str, set[tuple[int, int]]] = {}
    for row in range(len(split.part)):
        user, chosen, rejected = (
            int(field[row])
            for field in (data.comparisons.user, data.comparisons.chosen, data.comparisons.rejected)
        )
        part = split.part[row]
        if part in ("train", REFIT, "support"):
            item = rejected if chosen == neutral else chosen
            assert {chosen, rejected} == {neutral, item}
            assert value[user, item] == (1 if rejected == neutral else -1)
            found.setdefault(part, set()).add((user, item))
        else:
            assert (value[user, chosen], value[user, rejected]) == (1, -1)
    assert not data.comparisons.tie.any()
    votes = paired.dataset.votes
    for part, where in {"train": "train", REFIT: "validation", "support": "support"}.items():
        mine = paired.vote_split.rows(where)
        wanted = {*zip(votes.user[mine].tolist(), votes.item[mine].tolist(), strict=True)}
        assert found[part] == wanted
        assert (split.part == part).sum() == len(wanted)
    assert len(data.group) == len(split.part)


def test_what_is_scored_is_the_same_whatever_is_learned_from():
    of_pairs, of_votes = (
        votes_to_pairs(ballots(), at_random, learn_from=what) for what in ("pairs", "votes")
    )
    for part in ("validation", "test", "query"):
        one, other = (
            paired.dataset.comparisons.select(paired.split.rows(part))
            for paired in (of_pairs, of_votes)
        )
        for name in ("user", "chosen", "rejected"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_n_shots_of_votes_are_a_users_first_n_votes():
    by_votes = partial(split_at_random, **SHARES, support=12)
    paired = votes_to_pairs(ballots(passes=0.0), by_votes, learn_from="votes")
    rows, split, data = paired.dataset.comparisons, paired.split, paired.dataset
    for shots in (0, 1, 5, 12):
        pool = split.support(rows, shots)
        given = pool.select(pool.weight > 0)
        assert set(np.bincount(given.user)) <= {0, shots}
        voted = np.where(data.is_level(given.chosen), given.rejected, given.chosen)
        support = paired.vote_split.rows("support")
        first = support[paired.vote_split.arrival[support] < shots]
        assert {*zip(given.user, voted, strict=True)} == {
            *zip(data.votes.user[first], data.votes.item[first], strict=True)
        }


@pytest.mark.parametrize("learn_from", ["pairs", "votes"])
def test_votes_of_validation_users_are_shared_as_those_of_users_who_join(learn_from):
    split = partial(split_at_random, **SHARES, support=12, validation_users=0.3)
    paired = votes_to_pairs(ballots(passes=0.0), split, learn_from=learn_from)
    found = votes_by_part(paired.dataset, paired.split.part)
    neutral = len(paired.dataset.items) - 1 if learn_from == "votes" else -1
    found = {
        part: {(user, item) for user, item in votes if item != neutral}
        for part, votes in found.items()
    }
    apart = [set(PARTS), {VALIDATION_SUPPORT, VALIDATION_QUERY, "test"}]
    for parts in apart:
        votes = [found[part] for part in parts]
        assert sum(map(len, votes)) == len(set().union(*votes))
    # All are learned from once all is chosen, as those of any seen user.
    again = paired.split.learned(refit=True)
    rows = paired.dataset.comparisons.select(again)
    learned = votes_by_part(
        paired.dataset._replace(comparisons=rows), np.full(len(again), "", object)
    )
    of_seen = paired.vote_split.rows("train", "validation", VALIDATION_SUPPORT, VALIDATION_QUERY)
    votes = paired.dataset.votes.select(of_seen)
    wanted = {*zip(votes.user.tolist(), votes.item.tolist(), strict=True)}
    assert {(user, item) for user, item in learned[""] if item != neutral} == wanted
    pool = paired.split.support(paired.dataset.comparisons, 5, VALIDATION_SUPPORT)
    given = votes_by_part(paired.dataset._replace(comparisons=pool.select(pool.weight > 0)),
                          np.full((pool.weight > 0).sum(), "given", object))["given"]  # fmt: skip
    users, counts = np.unique([user for user, item in given if item != neutral], return_counts=True)
    assert len(users) == 4
    assert set(counts) <= ({5} if learn_from == "votes" else {2, 3, 4, 5})


def test_a_rating_is_compared_with_every_level():
    parts = np.array(["train"] * 4 + ["validation"] * 2, object)
    split = Split(parts, np.full(6, -1, np.int32))
    data = assemble_votes(["ann"] * 6, list("abcdef"), np.array([0.0, 100, 50, 30, 20, 80]))
    paired = votes_to_pairs(data, lambda _: split, learn_from="votes", num_levels=3)
    assert paired.dataset.items[6:] == ("rated 25", "rated 50", "rated 75")
    rows = paired.dataset.comparisons.select(paired.split.part == "train")
    won = {item: [] for item in "abcd"}
    for chosen, rejected, tie in zip(rows.chosen, rows.rejected, rows.tie, strict=True):
        sides = {chosen, rejected}
        level, item = max(sides), min(sides)
        won[paired.dataset.items[item]].append((level, 0.5 if tie else float(chosen == item)))
    levels = {item: [score for _, score in sorted(scores)] for item, scores in won.items()}
    assert levels == {"a": [0, 0, 0], "b": [1, 1, 1], "c": [1, 0.5, 0], "d": [1, 0, 0]}
    # The rows of one vote are one task, and together they weigh as much as a pair.
    np.testing.assert_allclose(np.bincount(rows.task, rows.weight)[np.unique(rows.task)], 1)
    scored = paired.dataset.comparisons.select(paired.split.part == "validation")
    np.testing.assert_array_equal(scored.weight, 1)
    assert sorted(np.bincount(rows.task)[np.unique(rows.task)]) == [3, 3, 3, 3]


def test_a_text_that_stands_for_a_level_is_no_item():
    data = assemble_votes(["ann"] * 4, ["a", "b", "c", NEUTRAL], np.array([1.0, -1, 1, -1]))
    split = Split(np.array(["train", "train", "test", "test"], object), np.full(4, -1, np.int32))
    with pytest.raises(UserError, match="'neither liked nor disliked', which is an item of these"):
        votes_to_pairs(data, lambda _: split, learn_from="votes")


def test_votes_of_which_none_is_learned_from_are_refused():
    data = assemble_votes(["ann"] * 2, ["a", "b"], np.array([1.0, -1]))
    with pytest.raises(UserError, match="splits: no vote is left for 'train'"):
        votes_to_pairs(data, all_in("test"), learn_from="votes")


def test_what_a_final_model_learns_from():
    for what, expected in (("pairs", {"train", "validation"}), ("votes", {"train", REFIT})):
        split = votes_to_pairs(ballots(), at_random, learn_from=what).split
        assert set(split.part[split.learned(refit=True)]) == expected
        assert set(split.part[split.learned(refit=False)]) == {"train"}


def test_levels_that_tell_the_same_are_refused():
    with pytest.raises(UserError, match="9 levels for votes of 2 different values; give at most 1"):
        votes_to_pairs(ballots(), at_random, learn_from="votes", num_levels=9)
