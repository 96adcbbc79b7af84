"""A run that is killed at any moment and started again ends as the run that nobody disturbed."""

import json
from functools import partial

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from paljax import runs
from paljax.config import load
from paljax.reward.trained_model import load_model
from tests import killing
from tests.killing import AfterEpochs, InWrite

EPOCHS = 10
LEARNERS = {
    "gradient": {"name": "gradient"},
    "episodes": {"name": "episodes", "users_per_batch": 8, "most_comparisons": 4},
    "em": {"name": "em", "starts": 3, "passes": 2},
}


def comparisons(path, num_users=24, per_user=6):
    """Two kinds of users, who want opposite things of texts."""
    generator = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for user in range(num_users):
            for _ in range(per_user):
                low, high = sorted(generator.choice(9, 2, replace=False).tolist())
                chosen, rejected = (high, low) if user % 2 == 0 else (low, high)
                row = {"chosen": f"text {chosen}", "rejected": f"text {rejected}"}
                file.write(json.dumps({"user_id": f"user {user}"} | row) + "\n")


def config(folder, learner, **training):
    """Write the data and the configuration of a small run; returns the configuration's path."""
    comparisons(folder / "comparisons.jsonl")
    record = {
        "stage": "reward",
        "seed": 3,
        "data": {"name": "file", "path": str(folder / "comparisons.jsonl")},
        "encoder": [{"name": "item_id", "width": 3}],
        "model": {
            "name": "pal_a",
            "num_prototypes": 2,
            "user_point": "latent",
            "latent_width": 3,
            "hidden_layers": 1,
            "dropout": 0.2,
            "shared": {"hidden_layers": 0},
        },
        "learner": LEARNERS[learner],
        "training": {"epochs": EPOCHS, "batch_size": 64, "patience": None, "checkpoint_every": 2}
        | training,
        "selection": {"prior_strength": [1.0, 4.0]},
        "evaluation": {"shots": [0, 2], "resamples": 100},
    }
    path = folder / f"{learner}.yaml"
    path.write_text(yaml.safe_dump(record), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs that all processes of this file share."""
    return tmp_path_factory.mktemp("compiled")


def assert_equal_runs(run_dir, straight):
    """Bit for bit, apart from the time that they took."""
    left, right = (load_model(folder).trained for folder in (run_dir, straight))
    jax.tree.map(np.testing.assert_array_equal, left.params, right.params)
    np.testing.assert_array_equal(left.population, right.population)
    for name in (runs.METRICS_LOG, runs.MODEL, runs.ANALYSIS, runs.CONFIG):
        assert (run_dir / name).read_bytes() == (straight / name).read_bytes(), name
    for name in (runs.USERS, runs.SPLITS):
        assert pq.read_table(run_dir / name).equals(pq.read_table(straight / name)), name
    assert metrics_without_timing(run_dir) == metrics_without_timing(straight)
    drafts = [path for path in run_dir.iterdir() if path.name.startswith(".")]
    assert not drafts


def metrics_without_timing(run_dir):
    record = json.loads((run_dir / runs.METRICS).read_text(encoding="utf-8"))
    assert set(record.pop("timing")) == {
        "compile_s",
        "train_s",
        "comparisons_per_s",
        "fit_s",
        "evaluate_s",
    }
    return record


def survives(learner, moments, folder, cache):
    """Kill a run at each of these moments, go on, and compare with a straight run."""
    settings = config(folder, learner)
    runs_of = [killing.Run(settings, folder / name, cache) for name in ("straight", "killed")]
    return killing.assert_survives(*runs_of, moments, assert_equal_runs)


# By EM only among the slow ones: tests/test_em_run.py has a quick one.
@pytest.mark.parametrize("learner", ["gradient", "episodes"])
def test_a_killed_run_ends_as_the_straight_run(learner, tmp_path, cache):
    def moments(in_all):
        """In the first fit, in a later one, in a write, and while the run is scored."""
        generator = np.random.default_rng()
        epochs = [generator.integers(1, EPOCHS), generator.integers(EPOCHS + 1, in_all), in_all]
        yield from (AfterEpochs(int(number), generator.uniform(0, 0.1)) for number in epochs)
        yield InWrite(0)

    assert "continues after epoch" in survives(learner, moments, tmp_path, cache)


def test_a_run_killed_while_it_wrote_a_file_is_taken_up(tmp_path):
    settings = load(config(tmp_path, "gradient"))
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    drafts = [run_dir / f".{name}.4711" for name in (runs.CONFIG, runs.METRICS)]
    for _ in range(2):  # killed in the first file, and later
        for draft in drafts:
            draft.write_text("{", encoding="utf-8")
        runs.require_usable(run_dir, settings, resume=True)
        runs.open_run(run_dir, settings)
        assert [path.name for path in run_dir.iterdir()] == [runs.CONFIG]


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_run_killed_all_the_time_ends_as_the_straight_run(learner, tmp_path, cache):
    """Twelve kills for each of three learners; policies (tests/policy) take twenty more."""
    survives(learner, partial(killing.at_random, count=12), tmp_path, cache)
