"""Who is served how well: accuracy by group, the gap, and who gains from a reward of their own.

n held-out comparisons of U users in G groups. The shared reward is the one that everybody would
have to share; a gain is the model's accuracy minus that of the shared reward on the same
comparisons. Intervals are 95 %, by bootstrap over users.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray

from paljax.data.dataset import Dataset
from paljax.evaluation import correctness, mean_over_users, percentiles

# A user is clearly better or worse off where a two-sided sign test of their own comparisons says so
# at this level; where no user differs, half of it is found on each side at most.
SIGN_TEST_LEVEL = 0.05
# Gains lie in [-1, 1]: bins of a tenth, one of them around 0.
GAIN_EDGES = np.linspace(-1.05, 1.05, 22)
QUANTILES = (0.1, 0.5, 0.9)


class Judged(NamedTuple):
    """Margins of two models on the same comparisons."""

    margins: NDArray[Any]  # [n] of the model, in nats
    shared: NDArray[Any]  # [n] of the shared reward
    users: NDArray[Any]  # [n]
    groups: NDArray[Any]  # [n]


class GroupLabels(NamedTuple):
    """Whom the worst group is looked for among."""

    of_comparison: NDArray[np.object_]  # [n]
    source: str  # "group", the data's own labels, or "prototype", the user's strongest


def group_labels(dataset: Dataset, weights: NDArray[Any]) -> GroupLabels:
    """Groups of comparisons: the data's own, or those whose users share a strongest prototype.

    Args:
        dataset: The comparisons.
        weights: Weights of the data set's users, [U, K].

    Returns:
        The labels.
    """
    if dataset.group is not None:
        return GroupLabels(dataset.group, "group")
    strongest = np.argmax(weights, axis=1) + 1
    names = np.array([f"prototype {place}" for place in strongest], object)
    return GroupLabels(names[dataset.comparisons.user], "prototype")


def gains_by_group(judged: Judged, *, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """The gain of every group, paired within users.

    Args:
        judged: The comparisons.
        resamples: Of the group's users.
        seed: Of the resampling.

    Returns:
        By name of the group: accuracy, the gain, and its interval, None for a group of one user.
    """
    difference = _difference(judged)
    gains = {}
    for name in np.unique(judged.groups):
        mine = judged.groups == name
        gain, interval = mean_over_users(
            difference[mine], judged.users[mine], resamples=resamples, seed=seed
        )
        gains[str(name)] = {"accuracy": gain, "interval": interval}
    return gains


def accuracy_gap(
    margins: NDArray[Any],
    users: NDArray[Any],
    groups: NDArray[Any],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """How far the worst-served group is behind the best-served one.

    A difference of a maximum and a minimum grows in resamples, whose percentiles may miss it. So
    the interval is that of these two groups, taken as given.

    Args:
        margins: In nats, shape [n].
        users: Of every comparison, shape [n].
        groups: Of every comparison, shape [n]; two or more.
        resamples: Of the users; those that lack one of the two groups are left out.
        seed: Of the resampling.

    Returns:
        best and worst, the groups' names; gap, the difference of their accuracies; interval,
        None where one of the two has one user.
    """
    correct = correctness(margins)
    names = np.unique(groups)
    accuracy = [float(correct[groups == name].mean()) for name in names]
    best, worst = names[int(np.argmax(accuracy))], names[int(np.argmin(accuracy))]
    _, user = np.unique(users, return_inverse=True)
    num_users = int(user.max()) + 1
    copies = np.random.default_rng(seed).multinomial(
        num_users, np.full(num_users, 1 / num_users), size=resamples
    )
    ends, present, fewest = [], np.ones(resamples, bool), num_users
    for name in (best, worst):
        mine = groups == name
        sums = np.bincount(user[mine], correct[mine], num_users)
        counts = copies @ np.bincount(user[mine], minlength=num_users)
        ends.append(copies @ sums / np.maximum(counts, 1))
        present &= counts > 0
        fewest = min(fewest, len(np.unique(user[mine])))
    return {
        "best": str(best),
        "worst": str(worst),
        "gap": max(accuracy) - min(accuracy),
        "interval": percentiles((ends[0] - ends[1])[present], fewest),
    }


def gains_of_users(judged: Judged, *, resamples: int, seed: int) -> dict[str, Any]:
    """How many users gain and how many lose, and by how much.

    A user has few comparisons, so most of a gain of one user is chance: `clearly_better` and
    `clearly_worse` count the users whose own comparisons tell. The test takes these as independent;
    pairs that share a vote are not, so that of votes more users seem clear than are.

    Args:
        judged: The comparisons.
        resamples: Of the users.
        seed: Of the resampling.

    Returns:
        users; better, worse and same, each with the share of the users and its interval;
        clearly_better and clearly_worse, numbers of users; quantiles of the users' gains by level;
        histogram, with edges and users in each bin.

    Source:
        Sign test: Conover, Practical Nonparametric Statistics (1999), section 3.4.
    """
    difference = _difference(judged)
    _, user, counts = np.unique(judged.users, return_inverse=True, return_counts=True)
    gain = np.bincount(user, difference) / counts
    wins, losses = np.bincount(user, difference > 0), np.bincount(user, difference < 0)
    # P(as few as the fewer of both, or fewer) where either is as likely.
    tail = scipy.special.bdtr(np.minimum(wins, losses), (wins + losses).astype(int), 0.5)
    clear = tail <= SIGN_TEST_LEVEL / 2

    def share(those: NDArray[np.bool_]) -> dict[str, Any]:
        value, interval = mean_over_users(
            those, np.arange(len(those)), resamples=resamples, seed=seed
        )
        return {"share": value, "interval": interval}

    return {
        "users": len(gain),
        "better": share(gain > 0),
        "worse": share(gain < 0),
        "same": share(gain == 0),
        "clearly_better": int((clear & (wins > losses)).sum()),
        "clearly_worse": int((clear & (wins < losses)).sum()),
        "quantiles": {f"{level:g}": float(np.quantile(gain, level)) for level in QUANTILES},
        "histogram": {
            "edges": [round(float(edge), 2) for edge in GAIN_EDGES],
            "users": np.histogram(gain, GAIN_EDGES)[0].tolist(),
        },
    }


def by_group(
    scores: Mapping[str, Mapping[str, Any]], gains: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Accuracy of the models on every group, and the gain; none where there is one group.

    Args:
        scores: By model, the groups as `evaluation.score` gives them.
        gains: Of `gains_by_group`; empty where the model is the shared reward itself.
    """
    first = next(iter(scores.values()))
    if len(first) < 2:
        return []
    return [
        {
            "group": group,
            "n": found["n"],
            "n_users": found["n_users"],
            "accuracy": {model: groups[group]["accuracy"] for model, groups in scores.items()},
            "intervals": {model: groups[group]["interval"] for model, groups in scores.items()},
            "gain": gains.get(group),
        }
        for group, found in first.items()
    ]


def _difference(judged: Judged) -> NDArray[np.float64]:
    return np.asarray(correctness(judged.margins) - correctness(judged.shared))
