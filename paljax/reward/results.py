"""Results of a reward run: scores, users' weights, what prototypes want."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from paljax.config import Config
from paljax.data.dataset import Comparisons
from paljax.data.identities import comparison_ids, task_ids, vote_ids
from paljax.data.prepare import Prepared
from paljax.evaluation import Scores, accuracy_by_user, accuracy_gain, calibration, score
from paljax.matching import label_of_user, match_groups
from paljax.reward.fits import Candidate
from paljax.reward.groups import (
    Judged,
    accuracy_gap,
    by_group,
    gains_by_group,
    gains_of_users,
    group_labels,
)
from paljax.reward.predictors import Predictor, Trained, join
from paljax.reward.prototypes import EFFECT_UNIT, attribute_names, common_ground, describe
from paljax.storage import Table


class Scored(NamedTuple):
    """The comparisons that are scored. Ties have no preferred side and are left out."""

    test: Comparisons  # of seen users
    query: Comparisons  # of unseen users
    test_groups: NDArray[np.object_]  # group of every test comparison
    query_groups: NDArray[np.object_]  # group of every query comparison
    grouped_by: str  # source of the group labels


class Weights(NamedTuple):
    """Weights of all users of the data set; unseen users' from all of their support."""

    weights: NDArray[np.float32]  # [U, K]
    gap: NDArray[np.float32]  # [U] Frank-Wolfe gap, in nats
    unseen: NDArray[np.bool_]  # [U]


def all_weights(prepared: Prepared, fitted: Candidate) -> Weights:
    """Put seen users' fitted weights and unseen users' weights from their support side by side."""
    comparisons, split = prepared.dataset.comparisons, prepared.split
    unseen = np.zeros(len(prepared.dataset.users), bool)
    unseen[comparisons.user[split.rows("support", "query")]] = True
    support = comparisons.select(split.rows("support"))
    joined = join(fitted.trained, prepared.tables, support, len(unseen), room=prepared.room)
    return Weights(
        np.where(unseen[:, None], np.asarray(joined.weights), fitted.weights),
        np.where(unseen, np.asarray(joined.gap), fitted.gap),
        unseen,
    )


def scored_parts(prepared: Prepared, users: Weights) -> Scored:
    """Choose the comparisons to score and name the group of each."""
    comparisons, split = prepared.dataset.comparisons, prepared.split
    labels = group_labels(prepared.dataset, users.weights)
    test = split.rows("test")[~comparisons.tie[split.rows("test")]]
    query = split.rows("query")[~comparisons.tie[split.rows("query")]]
    return Scored(
        comparisons.select(test),
        comparisons.select(query),
        labels.of_comparison[test],
        labels.of_comparison[query],
        labels.source,
    )


def score_predictors(
    config: Config, prepared: Prepared, scored: Scored, predictors: Mapping[str, Predictor]
) -> dict[str, dict[str, Any]]:
    """Score every predictor on the same comparisons.

    Args:
        config: The run's configuration.
        prepared: The run's data.
        scored: What is scored.
        predictors: By name; gains are over `bradley_terry`.

    Returns:
        By name: test and unseen (by number of support comparisons) as `evaluation.score` gives
        them; calibration on test; gap between the groups where there are two or more; gain, where
        another model is the baseline, paired within users, with that of groups and of users.
    """
    settings = {"resamples": config.evaluation.resamples, "seed": config.seed}
    shots = config.evaluation.shots if len(scored.query.user) else []
    support = {
        count: prepared.split.support(prepared.dataset.comparisons, count) for count in shots
    }
    test_margins = {name: model.seen(scored.test) for name, model in predictors.items()}
    query_margins = {
        name: {count: model.joining(support[count], scored.query) for count in shots}
        for name, model in predictors.items()
    }
    results: dict[str, dict[str, Any]] = {}
    for name in predictors:
        results[name] = {
            "test": score(test_margins[name], scored.test.user, scored.test_groups, **settings),
            "unseen": {
                str(count): _score_joined(
                    margins, scored, support[count], config.evaluation.resamples, config.seed
                )
                for count, margins in query_margins[name].items()
            },
            "calibration": calibration(test_margins[name]),
            "user_accuracy": accuracy_by_user(
                test_margins[name], scored.test.user, num_users=len(prepared.dataset.users)
            ),
        }
        if len(results[name]["test"]["groups"]) > 1:
            results[name]["gap"] = accuracy_gap(
                test_margins[name], scored.test.user, scored.test_groups, **settings
            )
        if name != "bradley_terry" and "bradley_terry" in predictors:
            shared = query_margins["bradley_terry"]
            judged = Judged(
                test_margins[name],
                test_margins["bradley_terry"],
                scored.test.user,
                scored.test_groups,
            )
            results[name]["gains"] = {
                "groups": gains_by_group(judged, **settings),
                "users": gains_of_users(judged, **settings),
            }
            results[name]["gain"] = {
                "test": accuracy_gain(
                    test_margins[name], test_margins["bradley_terry"], scored.test.user, **settings
                ),
                "unseen": {
                    str(count): accuracy_gain(margins, shared[count], scored.query.user, **settings)
                    for count, margins in query_margins[name].items()
                },
            }
    return results


