"""Gains of groups and users, and the gap, against loops over comparisons and a hand-made case."""

import math

import numpy as np
import pytest

from paljax.reward.groups import Judged, accuracy_gap, by_group, gains_by_group, gains_of_users

OPTIONS = {"resamples": 400, "seed": 0}


def judged(seed=0, n=600, num_users=23):
    generator = np.random.default_rng(seed)
    users = generator.integers(0, num_users, n)
    margins, shared = generator.normal(0.6, 1.5, n), generator.normal(0.3, 1.0, n)
    margins[:9] = 0  # ties count half
    # People of north are predicted well by their own rewards, those of south badly.
    groups = np.array(["south", "north", "west"], object)[users % 3]
    margins[groups == "north"] += 1.0
    margins[groups == "south"] -= 0.9
    return Judged(margins, shared, users * 7, groups)  # numbers of users have holes


def hit(margin):
    return 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0


def differences(rows, select):
    found = {}
    for margin, shared, user, group in zip(*rows, strict=True):
        if select(group):
            found.setdefault(int(user), []).append(hit(margin) - hit(shared))
    return found


def test_a_groups_gain_is_the_mean_over_its_comparisons():
    rows = judged()
    gains = gains_by_group(rows, **OPTIONS)
    assert list(gains) == ["north", "south", "west"]
    for name, gain in gains.items():
        of_users = differences(rows, lambda group, name=name: group == name)
        mean = np.mean([value for values in of_users.values() for value in values])
        assert gain["accuracy"] == pytest.approx(mean)
        low, high = gain["interval"]
        assert low < mean < high
    assert gains["north"]["interval"][0] > 0 > gains["south"]["interval"][1]


def test_a_group_of_one_user_has_a_gain_and_no_interval():
    """Its users are what is resampled, not its comparisons."""
    rows = Judged(*(np.array(c) for c in ([1, -1, 1.0], [-1, -1, -1.0], [4, 4, 4], ["a"] * 3)))
    gain = gains_by_group(rows, **OPTIONS)["a"]
    assert gain == {"accuracy": pytest.approx(2 / 3), "interval": None}
    found = gains_of_users(rows, **OPTIONS)
    assert found["better"] == {"share": 1.0, "interval": None}


@pytest.mark.parametrize("alone", ["best", "worst"])
def test_a_gap_to_a_group_of_one_user_has_no_interval(alone):
    margins, users = np.array([1.0, 1, -1, -1]), np.array([0, 1, 2, 3])
    groups = np.array(["best", "best", "worst", "worst"])
    options = {"margins": margins, "groups": groups, **OPTIONS}
    assert accuracy_gap(users=users, **options)["interval"] == [1, 1]
    users = np.where(groups == alone, 9, users)
    found = accuracy_gap(users=users, **options)
    assert (found["best"], found["worst"]) == ("best", "worst")
    assert (found["gap"], found["interval"]) == (1, None)


def test_the_gap_is_between_the_best_and_the_worst_group():
    rows = judged()
    found = accuracy_gap(rows.margins, rows.users, rows.groups, **OPTIONS)
    accuracy = {
        name: np.mean([hit(m) for m, g in zip(rows.margins, rows.groups, strict=True) if g == name])
        for name in ("north", "south", "west")
    }
    assert (found["best"], found["worst"]) == ("north", "south")
    assert found["gap"] == pytest.approx(accuracy["north"] - accuracy["south"])
    low, high = found["interval"]
    assert 0 < low < found["gap"] < high


def test_the_gap_of_equal_groups_covers_zero():
    """Two groups taken as given: the interval does not grow above zero as a maximum would."""
    generator = np.random.default_rng(3)
    users = np.repeat(np.arange(40), 30)
    margins = generator.normal(0.5, 1, 1200)
    low, high = accuracy_gap(margins, users, np.where(users % 2, "a", "b"), **OPTIONS)["interval"]
    assert low < 0 < high


def test_users_who_gain_and_lose_are_counted():
    rows = judged()
    found = gains_of_users(rows, **OPTIONS)
    of_users = differences(rows, lambda group: True)
    gains = [np.mean(values) for values in of_users.values()]
    assert found["users"] == len(of_users) == 23
    for name, those in (
        ("better", [g > 0 for g in gains]),
        ("worse", [g < 0 for g in gains]),
        ("same", [g == 0 for g in gains]),
    ):
        assert found[name]["share"] == pytest.approx(np.mean(those))
        low, high = found[name]["interval"]
        assert low <= found[name]["share"] <= high
    clear = {1: 0, -1: 0}
    for values in of_users.values():
        wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
        n, few = wins + losses, min(wins, losses)
        if 2 * sum(math.comb(n, i) for i in range(few + 1)) / 2**n <= 0.05:
            clear[1 if wins > losses else -1] += 1
    assert (found["clearly_better"], found["clearly_worse"]) == (clear[1], clear[-1])
    assert min(clear.values()) > 0
    assert sum(found["histogram"]["users"]) == 23
    assert found["quantiles"]["0.5"] == pytest.approx(np.median(gains))


def test_equal_models_help_and_harm_nobody():
    rows = judged()
    found = gains_of_users(rows._replace(shared=rows.margins), **OPTIONS)
    assert found["same"]["share"] == 1
    assert found["clearly_better"] == found["clearly_worse"] == 0
    edges, users = found["histogram"]["edges"], found["histogram"]["users"]
    (middle,) = np.flatnonzero(users)
    assert edges[middle] < 0 < edges[middle + 1]


def test_one_group_is_no_comparison_and_a_shared_reward_gains_nothing():
    scores = {"accuracy": 0.7, "interval": [0.6, 0.8], "n": 5, "n_users": 2}
    assert by_group({"pal_a": {"all": scores}}, {}) == []
    rows = by_group({"bradley_terry": {"a": scores, "b": scores}}, {})
    assert [(row["group"], row["gain"]) for row in rows] == [("a", None), ("b", None)]


def test_five_gains_of_five_leave_it_open_and_six_of_six_do_not():
    """Two-sided: 2 / 2^5 is above 5 %, 2 / 2^6 below."""
    for count, clear in ((5, 0), (6, 1)):
        ones = np.ones(count)
        rows = Judged(ones, -ones, np.zeros(count), np.full(count, "a"))
        assert gains_of_users(rows, **OPTIONS)["clearly_better"] == clear
