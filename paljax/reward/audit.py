"""Would the accuracy survive a sceptic? Checks that stand beside every accuracy of a run.

Each asks what a published number has hidden before: a side that is told by its position, a gain
that does not come from the person, a label that is told by the format of the text, an answer that
does not depend on what the person said, comparisons that were learned from and then scored.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Comparisons, Table
from paljax.data.encoders.format import format_features
from paljax.data.prepare import Prepared
from paljax.data.splits import OF_SEEN, VALIDATION_QUERY, VALIDATION_SUPPORT
from paljax.evaluation import accuracy_gain, correctness, mean_over_users
from paljax.reward import baselines
from paljax.reward.predictors import Predictor
from paljax.reward.results import Scored

# Parts that must not share a comparison: what is learned from, and what is scored.
APART = {
    "train_test": (OF_SEEN, ("test",)),
    "support_query": (("support",), ("query",)),
    "joining_chosen": ((VALIDATION_SUPPORT,), (VALIDATION_QUERY,)),  # by validation users
}
# What a shared comparison is said to be in: what is scored, and what is learned from.
_SHARED_BY = {
    "train_test": ("what is tested", "what is trained on"),
    "support_query": ("what new people are scored on", "what they join by"),
    "joining_chosen": ("what validation people are scored on", "what they join by"),
}


def audit(
    prepared: Prepared,
    scored: Scored,
    model: Predictor,
    shared: Predictor,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Check a model's accuracy on the comparisons that it is scored on.

    Args:
        prepared: The run's data.
        scored: What is scored.
        model: The run's model.
        shared: The shared reward that it is compared with.
        resamples: Of users, for intervals.
        seed: Of the shuffle and the resampling.

    Returns:
        label_swap: accuracy where every scored label is swapped, and what it must be, one minus
        the accuracy; shuffled_users: accuracy and gain over the shared reward where everybody is
        predicted as somebody else, so that a personal gain must vanish; format_probe: accuracy of
        a logistic regression that sees only the format of the two texts, None where items are no
        texts; flip_rate: share of new users' answers that turn when the labels of all that they
        gave are turned, None where nobody is new; overlap: choice tasks that stand in a part that
        is learned from and in one that is scored, which must be 0; overlap_counts: whether it is
        votes that are counted there, see `overlap`; repeated_pairs: how many scored comparisons the
        same person also made in training, as another task, and the accuracy on the others;
        repeated_pairs_of_new: the same of new users' scored comparisons and those that they joined
        by, None where nobody is new; ties, left out of the scores.
    """
    settings = {"resamples": resamples, "seed": seed}
    test = scored.test
    others = _others(test.user, len(prepared.dataset.users), seed)
    shuffled = model.seen(test._replace(user=others[test.user]))
    swapped = correctness(model.seen(_swapped(test)))
    return {
        "label_swap": {
            "accuracy": float(swapped.mean()),
            "expected": float(1 - correctness(model.seen(test)).mean()),
            "n": len(test.user),
        },
        "shuffled_users": {
            "accuracy": float(correctness(shuffled).mean()),
            "gain": accuracy_gain(shuffled, shared.seen(test), test.user, **settings),
            "n": len(test.user),
        },
        "format_probe": _format_probe(prepared, test, **settings),
        "overlap": overlap(prepared),
        "overlap_counts": "choice tasks" if prepared.dataset.votes is None else "votes",
        "repeated_pairs": _repeated_pairs(
            repeated(prepared, test, *OF_SEEN), correctness(model.seen(test))
        ),
        **_of_new(prepared, scored, model, **settings),
        "ties": {
            part: int(prepared.dataset.comparisons.tie[prepared.split.rows(part)].sum())
            for part in prepared.split.parts()
        },
    }


def overlap(prepared: Prepared) -> dict[str, int]:
    """Choice tasks that stand in a part that is learned from and in one that is scored.

    Where comparisons are made of votes, it is votes that are counted: pairs of different parts are
    different tasks whatever votes they share.
    """
    dataset = prepared.dataset

    def judged_in(parts: tuple[str, ...]) -> NDArray[np.int64]:
        rows = dataset.comparisons.select(prepared.split.rows(*parts))
        if dataset.votes is None:
            return rows.task.astype(np.int64)
        item = np.concatenate([rows.chosen, rows.rejected])
        vote = np.tile(rows.user, 2).astype(np.int64) * len(dataset.items) + item
        return np.asarray(vote[~dataset.is_level(item)])

    return {
        name: len(np.intersect1d(judged_in(learned), judged_in(judged)))
        for name, (learned, judged) in APART.items()
    }


