"""Scores of predicted margins, with intervals by bootstrap over users.

n comparisons of U users in G groups; R resamples of the users. A margin of zero counts half. One
user says nothing of other people: what fewer than two users are scored on has no interval, None.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 10  # equal-width bins of confidence max(p, 1 - p), which lies in [1/2, 1]
LOW_QUANTILE = 0.1  # accuracy_p10_user: a tenth of the users are served no better than this
INTERVAL = (2.5, 97.5)
FEWEST_USERS = 2  # that differ from one another; resamples of a single one would all be equal

Scores = dict[str, Any]
Interval = list[float] | None
Floats = NDArray[np.float64]


class _UserSums(NamedTuple):
    """Sums over each user's comparisons: all that a resample of users needs."""

    comparisons: Floats  # [U]
    correct: Floats  # [U]
    nll: Floats  # [U]
    group_count: Floats  # [U, G]
    group_correct: Floats  # [U, G]
    bin_count: Floats  # [U, bins]
    bin_correct: Floats  # [U, bins]
    bin_confidence: Floats  # [U, bins]


def correctness(margins: NDArray[Any]) -> Floats:
    """1 where the chosen item has the higher reward, 1/2 where the rewards are equal."""
    return 0.5 * (1 + np.sign(margins.astype(np.float64)))


def confidence(margins: NDArray[Any]) -> Floats:
    """Probability σ(|m|) that the model gives to the side it prefers, in [1/2, 1]."""
    probability: Floats = 1 / (1 + np.exp(-np.abs(margins.astype(np.float64))))
    return probability


def score(
    margins: NDArray[Any],
    users: NDArray[Any],
    groups: NDArray[Any],
    *,
    resamples: int,
    seed: int,
) -> Scores:
    """Score margins of comparisons whose chosen item is known.

    Args:
        margins: Predicted margins in nats, shape [n].
        users: User of every comparison, shape [n]; intervals resample these.
        groups: Group label of every comparison, shape [n].
        resamples: R; more give steadier intervals.
        seed: Of the resampling.

    Returns:
        accuracy; accuracy_macro_user, the mean over users; accuracy_worst_group; accuracy_p10_user,
        the first decile of users' accuracies; nll in nats a comparison; ece, the expected
        calibration error; n; n_users; intervals, 95 %, of each score; and groups, by name the
        accuracy, its interval, n and n_users.

        Intervals of means are bootstrap percentiles. A minimum, a low quantile and a sum of
        absolute values are biased in resamples, whose percentiles may miss the score itself. So
        the worst group has the interval of that group, taken as given; the first decile that of
        its order statistics, which assumes no distribution (0 where there are too few users to
        bound it); and ece the spread of the resamples around their median, centred on the score.
        All are None where there is one user, and that of a group where it has one.

    Source:
        Expected calibration error: Guo et al., arXiv 1706.04599, equation 3. Bootstrap over users:
        Efron and Tibshirani (1993), section 13.3. Interval of a quantile: Conover, Practical
        Nonparametric Statistics (1999), section 3.2.
    """
    sums = _sum_by_user(margins, users, groups)
    num_users = len(sums.comparisons)
    copies = np.random.default_rng(seed).multinomial(
        num_users, np.full(num_users, 1 / num_users), size=resamples
    )
    everybody = np.ones((1, num_users))
    point = {name: float(value[0]) for name, value in _means(sums, everybody).items()}
    spread = _means(sums, copies.astype(np.float64))
    intervals = {name: percentiles(values, num_users) for name, values in spread.items()}
    shifted = spread["ece"] - np.median(spread["ece"]) + point["ece"]
    intervals["ece"] = percentiles(np.clip(shifted, 0, 1), num_users)
    by_group = _score_groups(sums, groups, copies.astype(np.float64))
    worst = min(by_group.values(), key=lambda group: float(group["accuracy"]))
    user_accuracy = np.sort(sums.correct / sums.comparisons)
    point["accuracy_worst_group"] = worst["accuracy"]
    intervals["accuracy_worst_group"] = worst["interval"]
    point["accuracy_p10_user"] = float(user_accuracy[_quantile_place(num_users)])
    intervals["accuracy_p10_user"] = _quantile_interval(user_accuracy)
    return point | {
        "n": len(margins),
        "n_users": num_users,
        "intervals": intervals,
        "groups": by_group,
    }


