"""λ of people who join is chosen by validation users, from whom networks have learned nothing."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from paljax import runs, train
from paljax.config import load
from paljax.data.splits import VALIDATION_QUERY, VALIDATION_SUPPORT
from paljax.predictions import encode
from paljax.reward import run as run_module
from paljax.reward.fits import best_of, build_model, fit_candidates
from paljax.reward.joining import choose_joining
from paljax.reward.predictors import join
from tests.reward.fitting import fitting_of
from tests.reward.test_never_worse import choices

pytestmark = pytest.mark.usefixtures("quick_compilation")

STRENGTHS = [0.5, 4.0, 64.0]
SHOTS = [0, 1, 3]


def record(path: Path, **changes) -> dict:
    path.write_text(choices("different"), encoding="utf-8")
    return {
        "data": {"name": "file", "path": str(path)},
        "splits": {"name": "random", "support": 4, "validation_users": 0.25},
        "model": {
            "name": "pal_a",
            "user_point": "latent",
            "latent_width": 3,
            "num_prototypes": 2,
            "shared": {"hidden_layers": 0},
        },
        "optimizer": {"learning_rate": dict.fromkeys(["networks", "prototypes"], 0.05)},
        "training": {"epochs": 20, "batch_size": 64},
        "selection": {"prior_strength": STRENGTHS, "personalize": "always"},
        "evaluation": {"shots": SHOTS, "resamples": 100},
    } | changes


def written(folder: Path, **changes) -> Path:
    config = record(folder / "comparisons.jsonl", **changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "config.yaml"


@pytest.fixture
def fitting(tmp_path):
    return fitting_of(load(written(tmp_path)), tmp_path / "run")


def test_the_strength_is_that_of_the_least_loss_user_by_user(fitting):
    prepared = fitting.prepared
    model = build_model(fitting.config, 2, prepared.item_encoder, None)
    chosen = best_of(fit_candidates(fitting, "pal", model))
    joining = choose_joining(fitting, chosen)

    rows, split, num_users = prepared.dataset.comparisons, prepared.split, 40
    encoded = encode(model, chosen.trained.params, prepared.tables)
    losses = {strength: [] for strength in STRENGTHS}
    for strength in STRENGTHS:
        trained = chosen.trained._replace(prior_strength=strength)
        for user in np.unique(rows.user[split.rows(VALIDATION_QUERY)]):
            mine = rows.user == user
            scored = rows.select(np.flatnonzero(mine & (split.part == VALIDATION_QUERY)))
            for shots in SHOTS[1:]:
                given = mine & (split.part == VALIDATION_SUPPORT) & (split.arrival < shots)
                assert given.sum() == shots
                weights = join(trained, prepared.tables, rows.select(given), num_users).weights
                margins = trained.margins(encoded, scored, weights)
                losses[strength] += np.logaddexp(0, -np.asarray(margins, float)).tolist()
    expected = {strength: np.mean(loss) for strength, loss in losses.items()}
    found = {tried.prior_strength: tried.validation_nll for tried in joining.candidates}
    assert found == pytest.approx(expected, rel=1e-4)
    assert joining.prior_strength == min(expected, key=expected.get)
    assert joining.num_users == 8
    assert joining.num_comparisons == len(split.rows(VALIDATION_QUERY))


def test_candidates_learn_nothing_from_validation_users(fitting):
    """Their answers turned around change no candidate, and the refit."""
    prepared = fitting.prepared
    model = build_model(fitting.config, 2, prepared.item_encoder, None)
    rows, split = prepared.dataset.comparisons, prepared.split
    standing_in = np.isin(split.part, (VALIDATION_SUPPORT, VALIDATION_QUERY))
    turned = rows._replace(
        chosen=np.where(standing_in, rows.rejected, rows.chosen),
        rejected=np.where(standing_in, rows.chosen, rows.rejected),
    )
    other = fitting._replace(
        prepared=prepared._replace(dataset=prepared.dataset._replace(comparisons=turned)),
        run_dir=fitting.run_dir / "turned",
    )
    one, two = (best_of(fit_candidates(each, "pal", model)) for each in (fitting, other))
    assert one.validation_nll == two.validation_nll
    users = np.unique(rows.user[split.rows("train")])
    np.testing.assert_array_equal(one.weights[users], two.weights[users])
    given = [each.prepared.dataset.comparisons.select(split.learned(refit=True)).chosen
             for each in (fitting, other)]  # fmt: skip
    assert (given[0] != given[1]).any()


def test_a_run_serves_who_joins_by_it(tmp_path):
    config, run = written(tmp_path), tmp_path / "run"
    assert train.main(["--config", str(config), "--run-dir", str(run)]) == 0
    metrics = json.loads((run / runs.METRICS).read_text())
    joining = metrics["selection"]["joining"]
    assert [tried["prior_strength"] for tried in joining["candidates"]] == STRENGTHS
    best = min(joining["candidates"], key=lambda tried: tried["validation_nll"])
    assert joining["prior_strength"] == best["prior_strength"]
    # Validation users are seen users in the end: the refit learns from all that was not for test.
    users = pq.read_table(run / runs.USERS).to_pydict()
    assert users["role"].count("unseen") == 8
    assert metrics["data"]["split"][VALIDATION_SUPPORT] == 8 * 4
    assert metrics["audit"]["overlap"] == {"train_test": 0, "support_query": 0, "joining_chosen": 0}
    assert "λ of people who join" in (run / runs.REPORT).read_text()


def test_a_model_adapts_by_the_strength_that_was_chosen(tmp_path, monkeypatch):
    """Whatever λ the fit has, which those it has seen are solved with."""
    choose = run_module.choose_joining

    def another(*arguments):
        return choose(*arguments)._replace(prior_strength=7.0)

    monkeypatch.setattr(run_module, "choose_joining", another)
    config, run = written(tmp_path), tmp_path / "run"
    assert train.main(["--config", str(config), "--run-dir", str(run)]) == 0
    metrics = json.loads((run / runs.METRICS).read_text())
    assert metrics["selection"]["prior_strength"] in STRENGTHS
    assert json.loads((run / runs.MODEL).read_text())["prior_strength"] == 7.0


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"selection": {"refit": False}},
            "splits.validation_users: training sees them in the refit alone, and selection.refit",
        ),
        (
            {"learner": {"name": "em"}, "model": {"name": "reward_mixture", "num_prototypes": 2}},
            "splits.validation_users: choose λ of people who join, and learner.name 'em' has none",
        ),
        (
            {"model": {"name": "bradley_terry"}},
            "splits.validation_users: choose λ of people who join, and the model has one reward",
        ),
        (
            {"evaluation": {"shots": [0]}},
            "splits.validation_users: join with evaluation.shots comparisons, and all of these",
        ),
    ],
)
def test_validation_users_that_could_choose_nothing_are_refused(tmp_path, capsys, changes, line):
    config = written(tmp_path, **changes)
    assert train.main(["--config", str(config), "--run-dir", str(tmp_path / "run")]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
