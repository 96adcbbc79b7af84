"""Scores against loops, and intervals that cover."""

import numpy as np
import pytest

from paljax.evaluation import (
    _quantile_interval,
    accuracy_by_user,
    accuracy_gain,
    calibration,
    score,
    summary,
)
from tests.kernels import twins

OPTIONS = {"resamples": 400, "seed": 0}


def data(seed=0, n=500, num_users=23):
    generator = np.random.default_rng(seed)
    users = generator.integers(0, num_users, n)
    margins = generator.normal(0.8, 1.5, n)
    margins[:7] = 0
    groups = np.array(["a", "b", "c"], object)[users % 3]
    return margins, users, groups


def test_scores_are_their_definitions():
    margins, users, groups = data()
    scores = score(margins, users, groups, **OPTIONS)
    hits = [1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margins]
    by_user = {u: [h for h, v in zip(hits, users, strict=True) if v == u] for u in set(users)}
    by_group = {g: [h for h, v in zip(hits, groups, strict=True) if v == g] for g in set(groups)}
    assert scores["accuracy"] == pytest.approx(np.mean(hits))
    user_accuracies = [np.mean(values) for values in by_user.values()]
    assert scores["accuracy_macro_user"] == pytest.approx(np.mean(user_accuracies))
    assert scores["accuracy_worst_group"] == pytest.approx(
        min(np.mean(values) for values in by_group.values())
    )
    tenth = np.quantile(user_accuracies, 0.1, method="inverted_cdf")
    assert scores["accuracy_p10_user"] == pytest.approx(tenth)
    nll = np.mean([twins.loss(float(m), kind="logistic") for m in margins])
    assert scores["nll"] == pytest.approx(nll)
    probabilities = np.array([twins.sigmoid(float(m)) for m in margins])
    assert scores["ece"] == pytest.approx(twins.expected_calibration_error(probabilities), abs=1e-9)
    assert (scores["n"], scores["n_users"]) == (500, len(by_user))


def test_intervals_resample_users_and_not_comparisons():
    """Users who are all right or all wrong: the interval must be as wide as users make it."""
    users = np.repeat(np.arange(20), 50)
    margins = np.where(users % 2 == 0, 1.0, -1.0)
    low, high = score(margins, users, np.full(1000, "all"), **OPTIONS)["intervals"]["accuracy"]
    binomial = 1.96 * np.sqrt(0.25 / 20)
    assert high - low == pytest.approx(2 * binomial, rel=0.25)


def test_gain_is_paired():
    margins, users, _ = data()
    better = np.where(np.arange(500) % 10 == 0, 2.0, margins)
    gain = accuracy_gain(better, margins, users, **OPTIONS)
    expected = np.mean(np.sign(better) - np.sign(margins)) / 2
    assert gain["accuracy"] == pytest.approx(expected)
    assert gain["interval"][0] < expected < gain["interval"][1]
    same = accuracy_gain(margins, margins, users, **OPTIONS)
    assert same == {"accuracy": 0.0, "interval": [0.0, 0.0]}


def test_swapping_every_comparison_mirrors_accuracy():
    margins, users, groups = data()
    forth = score(margins, users, groups, **OPTIONS)["accuracy"]
    back = score(-margins, users, groups, **OPTIONS)["accuracy"]
    assert forth + back == pytest.approx(1)


def test_calibration_bins_hold_every_comparison_once():
    margins, _, _ = data()
    bins = calibration(margins)
    assert sum(entry["n"] for entry in bins) == 500
    assert all(0.5 <= entry["confidence"] <= 1 for entry in bins)
    certain = calibration(np.array([1e4, -1e4]))
    assert certain == [{"confidence": 1.0, "accuracy": 0.5, "n": 2}]


def test_a_user_without_comparisons_has_no_accuracy():
    accuracy = accuracy_by_user(np.array([1.0, -1.0, 1.0]), np.array([0, 0, 2]), num_users=4)
    np.testing.assert_array_equal(accuracy, [0.5, np.nan, 1.0, np.nan])


@pytest.mark.parametrize("seed", range(5))
def test_every_interval_holds_its_score(seed):
    """Minima, quantiles and calibration errors are biased in resamples; their intervals are not."""
    generator = np.random.default_rng(seed)
    users = np.repeat(np.arange(60), 4)
    margins = generator.normal(0.3, 1.0, 240)
    scores = score(margins, users, users % 12, **OPTIONS)
    assert set(scores["intervals"]) == {*list(scores)[:6]}
    for name, (low, high) in scores["intervals"].items():
        assert low <= scores[name] <= high, name
    for name, group in scores["groups"].items():
        assert group["interval"][0] <= group["accuracy"] <= group["interval"][1], name


def test_one_user_has_scores_and_no_interval():
    """However many their comparisons: resamples of one person say nothing of others."""
    margins = np.array([1.0, 1, -1])
    one, two = np.zeros(3, int), np.array([0, 0, 1])
    scores = score(margins, one, np.full(3, "all"), **OPTIONS)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert (scores["n"], scores["n_users"]) == (3, 1)
    assert scores["intervals"] == dict.fromkeys(list(scores)[:6])
    assert scores["groups"]["all"]["interval"] is None
    assert accuracy_gain(margins, -margins, one, **OPTIONS)["interval"] is None
    of_two = score(margins, two, np.full(3, "all"), **OPTIONS)
    assert of_two["intervals"]["accuracy"] == [0, 1]
    assert accuracy_gain(margins, -margins, two, **OPTIONS)["interval"] == [-1, 1]
    # A group of one user beside others, and as the worst of them.
    groups = score(margins, two, np.array(["many", "many", "one"]), **OPTIONS)
    assert groups["accuracy_worst_group"] == 0
    assert groups["groups"]["one"]["interval"] is None
    assert groups["intervals"]["accuracy_worst_group"] is None
    assert groups["intervals"]["accuracy"] == [0, 1]


def test_the_summary_is_a_line_with_an_interval_where_there_is_one():
    margins, groups = np.array([1.0, 1, -1]), np.full(3, "all")
    line = summary("pal_a", score(margins, np.array([0, 0, 1]), groups, **OPTIONS))
    assert line.split("  nll")[0] == "  pal_a" + " " * 27 + "66.7 % [0.0, 100.0]"
    line = summary("pal_a", score(margins, np.zeros(3), groups, **OPTIONS))
    assert line == "  pal_a" + " " * 27 + "66.7 %  nll 0.647  n 3, 1 users"


def test_the_interval_of_the_first_decile_covers_it():
    """Users' accuracies are uniform, so the decile is 0.1: 95 % of intervals should hold it."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = _quantile_interval(np.sort(generator.uniform(size=150)))
        covered += low <= 0.1 <= high
    assert 0.94 <= covered / 400 <= 0.995
    assert _quantile_interval(np.linspace(0.2, 0.8, 5)) == [0.0, pytest.approx(0.5)]


def test_groups_are_scored_by_name():
    margins, users, groups = data()
    scores = score(margins, users, groups, **OPTIONS)
    assert list(scores["groups"]) == ["a", "b", "c"]
    for name, group in scores["groups"].items():
        here = groups == name
        hits = 0.5 * (1 + np.sign(margins[here]))
        assert group["accuracy"] == pytest.approx(hits.mean())
        assert (group["n"], group["n_users"]) == (here.sum(), len(set(users[here])))
    worst = min(scores["groups"].values(), key=lambda group: group["accuracy"])
    assert scores["accuracy_worst_group"] == worst["accuracy"]
    assert scores["intervals"]["accuracy_worst_group"] == worst["interval"]