def repeated(prepared: Prepared, scored: Comparisons, *learned: str) -> NDArray[np.bool_]:
    """Which scored comparisons the same person also made in a part that is learned from, [n].

    Another judgment of the same two items is no leak, but it is easier than one of new items.
    """
    known = prepared.dataset.comparisons.select(prepared.split.rows(*learned))
    return np.isin(comparison_keys(scored), comparison_keys(known))


def comparison_keys(rows: Comparisons) -> NDArray[np.str_]:
    """Who compared what, whichever side was chosen, as text, shape [n]."""
    low, high = np.minimum(rows.chosen, rows.rejected), np.maximum(rows.chosen, rows.rejected)
    columns = (rows.user, rows.prompt, low, high)
    return np.array([",".join(map(str, key)) for key in zip(*columns, strict=True)], np.str_)


def _format_probe(
    prepared: Prepared, test: Comparisons, *, resamples: int, seed: int
) -> dict[str, Any] | None:
    items: Table = prepared.dataset.items
    if not isinstance(items, tuple):
        return None
    features = format_features(items)
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    features = baselines.with_levels(features, prepared.dataset.num_levels)

    def pooled(places: NDArray[np.int64]) -> Comparisons:
        rows = prepared.dataset.comparisons.select(places)
        return rows._replace(user=np.zeros_like(rows.user))

    split = prepared.split
    validation = pooled(split.rows("validation"))
    validation = validation.select(~validation.tie)
    everybody = baselines.Users(1, room=0)
    train = pooled(split.learned(refit=False))
    spread = baselines.best_spread(features, train, validation, everybody)
    rows = pooled(split.learned(refit=True))
    probe = baselines.per_user_logistic_regression(features, rows, everybody, spread=spread)
    correct = correctness(probe.seen(test._replace(user=np.zeros_like(test.user))))
    mean, interval = mean_over_users(correct, test.user, resamples=resamples, seed=seed)
    return {"accuracy": mean, "interval": interval, "n": len(correct)}


def _of_new(
    prepared: Prepared, scored: Scored, model: Predictor, *, resamples: int, seed: int
) -> dict[str, Any]:
    """What is asked of people who join: `flip_rate` and `repeated_pairs_of_new`."""
    query = scored.query
    if not len(query.user):
        return {"flip_rate": None, "repeated_pairs_of_new": None}
    support = prepared.dataset.comparisons.select(prepared.split.rows("support"))
    as_told = correctness(model.joining(support, query))
    as_turned = correctness(model.joining(_swapped(support), query))
    turned = (as_told != as_turned).astype(np.float64)
    rate, interval = mean_over_users(turned, query.user, resamples=resamples, seed=seed)
    return {
        "flip_rate": {"rate": rate, "interval": interval, "n": len(turned)},
        "repeated_pairs_of_new": _repeated_pairs(repeated(prepared, query, "support"), as_told),
    }


def _repeated_pairs(again: NDArray[np.bool_], correct: NDArray[Any]) -> dict[str, Any]:
    """How many scored comparisons are there again, and the accuracy on the others."""
    others = correct[~again]
    accuracy = float(others.mean()) if len(others) else None
    return {"n": int(again.sum()), "accuracy_on_others": accuracy}


def _swapped(comparisons: Comparisons) -> Comparisons:
    return comparisons._replace(chosen=comparisons.rejected, rejected=comparisons.chosen)


def _others(users: NDArray[np.int32], num_users: int, seed: int) -> NDArray[np.int32]:
    """For every user another one: nobody stays who they are, where there is anybody else.

    Of those who are scored, who can be known as well as they are; where one alone is, of all.
    """
    present = np.unique(users)
    if len(present) == 1:
        present = np.arange(num_users, dtype=users.dtype)
    order = np.random.default_rng((seed, 1)).permutation(present)
    others = np.zeros(num_users, users.dtype)
    others[order] = np.roll(order, 1)
    return others


def failures(found: Mapping[str, Any]) -> list[str]:
    """What an audit must not find, a line each; empty where all is well."""
    lines = []
    for name, count in found["overlap"].items():
        if count:
            judged, learned = _SHARED_BY[name]
            counted = found["overlap_counts"].removesuffix("s" if count == 1 else "")
            lines.append(f"{judged} shares {count} {counted} with {learned}")
    swap = found["label_swap"]
    if abs(swap["accuracy"] - swap["expected"]) > 1e-9:
        lines.append("swapping both sides does not turn the answers: a side has an advantage")
    interval = found["shuffled_users"]["gain"]["interval"]
    if interval is not None and interval[0] > 0:
        lines.append("the gain stays when users are shuffled: it is not personal")
    return lines