def _score_joined(
    margins: NDArray[Any], scored: Scored, support: Comparisons, resamples: int, seed: int
) -> Scores:
    """Scores on the query part, with how much support a user had on average, by weight."""
    users = np.unique(scored.query.user)
    given = support.weight[np.isin(support.user, users)].sum() / len(users)
    scores = score(margins, scored.query.user, scored.query_groups, resamples=resamples, seed=seed)
    return scores | {"support_per_user": float(given)}


def count_parameters(trained: Trained) -> dict[str, int]:
    """Numbers that all users share, and numbers a user has of their own."""
    num_prototypes = trained.model.num_prototypes
    shared = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    personal = num_prototypes if num_prototypes > 1 else 0
    return {"shared": shared + personal, "per_user": personal}


def data_counts(prepared: Prepared) -> dict[str, Any]:
    """How many comparisons, users and items there are, and how they were split."""
    dataset, split = prepared.dataset, prepared.split
    votes = {} if dataset.votes is None else {"votes": len(dataset.votes.user)}
    return votes | {
        "comparisons": len(dataset.comparisons.user),
        "users": len(dataset.users),
        "items": len(dataset.items) - dataset.num_levels,
        "tasks": len(np.unique(dataset.comparisons.task)),
        "ties": int(dataset.comparisons.tie.sum()),
        "dropped": dataset.dropped,
        "encoding": prepared.remarks,
        "split": {part: len(split.rows(part)) for part in split.parts()},
        "facts": dataset.facts,
    }


def users_table(prepared: Prepared, users: Weights, accuracy: NDArray[np.float64]) -> Table:
    """users.parquet: a row a user.

    `n_comparisons` is how often a user has answered, in all parts together: comparisons, or votes
    where the data are votes, of which any number of comparisons is made. Passes count where the
    configuration takes them for votes.
    """
    dataset = prepared.dataset
    answers = dataset.comparisons.user if dataset.votes is None else dataset.votes.user
    counts = np.bincount(answers, minlength=len(dataset.users))
    return Table(
        columns={
            "user_id": dataset.users,
            "role": np.where(users.unseen, "unseen", "seen"),
            "n_comparisons": counts,
            "group": user_labels(prepared),
            "weights": users.weights.tolist(),
            "accuracy": [None if np.isnan(value) else value for value in accuracy],
            "gap": users.gap,
        },
        types={
            "user_id": pa.string(),
            "role": pa.string(),
            "n_comparisons": pa.int32(),
            "group": pa.string(),
            "weights": pa.list_(pa.float32()),
            "accuracy": pa.float32(),
            "gap": pa.float32(),
        },
    )