def accuracy_gain(
    margins: NDArray[Any],
    baseline_margins: NDArray[Any],
    users: NDArray[Any],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Difference of two models' accuracies on the same comparisons, paired within users.

    Args:
        margins: Margins of the model, shape [n].
        baseline_margins: Margins of the baseline on the same comparisons, shape [n].
        users: User of every comparison, shape [n].
        resamples: R.
        seed: Of the resampling.

    Returns:
        accuracy, the gain, and its 95 % interval, None for fewer than two users.
    """
    difference = correctness(margins) - correctness(baseline_margins)
    gain, interval = mean_over_users(difference, users, resamples=resamples, seed=seed)
    return {"accuracy": gain, "interval": interval}


def mean_over_users(
    values: NDArray[Any], users: NDArray[Any], *, resamples: int, seed: int
) -> tuple[float, Interval]:
    """Mean of values of comparisons, with its 95 % interval by bootstrap over users.

    Args:
        values: One value a comparison, shape [n].
        users: User of every comparison, shape [n].
        resamples: R.
        seed: Of the resampling.

    Returns:
        The mean over comparisons, and the ends of the interval, None for fewer than two users.
    """
    _, user = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(user, weights=values), np.bincount(user).astype(np.float64)
    copies = np.random.default_rng(seed).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), size=resamples
    )
    return float(np.mean(values)), percentiles((copies @ sums) / (copies @ counts), len(counts))


def percentiles(values: Floats, num_users: int) -> Interval:
    """Ends of the 95 % interval of a score's values in resamples of so many users."""
    if num_users < FEWEST_USERS:
        return None
    return [float(end) for end in np.percentile(values, INTERVAL)]


def summary(name: str, scores: Scores) -> str:
    """The main scores on a line, under the name of what is scored."""
    interval = scores["intervals"]["accuracy"]
    ends = "" if interval is None else " [{:.1f}, {:.1f}]".format(*(100 * end for end in interval))
    return (
        f"  {name:<30} {100 * scores['accuracy']:5.1f} %{ends}"
        f"  nll {scores['nll']:.3f}  n {scores['n']}, {scores['n_users']} users"
    )


def calibration(margins: NDArray[Any]) -> list[dict[str, float]]:
    """Mean confidence and accuracy in each bin of confidence that is not empty."""
    which = _bin_of(margins)
    certain, correct = confidence(margins), correctness(margins)
    return [
        {
            "confidence": float(certain[which == place].mean()),
            "accuracy": float(correct[which == place].mean()),
            "n": int((which == place).sum()),
        }
        for place in range(NUM_BINS)
        if (which == place).any()
    ]


def accuracy_by_user(
    margins: NDArray[Any], users: NDArray[Any], *, num_users: int
) -> NDArray[np.float64]:
    """Accuracy on each user's comparisons, shape [U]; NaN for a user without any."""
    counts = np.bincount(users, minlength=num_users)
    correct = np.bincount(users, weights=correctness(margins), minlength=num_users)
    return np.where(counts > 0, correct / np.maximum(counts, 1), np.nan)


def _bin_of(margins: NDArray[Any]) -> NDArray[np.int64]:
    return np.minimum(((confidence(margins) - 0.5) * 2 * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def _sum_by_user(margins: NDArray[Any], users: NDArray[Any], groups: NDArray[Any]) -> _UserSums:
    _, user = np.unique(users, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    num_users, num_groups = user.max() + 1, group.max() + 1
    ones, correct = np.ones(len(user)), correctness(margins)
    nll = np.logaddexp(0, -margins.astype(np.float64))

    def total(values: Floats) -> Floats:
        sums: Floats = np.bincount(user, weights=values, minlength=num_users).astype(np.float64)
        return sums

    def total_by(column: NDArray[np.int64], size: int, values: Floats) -> Floats:
        flat = np.bincount(user * size + column, weights=values, minlength=num_users * size)
        return flat.reshape(num_users, size).astype(np.float64)

    bins = _bin_of(margins)
    return _UserSums(
        comparisons=total(ones),
        correct=total(correct),
        nll=total(nll),
        group_count=total_by(group, num_groups, ones),
        group_correct=total_by(group, num_groups, correct),
        bin_count=total_by(bins, NUM_BINS, ones),
        bin_correct=total_by(bins, NUM_BINS, correct),
        bin_confidence=total_by(bins, NUM_BINS, confidence(margins)),
    )


def _means(sums: _UserSums, copies: Floats) -> dict[str, Floats]:
    """Scores that are means over comparisons or users; `copies` [R, U]: how often one is drawn."""
    count = copies @ sums.comparisons
    gaps = np.abs(copies @ sums.bin_correct - copies @ sums.bin_confidence)
    return {
        "accuracy": copies @ sums.correct / count,
        "accuracy_macro_user": copies @ (sums.correct / sums.comparisons) / copies.sum(axis=1),
        "nll": copies @ sums.nll / count,
        "ece": gaps.sum(axis=1) / count,
    }


def _score_groups(
    sums: _UserSums, groups: NDArray[Any], copies: Floats
) -> dict[str, dict[str, Any]]:
    """Accuracy of every group; its interval is over the resamples that have the group."""
    count, correct = copies @ sums.group_count, copies @ sums.group_correct
    scores = {}
    for place, name in enumerate(np.unique(groups)):
        has, n = count[:, place] > 0, sums.group_count[:, place].sum()
        num_users = int((sums.group_count[:, place] > 0).sum())
        scores[str(name)] = {
            "accuracy": float(sums.group_correct[:, place].sum() / n),
            "interval": percentiles(correct[has, place] / count[has, place], num_users),
            "n": int(n),
            "n_users": num_users,
        }
    return scores


def _quantile_place(count: int) -> int:
    """Place, in sorted values, of the smallest that at least a tenth do not exceed."""
    # A hair below the share: a tenth of ten users is one user, whatever the rounding.
    return math.ceil(LOW_QUANTILE * count - 1e-9) - 1


def _quantile_interval(values: Floats) -> Interval:
    """Order statistics that hold the population's first decile between them.

    The number of values below it is binomial; a side that no value bounds ends at 0 or 1.
    """
    count = len(values)
    if count < FEWEST_USERS:
        return None
    at_most = np.cumsum([_binomial(count, successes) for successes in range(count + 1)])
    tail = INTERVAL[0] / 100
    below = int(np.searchsorted(at_most, tail, side="right"))  # so many values are below it
    above = int(np.searchsorted(at_most, 1 - tail)) + 1
    low = float(values[below - 1]) if below else 0.0
    high = float(values[above - 1]) if above <= count else 1.0
    return [low, high]


def _binomial(count: int, successes: int) -> float:
    """Probability of so many values below the first decile."""
    log_ways = (
        math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    )
    log_below, log_above = math.log(LOW_QUANTILE), math.log1p(-LOW_QUANTILE)
    return math.exp(log_ways + successes * log_below + (count - successes) * log_above)
