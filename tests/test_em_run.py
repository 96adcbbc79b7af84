"""A whole run by EM: two kinds of people, found, named, reported, and joined by new ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from paljax import adapt, evaluate, loop, runs, score, train
from paljax.checkpoints import Checkpoints
from paljax.config import load
from paljax.data.iterations import choices_by_user
from paljax.data.prepare import prepare
from paljax.reward.fits import build_model
from paljax.reward.tasks import learner_for, task_for
from paljax.reward.trained_model import load_model
from tests.kernels import twins

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_USERS, PER_USER, WIDTH = 24, 10, 3


def comparisons(num_users, seed, name="user"):
    """Two thirds want the first number high, one third wants it low; two rows are ties."""
    random = np.random.default_rng(seed)
    for user in range(num_users):
        wants_high = user % 3 < 2
        for number in range(PER_USER):
            left, right = random.normal(size=(2, WIDTH)).round(3)
            chosen, rejected = (
                (left, right) if (left[0] > right[0]) == wants_high else (right, left)
            )
            yield {
                "user_id": f"{name} {user}",
                "chosen": chosen.tolist(),
                "rejected": rejected.tolist(),
                "group": "high" if wants_high else "low",
                "tie": user < 2 and number == 0,
            }


def write(path, records):
    path.write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("em")
    record = {
        "stage": "reward",
        "data": {
            "name": "file",
            "path": write(folder / "comparisons.jsonl", comparisons(NUM_USERS, 0)),
        },
        "model": {
            "name": "reward_mixture",
            "num_prototypes": 2,
            "hidden_layers": 0,
            "shared": None,
        },
        "learner": {"name": "em", "starts": 3, "passes": 2},
        "optimizer": {"learning_rate": {"networks": 0.1}},
        "training": {"epochs": 30, "batch_size": 64},
        "evaluation": {"shots": [0, 2, 20], "resamples": 100},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(record), encoding="utf-8")
    assert train.main(["--config", str(path), "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


def read(run, name):
    return json.loads((run / name).read_text(encoding="utf-8"))


def test_the_groups_are_found_and_matched_to_their_labels(run):
    membership = read(run, runs.ANALYSIS)["membership"]
    assert membership["exclusive"]
    assert sorted(membership["matching"]["label_of"]) == ["high", "low"]
    assert membership["matching"]["matched"] == membership["matching"]["people"] == NUM_USERS
    users = pq.read_table(run / runs.USERS).to_pydict()
    assert set(users["group"]) == {"high", "low"}
    assert set(users["gap"]) == {0.0}
    assert sum(membership["users"]) == users["role"].count("seen")
    metrics = read(run, runs.METRICS)
    assert (
        metrics["test"]["accuracy"]
        > 0.85
        > metrics["baselines"]["bradley_terry"]["test"]["accuracy"]
    )
    assert metrics["unseen"]["20"]["accuracy"] > metrics["unseen"]["0"]["accuracy"]
    assert metrics["selection"]["prior_strength"] is None
    report = (run / runs.REPORT).read_text(encoding="utf-8")
    assert "probabilities" in report
    assert f"100.0 % of {NUM_USERS}" in report


def test_what_is_known_of_the_groups_are_their_sizes(run):
    trained = load_model(run).trained
    np.testing.assert_allclose(trained.population.sum(), 1, rtol=1e-5)
    seen = read(run, runs.ANALYSIS)["membership"]["users"]
    np.testing.assert_allclose(trained.population, np.array(seen) / sum(seen), atol=0.05)


def test_new_people_are_assigned_and_scored_by_the_posterior_predictive(run, tmp_path):
    rows = list(comparisons(6, 1, name="new"))
    for row in rows:
        row["tie"] = False
    support = write(tmp_path / "support.jsonl", list(rows[::2]))
    query = write(tmp_path / "query.jsonl", list(rows[1::2]))
    joined_file, out = tmp_path / "joined.jsonl", tmp_path / "scores.json"
    assert adapt.main(["--run", str(run), "--comparisons", support, "--out", str(joined_file)]) == 0
    joined = [json.loads(line) for line in joined_file.read_text().splitlines()]
    for row in joined:
        weights = np.array(row["weights"])
        np.testing.assert_allclose(
            row["covariance"], np.diag(weights) - np.outer(weights, weights), atol=1e-6
        )
        assert row["gap"] == 0
    arguments = ["--run", str(run), "--comparisons", query, "--adapt", support]
    assert evaluate.main([*arguments, "--out", str(out)]) == 0
    scores = json.loads(out.read_text())
    assert scores["weights_from"]["adapt"] == 6

    kernel = np.asarray(load_model(run).trained.params["mixture"]["Dense_0"]["kernel"], float)
    encoder = load_model(run).item_encoder
    by_user = {row["user_id"]: np.array(row["weights"], float) for row in joined}
    losses = []
    for row in rows[1::2]:
        sides = encoder.encode(np.array([row["chosen"], row["rejected"]], np.float32))
        margins = (np.asarray(sides, float)[0] - np.asarray(sides, float)[1]) @ kernel
        odds = twins.log_odds(margins, np.log(by_user[row["user_id"]]))
        losses.append(np.log1p(np.exp(-odds)))
    np.testing.assert_allclose(scores["nll"], np.mean(losses), rtol=1e-4)


def test_score_gives_the_mean_reward(run, tmp_path):
    rows = [{"user_id": "stranger", "response": [0.1, 0.2, 0.3]}]
    given, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert score.main(["--run", str(run), "--input", given, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    model = load_model(run)
    item = np.asarray(model.item_encoder.encode(np.array([[0.1, 0.2, 0.3]], np.float32)))
    rewards = item @ np.asarray(model.trained.params["mixture"]["Dense_0"]["kernel"])
    expected = rewards[0] @ np.asarray(model.trained.population)
    np.testing.assert_allclose(found["reward"], expected, rtol=1e-4)
    assert not found["known_user"]


class KilledError(Exception):
    """The end of a fit that did not end by itself."""


class Log:
    """Records of a fit; kills it at an epoch."""

    def __init__(self, last=None):
        self.records, self.last = [], last

    def rewind(self, fit, epoch):
        self.records = [record for record in self.records if record["epoch"] <= epoch]

    def append(self, record):
        self.records.append(record)
        if record["epoch"] == self.last:
            raise KilledError


def fit_of(run, override):
    """The data of a run's configuration with one change, and the task of its fit."""
    config = load(run.parent / "config.yaml", [override])
    prepared = prepare(config, uses_prompts=False)
    comparisons, split = prepared.dataset.comparisons, prepared.split
    train, validation = (comparisons.select(split.rows(part)) for part in ("train", "validation"))
    model = build_model(config, 2, prepared.item_encoder, None)
    learner = learner_for(config, prepared, model)
    task = task_for(config, prepared, "em", model, learner, train, validation, epochs=6)
    return prepared, learner, task


