"""The command lines, one after the other, on small runs: what they write agrees with itself."""

import itertools
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from paljax import adapt, evaluate, report, runs, score, train

NUM_USERS, PER_USER, WIDTH = 20, 10, 3
SHOTS = [0, 2, 20]
SCORES = {
    "accuracy", "accuracy_macro_user", "accuracy_worst_group", "accuracy_p10_user", "nll", "ece",
}  # fmt: skip
COUNTS = {"n", "n_users", "intervals", "groups"}
EPISODES = {"name": "episodes", "users_per_batch": 8, "most_comparisons": 8}
# Model and learner of each run; all read the comparisons that `rows` writes for it.
CASES = {
    "numbers": ({"name": "pal_a", "user_point": "latent", "latent_width": 3}, EPISODES),
    "cosine": ({"name": "pal_a", "distance": "cosine", "latent_width": 3}, {"name": "gradient"}),
    "prompts": ({"name": "pal_b", "latent_width": 3}, {"name": "gradient"}),
    "texts": ({"name": "pal_a", "latent_width": 3}, {"name": "gradient"}),
}
PAIRS = list(itertools.combinations(range(12), 2))


pytestmark = pytest.mark.usefixtures("quick_compilation")


def rows(case):
    """Users of two kinds, who want the opposite along the first number of an item."""
    generator = np.random.default_rng(7)
    made = []
    for user in range(NUM_USERS):
        for task in range(PER_USER):
            left, right = generator.normal(size=(2, WIDTH)).round(3)
            row = {"user_id": f"user {user}", "task_id": f"task {task // 2}"}
            if case in ("prompts", "cosine"):  # which the model of the second does not read
                row["prompt"] = generator.normal(size=2).round(1).tolist()
            first = (left[0] > right[0]) == (user % 2 == 0)
            row["chosen"], row["rejected"] = (
                side.tolist() for side in ((left, right) if first else (right, left))
            )
            if case == "texts":  # each user judges a pair once
                low, high = PAIRS[(7 * user + 5 * task) % len(PAIRS)]
                chosen, rejected = (high, low) if user % 2 == 0 else (low, high)
                row |= {"chosen": f"text {chosen}", "rejected": f"text {rejected}"}
            made.append(row)
    return made


def write(path, records):
    path.write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")
    return str(path)


def settings(case, folder):
    model, learner = CASES[case]
    record = {
        "stage": "reward",
        "data": {"name": "file", "path": write(folder / "comparisons.jsonl", rows(case))},
        "model": model | {"num_prototypes": 2, "shared": {"hidden_layers": 0}},
        "learner": learner,
        "training": {"epochs": 6, "batch_size": 64},
        "selection": {"prior_strength": [2.0], "personalize": "always"},
        "evaluation": {"shots": SHOTS, "resamples": 100},
    }
    if case == "texts":
        record["encoder"] = [{"name": "item_id", "width": 3}]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(record), encoding="utf-8")
    return str(path)