def splits_table(prepared: Prepared) -> Table:
    """splits.parquet: where every comparison went."""
    dataset, split = prepared.dataset, prepared.split
    rows = dataset.comparisons
    columns: dict[str, Any] = {
        "row": np.arange(len(split.part)),
        "user_id": np.array(dataset.users, object)[rows.user],
        "task": rows.task,
        "split": split.part,
        "arrival": split.arrival,
        "chosen": rows.chosen,
        "rejected": rows.rejected,
        "comparison": comparison_ids(dataset, with_prompts=True),
        "comparison_without_prompt": comparison_ids(dataset, with_prompts=False),
        "named_task": task_ids(dataset),
    }
    types = {
        "row": pa.int64(),
        "user_id": pa.string(),
        "task": pa.int32(),
        "split": pa.string(),
        "arrival": pa.int32(),
        "chosen": pa.int32(),
        "rejected": pa.int32(),
        "comparison": pa.string(),
        "comparison_without_prompt": pa.string(),
        "named_task": pa.string(),
    }
    if dataset.votes is not None:
        for name, item in (("chosen_vote", rows.chosen), ("rejected_vote", rows.rejected)):
            columns[name] = vote_ids(dataset, item)
            types[name] = pa.string()
    return Table(columns, types)


def analysis(
    name: str,
    trained: Trained,
    baseline: Trained,
    prepared: Prepared,
    users: Weights,
    results: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """analysis.json: what the figures show beyond metrics.json."""
    looked_at = prepared.dataset.comparisons.select(prepared.split.learned(refit=True))
    prototypes = describe(trained, prepared, looked_at)
    (shared,) = describe(baseline, prepared, looked_at)
    share = users.weights[~users.unseen].mean(axis=0)
    shown = tuple(dict.fromkeys((name, "bradley_terry")))
    gains = results[name].get("gains", {"groups": {}, "users": None})
    return {
        "model": name,
        "baseline": "bradley_terry",
        "calibration": {model: results[model]["calibration"] for model in shown},
        "population": np.asarray(trained.population).tolist(),
        "attributes": list(attribute_names(prepared)),
        "effect_unit": EFFECT_UNIT,
        "shared_effects": shared["effects"],
        "prototypes": [
            {"share": float(part)} | prototype
            for part, prototype in zip(share, prototypes, strict=True)
        ],
        "membership": _membership(trained, prepared, users),
        "common_ground": common_ground(trained, prepared, looked_at, share),
        "groups": by_group({model: results[model]["test"]["groups"] for model in shown},
                           gains["groups"]),
        "gaps": {model: results[model]["gap"] for model in shown if "gap" in results[model]},
        "user_gains": gains["users"],
    }  # fmt: skip


def user_labels(prepared: Prepared) -> list[str | None]:
    """The data's own group label of every user; None where there is none, or several."""
    dataset = prepared.dataset
    return label_of_user(dataset.comparisons.user, dataset.group, len(dataset.users))


def _membership(trained: Trained, prepared: Prepared, users: Weights) -> dict[str, Any]:
    """How many seen users each prototype is the strongest of, and which label it stands for."""
    num_prototypes = trained.model.num_prototypes
    strongest = np.argmax(users.weights, axis=1)
    counts = np.bincount(strongest[~users.unseen], minlength=num_prototypes)
    record: dict[str, Any] = {"exclusive": trained.exclusive, "users": counts.tolist()}
    labels = user_labels(prepared)
    if any(label is not None for label in labels):
        matching = match_groups(strongest, labels, num_groups=num_prototypes)
        record["matching"] = matching._asdict() | {"counts": matching.counts.tolist()}
    return record


def selection(
    candidates: Sequence[Candidate], shared: Sequence[Candidate], chosen: Candidate
) -> dict[str, Any]:
    """What was chosen on validation data, among what; `shared` are the shared rewards."""

    def is_personal(candidate: Candidate) -> bool:
        return not any(candidate is one for one in shared)

    def told(candidate: Candidate) -> dict[str, Any]:
        return {
            "personal": is_personal(candidate),
            "num_prototypes": candidate.trained.model.num_prototypes,
            "prior_strength": candidate.trained.prior_strength,
            "weight_decay": candidate.weight_decay,
            "epochs": candidate.epochs,
            "validation_nll": candidate.validation_nll,
            "validation_accuracy": candidate.validation_accuracy,
        }

    tried = [*filter(is_personal, candidates), *shared]
    return {
        "personal": is_personal(chosen),
        "num_prototypes": chosen.trained.model.num_prototypes,
        "prior_strength": chosen.trained.prior_strength,
        "weight_decay": chosen.weight_decay,
        "epochs": chosen.epochs,
        "candidates": list(map(told, tried)),
    }
