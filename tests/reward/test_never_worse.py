"""Where people do not differ, the answer is the shared reward; where they do, it is not."""

import functools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from paljax import score, train

pytestmark = pytest.mark.usefixtures("quick_compilation")

USERS, PER_USER, WIDTH = 40, 15, 3


def choices(kind):
    """Rows of users who want the same, the opposite of each other, or toss a coin."""
    generator = np.random.default_rng(11)
    rows = []
    for user in range(USERS):
        for _ in range(PER_USER):
            sides = generator.normal(size=(2, WIDTH)).round(3)
            wants = {"alike": 1, "different": 1 - 2 * (user % 2), "noise": 0}[kind]
            margin = wants * 3 * (sides[0, 0] - sides[1, 0]) + generator.logistic()
            first, second = (sides if margin > 0 else sides[::-1]).tolist()
            rows.append({"user_id": f"user {user}", "chosen": first, "rejected": second})
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    @functools.cache
    def run(kind, anchored=False, decays=None, personal_decays=None):
        folder = tmp_path_factory.mktemp(kind)
        (folder / "comparisons.jsonl").write_text(choices(kind), encoding="utf-8")
        record = {
            "data": {"name": "file", "path": str(folder / "comparisons.jsonl")},
            "model": {
                "name": "pal_a",
                "user_point": "latent",
                "latent_width": 3,
                "num_prototypes": 2,
                "shared": {"hidden_layers": 0},
                "anchored": anchored,
            },
            "optimizer": {"learning_rate": dict.fromkeys(["networks", "prototypes"], 0.05)},
            "training": {"epochs": 60, "batch_size": 64},
            "selection": {
                "prior_strength": [1.0, 8.0],
                "shared_weight_decay": decays,
                "personal_weight_decay": personal_decays,
            },
            "evaluation": {"shots": [0, 2], "resamples": 100},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
        arguments = ["--config", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]
        assert train.main(arguments) == 0
        return folder / "run"

    return run


@pytest.mark.parametrize("kind", ["alike", "noise"])
def test_people_who_do_not_differ_share_a_reward(kind, run_of):
    run = run_of(kind)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["selection"]["personal"] is False
    assert metrics["test"] == metrics["baselines"]["bradley_terry"]["test"]
    assert metrics["gain"]["test"]["accuracy"] == 0
    assert sum(candidate["personal"] for candidate in metrics["selection"]["candidates"]) == 2
    assert "Everybody has one reward" in (run / "report.html").read_text()


def test_the_shared_reward_that_was_chosen_can_be_used(run_of, tmp_path):
    run = run_of("alike")
    items = [{"user_id": user, "response": [x, 0.0, 0.0]} for user in ("a", "b") for x in (0, 2)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    arguments = ["--run", str(run), "--input", str(tmp_path / "items.jsonl")]
    assert score.main([*arguments, "--out", str(tmp_path / "out.parquet")]) == 0
    low, high, low_of_other, high_of_other = pq.read_table(tmp_path / "out.parquet")["reward"]
    assert high.as_py() > low.as_py() == low_of_other.as_py()
    assert high == high_of_other


def test_people_who_differ_have_rewards_of_their_own(run_of):
    metrics = json.loads((run_of("different") / "metrics.json").read_text())
    assert metrics["selection"]["personal"] is True
    assert metrics["selection"]["num_prototypes"] == 2
    assert metrics["gain"]["test"]["interval"][0] > 0


def test_a_user_without_data_has_the_shared_reward_where_that_is_the_anchor(run_of):
    run = run_of("different", anchored=True, decays=(0.0, 10.0))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["selection"]["personal"] is True
    assert metrics["gain"]["test"]["interval"][0] > 0
    shared = metrics["baselines"]["bradley_terry"]
    assert metrics["unseen"]["0"] == shared["unseen"]["0"]
    assert metrics["unseen"]["2"]["accuracy"] > shared["unseen"]["2"]["accuracy"] + 0.1
    before = metrics["before_refit"]
    assert before["pal_a"]["unseen"]["0"] == before["bradley_terry"]["unseen"]["0"]
    assert before["pal_a"]["unseen"]["0"] != metrics["unseen"]["0"]


def test_the_shared_reward_chooses_its_own_weight_decay(run_of):
    metrics = json.loads((run_of("alike", decays=(0.0, 10.0)) / "metrics.json").read_text())
    candidates = metrics["selection"]["candidates"]
    shared = [one for one in candidates if not one["personal"]]
    assert [one["weight_decay"] for one in shared] == [0.0, 10.0]
    assert shared[0]["validation_nll"] < shared[1]["validation_nll"] - 0.1
    assert metrics["selection"]["personal"] is False
    assert metrics["selection"]["weight_decay"] == 0.0
    assert metrics["baselines"]["bradley_terry"]["test"]["accuracy"] > 0.7
    assert {one["weight_decay"] for one in candidates if one["personal"]} == {1e-4}


def test_an_anchored_model_scores_after_it_was_written(run_of, tmp_path):
    run = run_of("different", anchored=True, decays=(0.0, 10.0))
    items = [{"user_id": user, "response": [x, 0.0, 0.0]}
             for user in ("user 0", "user 1", "nobody") for x in (0, 2)]  # fmt: skip
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    arguments = ["--run", str(run), "--input", str(tmp_path / "items.jsonl")]
    assert score.main([*arguments, "--out", str(tmp_path / "out.parquet")]) == 0
    rewards = np.array(pq.read_table(tmp_path / "out.parquet")["reward"]).reshape(3, 2)
    wants = rewards[:, 1] - rewards[:, 0]
    assert wants[0] * wants[1] < 0
    assert min(abs(wants[0]), abs(wants[1])) > 2 * abs(wants[2])


def test_the_personalised_model_chooses_its_own_weight_decay(run_of):
    """A decay that leaves nothing of the prototypes is tried, and is not what validation wants."""
    metrics = json.loads(
        (
            run_of("different", decays=(0.0,), personal_decays=(0.0, 19.0)) / "metrics.json"
        ).read_text()
    )
    candidates = metrics["selection"]["candidates"]
    personal = [one for one in candidates if one["personal"]]
    assert [one["weight_decay"] for one in personal] == [0.0, 0.0, 19.0, 19.0]  # for each λ
    best = min(personal, key=lambda one: one["validation_nll"])
    assert best["validation_nll"] < personal[2]["validation_nll"] - 0.1
    assert metrics["selection"]["personal"] is True
    assert metrics["selection"]["weight_decay"] == best["weight_decay"] == 0.0
