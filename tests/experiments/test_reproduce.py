"""The list of experiments: every configuration is one, and the table is made of their results."""

import json
from pathlib import Path

import pytest

from experiments import reproduce
from paljax.config import load


@pytest.mark.parametrize("experiment", reproduce.EXPERIMENTS, ids=lambda one: one.about)
def test_every_experiment_can_be_configured(experiment):
    config = load(reproduce.HERE / experiment.config, [*experiment.overrides, "splits.seed=3"])
    assert config.splits.seed == 3
    assert config.model.name == reproduce.NAMES[1]


def test_no_two_experiments_write_one_file():
    written = [experiment.results for experiment in reproduce.EXPERIMENTS]
    assert len(set(written)) == len(written)


def test_the_table_of_the_readme_is_made_of_the_results_of_every_experiment():
    text = reproduce.README.read_text(encoding="utf-8")
    assert reproduce.rewrite(text, reproduce.table()) == text


def test_the_table_has_a_row_for_an_experiment_and_for_people_who_join(tmp_path, monkeypatch):
    one = reproduce.Experiment("votes", "votes/config.yaml")
    monkeypatch.setattr(reproduce, "HERE", tmp_path)
    monkeypatch.setattr(reproduce, "EXPERIMENTS", (one,))
    scores = {
        "bradley_terry, seen users, accuracy": (0.75, 0.01),
        "pal_a, seen users, accuracy": (0.82, None),
        "pal_a, validation part, accuracy": (0.81, 0.002),
        "bradley_terry, unseen users with 0 comparisons, accuracy": (0.76, 0.01),
        "pal_a, unseen users with 0 comparisons, accuracy": (0.77, 0.01),
        "pal_as_published, seen users, accuracy": (0.7, 0.02),
        "constant, seen users, accuracy": (0.9, 0.0),
        "item_majority, seen users, accuracy": (0.74, 0.01),
        "per_user_logistic_regression, seen users, accuracy": (0.76, 0.01),
    }
    record = {
        "seeds": 3,
        "scores": {
            name: {"mean": mean, "standard_deviation": spread}
            for name, (mean, spread) in scores.items()
        },
    }
    (tmp_path / "votes").mkdir()
    one.results.write_text(json.dumps(record), encoding="utf-8")
    assert reproduce.table().splitlines()[2:] == [
        "| votes | 3 | 75.0 ± 1.0 | 70.0 ± 2.0 | 76.0 ± 1.0 (regression a user) | "
        "81.0 ± 0.2 | 82.0 |",
        "| the same, new people with 0 | 3 | 76.0 ± 1.0 | – | – | – | 77.0 ± 1.0 |",
    ]
    assert reproduce.rewrite(f"a{reproduce.BEGIN}old{reproduce.END}b", "new").count("old") == 0


@pytest.mark.parametrize("script", reproduce.SCRIPTS, ids=lambda one: one[-1])
def test_every_other_experiment_is_there(script):
    path = script[-1] if script[0] != "-m" else script[1].replace(".", "/") + ".py"
    assert (reproduce.HERE.parent / path).is_file()


def test_no_experiment_is_left_out():
    """What has results is a row of the table, or written by another script."""
    found = {path.parent.name for path in reproduce.HERE.glob("*/results*.json")}
    rows = {Path(experiment.config).parent.name for experiment in reproduce.EXPERIMENTS}
    others = {script[-1].replace(".", "/").split("/")[1] for script in reproduce.SCRIPTS}
    assert found == rows | others
