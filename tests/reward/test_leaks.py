"""What is scored teaches nothing: other items and answers in its rows change no fit."""

import json

import numpy as np
import pytest
import yaml

from paljax.config import load
from paljax.data import prepare as preparing
from paljax.data.dataset import assemble_votes
from paljax.data.prepare import prepare
from paljax.reward import run as run_module
from paljax.reward.baselines import MOST_ATTRIBUTES
from tests.reward.fitting import fitting_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

EVERYWHERE = {"bradley_terry", "constant", "item_majority"}
# By case: numbers of an item, and the baselines that such a run has beside those.
CASES = {
    "attributes": (3, {"pal_as_published", "per_user_logistic_regression", "mixed_logit"}),
    "embeddings": (MOST_ATTRIBUTES + 1, {"per_user_logistic_regression"}),
    "votes": (3, {"user_and_item_intercepts"}),
}
NUM_USERS, PER_USER, NUM_ITEMS = 24, 15, 30


def rows(width):
    """Users of two kinds; items come up again and again, so that all baselines know them."""
    generator = np.random.default_rng(5)
    items = generator.normal(size=(NUM_ITEMS, width)).round(3)
    made = []
    for user in np.repeat(np.arange(NUM_USERS), PER_USER):
        left, right = items[generator.choice(NUM_ITEMS, 2, replace=False)]
        first = 2 * (1 - 2 * (user % 2)) * (left[0] - right[0]) + left[1] - right[1] > 0
        chosen, rejected = (left, right) if first else (right, left)
        made.append(
            {"user_id": f"u{user}", "chosen": chosen.tolist(), "rejected": rejected.tolist()}
        )
    return made


def configured(folder, made, **changes):
    lines = "".join(json.dumps(row) + "\n" for row in made)
    (folder / "comparisons.jsonl").write_text(lines, encoding="utf-8")
    record = {
        "data": {"name": "file", "path": str(folder / "comparisons.jsonl")},
        "splits": {"name": "random", "support": 4},
        "training": {"epochs": 1, "batch_size": 64},
    } | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    return load(folder / "config.yaml")


@pytest.mark.parametrize("encoder", ["numbers", "item_id"])
def test_encoders_know_training_rows_alone(tmp_path, encoder):
    """Centre, scale and known items are those of the train part, whatever is in the others."""
    part_of = {"name": encoder} | ({"width": 2} if encoder == "item_id" else {})
    options = {"encoder": [part_of], "prompt_encoder": [part_of],
               "model": {"name": "pal_b", "latent_width": 2, "num_prototypes": 2}}  # fmt: skip
    numbers = iter(np.random.default_rng(2).normal(size=(360, 3, 2)).tolist())
    columns = ("chosen", "rejected", "prompt")
    made = [row | dict(zip(columns, next(numbers), strict=True)) for row in rows(2)]
    before = prepare(configured(tmp_path, made, **options), uses_prompts=True)
    others = before.split.part != "train"
    assert set(before.split.part[others]) == {"validation", "test", "support", "query"}
    for row in np.flatnonzero(others):
        for column in columns:
            made[row][column] = [7 * number + 100 for number in made[row][column]]
    after = prepare(configured(tmp_path, made, **options), uses_prompts=True)
    np.testing.assert_array_equal(after.split.part, before.split.part)
    assert after.item_encoder.to_json() == before.item_encoder.to_json()
    assert after.prompt_encoder.to_json() == before.prompt_encoder.to_json()


def ballots(config):
    generator = np.random.default_rng(3)
    user, item = np.argwhere(generator.random((20, 24)) < 0.8).T
    agrees = generator.random(len(user)) < np.where((item + user) % 2, 0.3, 0.8)
    return assemble_votes(
        [f"user {number}" for number in user],
        [f"statement {number}" for number in item],
        np.where(agrees, 1.0, -1.0),
    )


def fitting_for(folder, case, patch):
    config = {
        "model": {"name": "bradley_terry"},
        "evaluation": {"published_pal": case == "attributes"},
        "selection": {"prior_strength": [2.0], "refit": case != "attributes"},
    }
    if case == "votes":
        patch.setattr(preparing, "load_dataset", ballots)
        config["encoder"] = [{"name": "item_id", "width": 3}]
    loaded = configured(folder, rows(CASES[case][0]), **config)
    return fitting_of(loaded, folder / "run")


def answered_otherwise(prepared):
    """With other pairs and answers, and the opposite votes, in all that no fit may learn from."""
    dataset, split = prepared.dataset, prepared.split
    scored = split.rows("test", "query", "support")
    comparisons = dataset.comparisons
    chosen, rejected = comparisons.chosen.copy(), comparisons.rejected.copy()
    # A third of the pairs are turned; the others get the item that won before.
    chosen[scored] = comparisons.rejected[scored]
    rejected[scored] = np.where(
        np.arange(len(scored)) % 3, comparisons.chosen[scored[0]], comparisons.chosen[scored]
    )
    others = comparisons._replace(chosen=chosen, rejected=rejected)
    votes = dataset.votes
    if votes is not None:
        kept = np.zeros(len(votes.user), bool)
        kept[prepared.vote_split.learned(refit=True)] = True
        votes = votes._replace(value=np.where(kept, votes.value, -votes.value))
        assert 50 < (~kept).sum() < len(kept) / 2
    return prepared._replace(dataset=dataset._replace(comparisons=others, votes=votes))


@pytest.mark.parametrize("case", CASES)
def test_no_baseline_learns_from_what_is_scored(case, tmp_path, monkeypatch):
    one = fitting_for(tmp_path, case, monkeypatch)
    # With the learners of the first: two fits with one learner share programs.
    two = one._replace(prepared=answered_otherwise(one.prepared), run_dir=tmp_path / "other")
    comparisons, split = one.prepared.dataset.comparisons, one.prepared.split
    test, query, support = (
        comparisons.select(split.rows(part)) for part in ("test", "query", "support")
    )
    margins = []
    for fitting in (one, two):
        fits = run_module._fit(fitting)
        found = run_module._predictors(fitting.config, fitting.prepared, fits)
        margins.append(
            {name: (each.seen(test), each.joining(support, query)) for name, each in found.items()}
        )
    assert set(margins[0]) >= EVERYWHERE | CASES[case][1]
    for name, (seen, joining) in margins[0].items():
        np.testing.assert_array_equal(margins[1][name][0], seen, err_msg=name)
        np.testing.assert_array_equal(margins[1][name][1], joining, err_msg=name)
        assert name == "constant" or np.ptp(seen) > 1e-3, name