def test_a_killed_fit_ends_as_a_straight_one_bit_for_bit(run, tmp_path):
    _, _, task = fit_of(run, "training.checkpoint_every=2")
    killed, straight = Log(last=5), Log()

    def fitted(folder, log):
        with Checkpoints(tmp_path / folder) as checkpoints:
            return loop.fit(
                task,
                jax.random.key(0),
                checkpoints=checkpoints,
                log=log,
                say=lambda line: None,
                progress_bar=False,
            )

    expected = fitted("straight", straight)
    with pytest.raises(KilledError):
        fitted("killed", killed)
    killed.last = None
    found = fitted("killed", killed)
    assert killed.records == straight.records

    def equal(left, right):
        if jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        np.testing.assert_array_equal(left, right)

    jax.tree.map(equal, found, expected)


@pytest.mark.parametrize("assignment", ["soft", "hard"])
def test_starts_are_judged_by_posteriors_whatever_the_fit_assigns(run, assignment):
    """As the finished run will be scored: loops over users, their groups known from training."""
    prepared, learner, task = fit_of(run, f"learner.assignment={assignment}")
    comparisons, split = prepared.dataset.comparisons, prepared.split
    train, validation = (comparisons.select(split.rows(part)) for part in ("train", "validation"))
    state = learner.init(jax.random.key(0))
    log_sizes = jnp.broadcast_to(jnp.log(jnp.array([0.7, 0.3])), state.log_sizes.shape)
    judged = task.validate(state._replace(log_sizes=log_sizes))
    items, losses = np.asarray(prepared.tables.items, float), []
    for kernel in np.asarray(state.params["mixture"]["Dense_0"]["kernel"], float):

        def log_likelihood(part, user, kernel=kernel):
            choices = choices_by_user(part, num_users=NUM_USERS)
            total = np.zeros(2)
            for row in np.flatnonzero(np.asarray(choices.user) == user):
                margins = (items[choices.chosen[row]] - items[choices.rejected[row]]) @ kernel
                target = float(choices.target[row])
                for sign, share in ((1, target), (-1, 1 - target)):
                    total -= choices.weight[row] * share * np.log1p(np.exp(-sign * margins))
            return total

        evidence = 0.0
        for user in range(NUM_USERS):
            joint = np.array([0.7, 0.3]) * np.exp(log_likelihood(train, user))
            posterior = joint / joint.sum()
            evidence += np.log(posterior @ np.exp(log_likelihood(validation, user)))
        losses.append(-evidence / choices_by_user(validation, num_users=NUM_USERS).weight.sum())
    assert len(losses) == 3
    np.testing.assert_allclose(judged["loss"], min(losses), rtol=1e-4)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("loss.name=hinge", "loss.name: 'hinge' is no log-likelihood"),
        ("learner.assignment=firm", "learner.assignment: 'firm' is not known; choose one of"),
        ("learner.starts=0", "learner.starts: 0 is wrong"),
        ("model.trunk=comon", "model.trunk: 'comon' is not known; did you mean 'common'"),
        ("model.num_prototypes=0", "model.num_prototypes: 0 is wrong"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_line(run, tmp_path, capsys, override, told):
    config = str(run.parent / "config.yaml")
    new = tmp_path / "run"
    assert train.main(["--config", config, "--run-dir", str(new), override]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not new.exists()


def test_a_cosine_has_no_groups_to_belong_to(run, tmp_path, capsys):
    config = str(run.parent / "config.yaml")
    model = "model={name: pal_a, num_prototypes: 2, distance: cosine}"
    assert train.main(["--config", config, "--run-dir", str(tmp_path / "run"), model]) == 2
    assert "model.distance: 'cosine' does not go with learner.name 'em'" in capsys.readouterr().err
