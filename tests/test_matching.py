"""Learned groups matched to labels."""

import itertools

import numpy as np

from paljax.matching import label_of_user, match_groups


def test_the_matching_is_the_best_of_all():
    random = np.random.default_rng(0)
    groups, labels = random.integers(0, 4, 60), random.choice(["a", "b", "c"], 60)
    found = match_groups(groups, labels.tolist(), num_groups=4)
    best = max(
        sum(
            ((groups == k) & (labels == label)).sum() for k, label in zip(order, "abc", strict=True)
        )
        for order in itertools.permutations(range(4), 3)
    )
    assert found.matched == best
    assert found.people == 60
    assert found.label_of.count(None) == 1
    moved = match_groups((groups + 1) % 4, labels.tolist(), num_groups=4)
    assert moved.label_of == tuple(found.label_of[k - 1] for k in range(4))


def test_people_without_one_label_are_left_out():
    labels = label_of_user(
        np.array([0, 0, 1, 2, 2]), np.array(["a", "a", "b", "a", "b"], object), 4
    )
    assert labels == ["a", "b", None, None]
    found = match_groups(np.array([1, 0, 0, 0]), labels, num_groups=2)
    assert (found.label_of, found.matched, found.people) == (("b", "a"), 2, 2)