def make_run(case, folder):
    arguments = ["--config", settings(case, folder), "--run-dir", str(folder / "run")]
    assert train.main(arguments) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A finished run of each case, made when it is first asked for."""
    made = {}

    def run_of(case):
        if case not in made:
            made[case] = make_run(case, tmp_path_factory.mktemp(case))
        return made[case]

    return run_of


@pytest.fixture
def run(run_of):
    return run_of("numbers")


def parts(run):
    """Rows of the comparison file by the part that they went to."""
    given = rows_of(run)
    split = pq.read_table(run / runs.SPLITS).to_pydict()
    assert split["row"] == list(range(len(given)))
    by_part = {}
    for row, part, user in zip(given, split["split"], split["user_id"], strict=True):
        assert row["user_id"] == user
        by_part.setdefault(part, []).append(row)
    return by_part


def rows_of(run):
    lines = (run.parent / "comparisons.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def users_of(run):
    users = pq.read_table(run / runs.USERS).to_pydict()
    return {name: np.array(values) for name, values in users.items() if name != "weights"} | {
        "weights": dict(zip(users["user_id"], users["weights"], strict=True))
    }


def metrics_of(run):
    return json.loads((run / runs.METRICS).read_text(encoding="utf-8"))


def renamed(records):
    """The same choices by people whom the run does not know."""
    return [row | {"user_id": f"new {row['user_id']}"} for row in records]


def evaluated(run, folder, records, support=None):
    out = folder / "scores.json"
    arguments = ["--run", str(run), "--comparisons", write(folder / "asked.jsonl", records)]
    if support is not None:
        arguments += ["--adapt", write(folder / "support.jsonl", support)]
    assert evaluate.main([*arguments, "--out", str(out)]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def adapted(run, folder, records):
    out = folder / "adapted.parquet"
    arguments = ["--run", str(run), "--comparisons", write(folder / "own.jsonl", records)]
    assert adapt.main([*arguments, "--out", str(out)]) == 0
    return pq.read_table(out).to_pydict()


def rewards(run, folder, records, side):
    """Reward of one side of every comparison."""
    asked = [
        {key: row[key] for key in ("user_id", "prompt") if key in row} | {"response": row[side]}
        for row in records
    ]
    out = folder / f"{side}.parquet"
    arguments = ["--run", str(run), "--input", write(folder / f"{side}.jsonl", asked)]
    assert score.main([*arguments, "--out", str(out)]) == 0
    return pq.read_table(out).to_pydict()


def test_a_run_directory_has_its_files(run):
    wanted = {
        runs.CONFIG, runs.METRICS, runs.METRICS_LOG, runs.ANALYSIS, runs.MODEL, runs.USERS,
        runs.SPLITS, runs.REPORT, runs.CHECKPOINTS,
    }  # fmt: skip
    assert {path.name for path in run.iterdir()} == wanted
    held = yaml.safe_load((run / runs.CONFIG).read_text(encoding="utf-8"))
    assert set(held["versions"]) == {"paljax", *runs.VERSIONED}
    assert held["optimizer"]["beta1"] == 0.9
    assert "<html" in (run / runs.REPORT).read_text(encoding="utf-8")


def test_metrics_have_the_keys_of_the_design(run):
    metrics = metrics_of(run)
    assert set(metrics) == {
        "model", "parameters", "test", "unseen", "gain", "baselines", "before_refit", "selection",
        "audit", "groups", "data", "timing",
    }  # fmt: skip
    assert metrics["parameters"]["per_user"] == 2
    assert set(metrics["baselines"]) == {
        "bradley_terry", "constant", "item_majority", "per_user_logistic_regression", "mixed_logit",
    }  # fmt: skip
    for blocks in (metrics, *metrics["baselines"].values(), *metrics["before_refit"].values()):
        assert set(blocks["test"]) == SCORES | COUNTS
        assert set(blocks["unseen"]) == {str(count) for count in SHOTS}
        for block in (blocks["test"], *blocks["unseen"].values()):
            assert set(block) - {"support_per_user"} == SCORES | COUNTS
            assert set(block["intervals"]) == SCORES
            assert block["n_users"] > 1
            alone = [group["n_users"] == 1 for group in block["groups"].values()]
            assert [group["interval"] is None for group in block["groups"].values()] == alone
            for name, interval in block["intervals"].items():
                if interval is None:
                    assert name == "accuracy_worst_group"
                    assert any(alone)
                else:
                    assert interval[0] - 1e-9 <= block[name] <= interval[1] + 1e-9, name
    # What knows nothing of an answer is as sure of each; the model is not.
    for block in (metrics["test"], *metrics["unseen"].values()):
        assert np.ptp(block["intervals"]["nll"]) > 1e-3
        assert np.ptp(block["intervals"]["accuracy"]) > 1e-3
    split = metrics["data"]["split"]
    assert sum(split.values()) == metrics["data"]["comparisons"] == NUM_USERS * PER_USER
    assert metrics["test"]["n"] == split["test"]
    assert metrics["baselines"]["constant"]["test"]["accuracy"] == 0.5


def test_logged_epochs_have_the_keys_of_the_design(run):
    lines = (run / runs.METRICS_LOG).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert list(dict.fromkeys(record["fit"] for record in records)) == [
        "bradley_terry", "pal_a K=2", "bradley_terry refit", "pal_a refit",
    ]  # fmt: skip
    keys = {"fit", "step", "epoch", "loss", "accuracy", "margin", "learning_rate", "grad_norm"}
    for record in records:
        assert keys <= set(record)
        assert ("validation_loss" in record) == ("refit" not in record["fit"])


def test_users_are_listed_with_weights_on_the_simplex(run):
    users, by_part = users_of(run), parts(run)
    assert sorted(users["user_id"]) == sorted(f"user {number}" for number in range(NUM_USERS))
    weights = np.array(list(users["weights"].values()))
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert np.all(weights > 0)
    assert np.all(users["n_comparisons"] == PER_USER)
    unseen = {row["user_id"] for part in ("support", "query") for row in by_part[part]}
    assert set(users["user_id"][users["role"] == "unseen"]) == unseen
    assert not unseen & {row["user_id"] for row in by_part["train"]}


@pytest.mark.parametrize("case", CASES)
def test_evaluate_repeats_the_scores_of_the_run(case, run_of, tmp_path):
    """Test rows by the users' own weights; query rows by the population's, or after adapting."""
    run = run_of(case)
    by_part, metrics = parts(run), metrics_of(run)
    query, support = renamed(by_part["query"]), renamed(by_part["support"])
    for wanted, found, source in (
        (metrics["test"], evaluated(run, tmp_path, by_part["test"]), "run"),
        (metrics["unseen"]["0"], evaluated(run, tmp_path, query), "population"),
        (metrics["unseen"]["20"], evaluated(run, tmp_path, query, support), "adapt"),
    ):
        assert found["accuracy"] == pytest.approx(wanted["accuracy"], abs=1e-9), source
        assert found["nll"] == pytest.approx(wanted["nll"], abs=1e-4), source
        assert found["weights_from"][source] == found["n_users"] == wanted["n_users"]
        assert found["grouped_by"] == metrics["groups"] == "prototype"
        if source != "population":  # where users have their own weights, so has their group
            assert set(found["groups"]) == set(wanted["groups"]), source
            assert found["accuracy_worst_group"] == wanted["accuracy_worst_group"], source
    assert metrics["unseen"]["0"]["nll"] != pytest.approx(metrics["unseen"]["20"]["nll"], abs=1e-4)


def test_evaluate_gives_no_interval_for_one_person(run, tmp_path):
    test = parts(run)["test"]
    person = [row for row in test if row["user_id"] == test[0]["user_id"]]
    scores = evaluated(run, tmp_path, person * 3)
    assert (scores["n"], scores["n_users"]) == (3 * len(person), 1)
    assert scores["intervals"] == dict.fromkeys(SCORES)
    assert [group["interval"] for group in scores["groups"].values()] == [None]


@pytest.mark.parametrize("case", CASES)
def test_rewards_of_both_sides_differ_by_the_margins_that_evaluate_scores(case, run_of, tmp_path):
    run = run_of(case)
    given = parts(run)["test"] + renamed(parts(run)["query"])
    chosen, rejected = (rewards(run, tmp_path, given, side) for side in ("chosen", "rejected"))
    margins = np.array(chosen["reward"], np.float64) - np.array(rejected["reward"], np.float64)
    assert np.ptp(margins) > 1e-3
    scores = evaluated(run, tmp_path, given)
    assert np.mean(0.5 * (1 + np.sign(margins))) == pytest.approx(scores["accuracy"], abs=1e-9)
    assert np.mean(np.logaddexp(0, -margins)) == pytest.approx(scores["nll"], abs=1e-4)
    assert chosen["row"] == list(range(1, len(given) + 1))
    assert chosen["known_user"] == [not row["user_id"].startswith("new") for row in given]


@pytest.mark.parametrize("case", CASES)
def test_adapting_to_what_training_saw_gives_the_weights_of_the_run(case, run_of, tmp_path):
    run = run_of(case)
    by_part, weights = parts(run), users_of(run)["weights"]
    found = adapted(run, tmp_path, by_part["train"] + by_part["validation"] + by_part["support"])
    wanted = np.array([weights[user] for user in found["user_id"]])
    assert len(wanted) >= NUM_USERS - 1  # an unseen user may be all query
    np.testing.assert_allclose(np.array(found["weights"]), wanted, atol=1e-3)
    assert found["gap_is_certificate"] == [case != "cosine"] * len(wanted)
    covariance = np.array(found["covariance"])
    np.testing.assert_allclose(covariance.sum(axis=2), 0, atol=1e-5)


def test_new_users_start_from_the_weights_of_the_population(run, tmp_path):
    """Choices of no weight say nothing."""
    silent = [row | {"weight": 0.0} for row in renamed(parts(run)["query"])]
    analysis = json.loads((run / runs.ANALYSIS).read_text(encoding="utf-8"))
    found = adapted(run, tmp_path, silent)
    expected = np.tile(np.float32(analysis["population"]), (len(found["user_id"]), 1))
    np.testing.assert_array_equal(np.array(found["weights"], np.float32), expected)
    assert set(found["gap"]) == {0.0}


def test_evaluate_refuses_to_score_what_a_user_was_fitted_to(run, tmp_path, capsys):
    given = renamed(parts(run)["query"])
    asked, support = (write(tmp_path / name, given) for name in ("asked.jsonl", "support.jsonl"))
    arguments = ["--run", str(run), "--comparisons", asked, "--adapt", support]
    assert evaluate.main(arguments) == 2
    assert "can't be scored" in capsys.readouterr().err


def test_evaluate_refuses_other_rows_of_a_task_that_was_learned_from(run, tmp_path, capsys):
    """The chosen item of one row of a choice task is that of the others."""
    by_part = parts(run)
    another = by_part["train"][3] | {"rejected": [9.0] * WIDTH}
    asked = write(tmp_path / "asked.jsonl", [*by_part["test"], another])
    assert evaluate.main(["--run", str(run), "--comparisons", asked]) == 2
    assert "1 of its" in (line := capsys.readouterr().err)
    assert "belong to choice tasks that were trained on" in line
    # The same for what --adapt fits a new user to, and no other user's task of that name is meant.
    support = renamed(by_part["query"][:1])
    given = [write(tmp_path / "support.jsonl", support)]
    asked = write(tmp_path / "asked.jsonl", [row | {"rejected": [9.0] * WIDTH} for row in support])
    assert evaluate.main(["--run", str(run), "--comparisons", asked, "--adapt", *given]) == 2
    assert "1 of its comparisons belong to choice tasks that are also in" in capsys.readouterr().err
    other = [row | {"user_id": "somebody else"} for row in support]
    assert evaluated(run, tmp_path, other, support)["n"] == 1


@pytest.mark.parametrize("part", ["train", "validation", "support"])
def test_evaluate_refuses_what_the_run_has_learned_from(part, run, tmp_path, capsys):
    """Also where the answer has been turned round."""
    by_part = parts(run)
    learned = by_part[part][3]
    turned = learned | {"chosen": learned["rejected"], "rejected": learned["chosen"]}
    asked = write(tmp_path / "asked.jsonl", [*by_part["test"], turned])
    arguments = ["--run", str(run), "--comparisons", asked, "--out", str(tmp_path / "out.json")]
    assert evaluate.main(arguments) == 2
    line = f"1 of its {len(by_part['test']) + 1} comparisons were trained on (one of user '"
    assert line in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    # Somebody else's answer to the same question is no leak.
    assert evaluated(run, tmp_path, [*by_part["test"], *renamed([turned])])


def without_prompts(record):
    return {name: value for name, value in record.items() if name != "prompt"}


def as_chats(record):
    sides = {side: [{"role": "user", "content": record[side]}] for side in ("chosen", "rejected")}
    return record | sides


# Runs, and how rows that they learned from are written otherwise.
REWRITTEN = {
    "without prompts": ("cosine", without_prompts),
    "with other prompts": ("cosine", lambda record: record | {"prompt": "something else"}),
    "with prompts": ("numbers", lambda record: record | {"prompt": [1.0, 2.0]}),
    "as chats": ("texts", as_chats),
    "with prompts that are read": ("prompts", lambda record: record | {"tie": False}),
}


@pytest.mark.parametrize("way", REWRITTEN)
def test_evaluate_refuses_what_was_learned_however_it_is_written(way, run_of, tmp_path, capsys):
    case, rewritten = REWRITTEN[way]
    run = run_of(case)
    by_part = parts(run)
    for part in ("train", "validation", "support"):
        asked = write(tmp_path / "asked.jsonl", map(rewritten, by_part[part]))
        assert evaluate.main(["--run", str(run), "--comparisons", asked]) == 2
        line = f"{len(by_part[part])} of its {len(by_part[part])} comparisons were trained on"
        assert line in capsys.readouterr().err
    # The same of what --adapt fits new users to, written so in either file.
    given = renamed(by_part["query"])
    other = list(map(rewritten, given))
    for asked, support in ((given, other), (other, given)):
        files = [write(tmp_path / "asked.jsonl", asked), write(tmp_path / "support.jsonl", support)]
        arguments = ["--run", str(run), "--comparisons", files[0], "--adapt", files[1]]
        assert evaluate.main(arguments) == 2
        line = f"{len(given)} of its comparisons are also in {files[0]}"
        assert line in capsys.readouterr().err


def test_evaluate_scores_what_was_learned_under_another_prompt_that_the_model_reads(
    run_of, tmp_path, capsys
):
    run = run_of("prompts")
    learned = [{k: v for k, v in row.items() if k != "task_id"} for row in parts(run)["train"]]
    asked = [row | {"prompt": [9.0, 9.0]} for row in learned]
    assert evaluated(run, tmp_path, asked)["n"] == len(asked)
    capsys.readouterr()
    asked = write(tmp_path / "asked.jsonl", map(without_prompts, learned))
    assert evaluate.main(["--run", str(run), "--comparisons", asked]) == 2
    assert "the model needs prompts, the comparisons have no" in capsys.readouterr().err


def test_evaluate_refuses_a_run_that_does_not_say_what_it_learned(run, tmp_path, capsys):
    """As of runs before comparisons had a second identity, without their prompts."""
    copy = tmp_path / "before"
    shutil.copytree(run, copy)
    splits = pq.read_table(copy / runs.SPLITS)
    pq.write_table(splits.drop_columns("comparison_without_prompt"), copy / runs.SPLITS)
    asked = write(tmp_path / "asked.jsonl", parts(run)["test"])
    assert evaluate.main(["--run", str(copy), "--comparisons", asked]) == 2
    line = f"{copy / runs.SPLITS}: has no column 'comparison_without_prompt'; train again"
    assert capsys.readouterr().err.strip().endswith(line)


def test_the_same_configuration_and_seed_give_the_same_metrics(run, tmp_path):
    again = make_run("numbers", tmp_path)
    left, right = metrics_of(run), metrics_of(again)
    assert left.pop("timing").keys() == right.pop("timing").keys()
    assert left == right
    log = runs.METRICS_LOG
    assert (run / log).read_bytes() == (again / log).read_bytes()
    assert users_of(run)["weights"] == users_of(again)["weights"]


def test_training_a_finished_run_says_so_and_changes_nothing(run, capsys):
    def state():
        files = [path for path in run.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    arguments = ["--config", str(run.parent / "config.yaml"), "--run-dir", str(run)]
    assert train.main(arguments) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert state() == before
    assert train.main([*arguments, "--resume", "never"]) == 2
    assert train.main([*arguments, "seed=5"]) == 2
    assert state() == before


def test_report_is_written_again_as_it_was(run, tmp_path):
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    written = (copy / runs.REPORT).read_bytes()
    (copy / runs.REPORT).unlink()
    assert report.main([str(copy)]) == 0
    assert (copy / runs.REPORT).read_bytes() == written
    both = tmp_path / "both.html"
    assert report.main([str(run), str(copy), "--out", str(both)]) == 0
    assert "2 runs compared" in both.read_text(encoding="utf-8")
