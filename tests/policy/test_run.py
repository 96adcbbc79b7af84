"""Whole policy runs: results, report, resume after a kill, and one line for what is wrong."""

import contextlib
import datetime
import itertools
import json
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar

from paljax import report, runs, score, stopping, train
from paljax.config import load
from paljax.locking import held
from paljax.policy.problems import build_problem
from paljax.policy.results import exact_scores, optima, sampled_scores
from tests import killing
from tests.killing import AfterEpochs, InWrite

REWARDS = [[[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]], [[0.2, 0.9], [0.8, 0.1], [0.5, 0.6]]]
CONFIG = {
    "stage": "policy",
    "seed": 1,
    "rewards": {"name": "table", "rewards": REWARDS, "prompt_weights": [0.75, 0.25]},
    "normalize": "none",
    "groups": {"names": ["many", "few"], "shares": [0.8, 0.2]},
    "beta": 0.1,
    "rollouts": {"samples": 32},
    "training": {"epochs": 10, "steps_per_epoch": 40, "checkpoint_every": 2},
    "evaluation": {"samples": 200},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(CONFIG | changes), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any, quick_compilation: None) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    assert train.main(["--config", str(write(folder)), "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


def metrics_of(run: Path) -> Any:
    return json.loads((run / runs.METRICS).read_text(encoding="utf-8"))


def test_a_run_reports_what_it_reached_beside_the_exact_optimum(finished: Path) -> None:
    metrics = metrics_of(finished)
    best = metrics["comparisons"]["maxmin"]
    assert metrics["iterate"] == "average_weights"
    assert best["gap"] < 1e-8
    assert best["value"] - 0.02 < metrics["scores"]["value"] <= best["value"] + 1e-9
    assert metrics["comparisons"]["reference"]["kl"] == pytest.approx(0, abs=1e-12)
    values = {name: found["value"] for name, found in metrics["comparisons"].items()}
    assert max(values, key=lambda name: values[name]) in ("maxmin", "cvar")
    # Fresh responses agree with the exact expectations within their standard errors.
    for name, exact in metrics["scores"]["utilities"].items():
        error = metrics["sampled"]["standard_errors"][name]
        assert 0 < error < 0.05
        assert abs(metrics["sampled"]["utilities"][name] - exact) < 4 * error
    rates = metrics["scores"]["win_rates"]["reference"]
    assert rates["few"] > 0.5
    table = pq.read_table(finished / runs.POLICY).to_pydict()
    assert_allclose(np.reshape(table["probability"], (2, 3)).sum(axis=1), 1, rtol=1e-6)
    lines = (finished / runs.METRICS_LOG).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 10
    assert {"utility/few", "weight/few", "kl", "grad_norm"} <= set(json.loads(lines[0]))


def test_the_report_says_who_is_served_and_which_iterate(finished: Path) -> None:
    page = (finished / runs.REPORT).read_text(encoding="utf-8")
    for words in ("polynomial-decay average of its weights", "Who is served", "Win rates",
                  "Learning curves", "primal-dual gap"):  # fmt: skip
        assert words in page, words
    assert page.count("<svg") == 2
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)


def test_other_commands_refuse_a_policy_run(finished: Path, tmp_path: Path, capsys: Any) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"user_id": "u", "response": [1.0]}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    arguments = ["--run", str(finished), "--input", str(items), "--out", str(out)]
    assert score.main(arguments) == 2
    line = capsys.readouterr().err
    assert re.search(r"is a run of stage 'policy'; wanted one of 'reward'\n$", line)
    assert line.count("\n") == 1
    assert report.main([str(finished), "--out", str(tmp_path / "again.html")]) == 0


def test_scores_by_definition() -> None:
    """Utilities, KL and win rates in loops, against the vectorised ones."""
    problem = build_problem(load_record(CONFIG))
    policy = np.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
    other = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    scores = exact_scores(problem, policy, {"other": other}, 0.1)
    weights = [0.75, 0.25]
    for g, name in enumerate(problem.groups.names):
        utility = wins = 0.0
        for x in range(2):
            for y in range(3):
                utility += weights[x] * policy[x, y] * REWARDS[x][y][g]
                for z in range(3):
                    mine, theirs = REWARDS[x][y][g], REWARDS[x][z][g]
                    won = 1.0 if mine > theirs else 0.5 if mine == theirs else 0.0
                    wins += weights[x] * policy[x, y] * other[x, z] * won
        assert scores["utilities"][name] == pytest.approx(utility)
        assert scores["win_rates"]["other"][name] == pytest.approx(wins)
    kl = sum(
        weights[x] * policy[x, y] * np.log(3 * policy[x, y])
        for x in range(2)
        for y in range(3)
        if policy[x, y] > 0
    )
    assert scores["kl"] == pytest.approx(kl)
    assert scores["value"] == pytest.approx(min(scores["utilities"].values()) - 0.1 * kl)


def test_no_policy_is_worth_more_than_the_exact_one() -> None:
    problem = build_problem(load_record(CONFIG))
    found = optima(problem, 0.1, 0.75)
    value = {name: exact_scores(problem, p.policy, {}, 0.1)["value"] for name, p in found.items()}
    assert value["maxmin"] == max(value.values())
    random = np.random.default_rng(0)
    for noise in random.normal(size=(200, 2, 3)):
        policy = found["maxmin"].policy * np.exp(0.1 * noise)
        policy /= policy.sum(axis=1, keepdims=True)
        assert exact_scores(problem, policy, {}, 0.1)["value"] <= value["maxmin"] + 1e-9


# The second group is the worse served one, more so at the first prompt.
UNEVEN = np.array([[[1.0, 0.0], [0.0, 0.4], [0.4, 0.2]], [[0.2, 0.5], [0.8, 0.1], [0.5, 0.4]]])


def least_dual(rewards: Any, weights: Any, *, cap: float = 1.0) -> tuple[float, Any]:
    """min_q Σ_x w_x β log E_ref exp(q·r / β) over two groups' weights up to a cap, by search.

    Returns:
        It, and the policy there.
    """

    def dual(first: float) -> float:
        return sum(
            weight * 0.1 * np.log(np.mean(np.exp(row @ [first, 1 - first] / 0.1)))
            for weight, row in zip(weights, rewards, strict=True)
        )

    found = minimize_scalar(dual, bounds=(1 - cap, cap), method="bounded", options={"xatol": 1e-9})
    tilts = np.exp(rewards @ [found.x, 1 - found.x] / 0.1)
    return found.fun, tilts / tilts.sum(axis=1, keepdims=True)


def test_each_optimum_is_its_own() -> None:
    """MaxMin, CVaR and MaxMin prompt by prompt are apart, and worth what their duals are."""
    weights = [0.75, 0.25]
    rewards = {"name": "table", "rewards": UNEVEN.tolist(), "prompt_weights": weights}
    problem = build_problem(load_record(CONFIG | {"rewards": rewards}))
    found = optima(problem, 0.1, 0.75)
    wanted = {
        "maxmin": least_dual(UNEVEN, weights),
        "cvar": least_dual(UNEVEN, weights, cap=1 / (0.75 * 2)),
    }
    alone = [least_dual(UNEVEN[x : x + 1], [1.0]) for x in range(2)]
    wanted["maxmin_per_prompt"] = (
        sum(weight * value for weight, (value, _) in zip(weights, alone, strict=True)),
        np.concatenate([policy for _, policy in alone]),
    )

    def worst(utilities: Any, cap: float) -> float:
        low, high = sorted(utilities)
        return cap * low + (1 - cap) * high

    for name, (dual, policy) in wanted.items():
        assert_allclose(found[name].policy, policy, atol=1e-5)
        utilities = np.einsum("xy,xyg->xg", found[name].policy, UNEVEN)
        kl = (found[name].policy * np.log(3 * found[name].policy)).sum(axis=1)
        primal = {
            "maxmin": worst(weights @ utilities, 1.0),
            "cvar": worst(weights @ utilities, 1 / (0.75 * 2)),
            "maxmin_per_prompt": weights @ utilities.min(axis=1),
        }[name] - 0.1 * (weights @ kl)
        assert primal == pytest.approx(dual, abs=1e-7)
    for left, right in itertools.combinations(wanted, 2):
        assert np.abs(found[left].policy - found[right].policy).sum(axis=1).max() > 0.1


def test_sampled_scores_err_as_far_as_they_say() -> None:
    """Standard errors by definition, of prompts with unequal weights, within their own noise."""
    problem, samples = build_problem(load_record(CONFIG)), 20_000
    params = problem.policy.init(jax.random.key(0))
    found = sampled_scores(problem, params, jax.random.key(1), samples, 0.1)
    for g, name in enumerate(problem.groups.names):
        variances = np.var(REWARDS, axis=1)[:, g]  # under the even reference
        expected = np.sqrt(0.75**2 * variances[0] / samples + 0.25**2 * variances[1] / samples)
        assert found["standard_errors"][name] == pytest.approx(expected, rel=0.02)


def load_record(record: Any) -> Any:
    from paljax.config import parse

    return parse(record, where="test")


def assert_equal_runs(killed: Path, straight: Path) -> None:
    for name in (runs.METRICS_LOG, runs.CONFIG):
        assert (killed / name).read_bytes() == (straight / name).read_bytes(), name
    assert pq.read_table(killed / runs.POLICY).equals(pq.read_table(straight / runs.POLICY))
    left, right = metrics_of(killed), metrics_of(straight)
    assert left.pop("timing").keys() == right.pop("timing").keys()
    assert left == right


def survives(moments: Callable[[int], list[killing.Moment]], folder: Path) -> None:
    config, cache = write(folder), folder / "cache"
    straight, killed = (killing.Run(config, folder / name, cache) for name in ("a", "b"))
    killing.assert_survives(straight, killed, moments, assert_equal_runs)


def test_a_killed_run_ends_as_the_straight_run(tmp_path: Path) -> None:
    survives(lambda in_all: [AfterEpochs(3, 0.0), AfterEpochs(7, 0.0), InWrite(0)], tmp_path)


@pytest.mark.slow
def test_a_run_killed_all_the_time_ends_as_the_straight_run(tmp_path: Path) -> None:
    """Wherever it hits: in steps, in writes, while it starts or is scored."""
    survives(partial(killing.at_random, count=10), tmp_path)


def test_a_second_run_on_the_directory_refuses(tmp_path: Path, capsys: Any) -> None:
    config = str(write(tmp_path))
    with held(tmp_path / "run"):
        before = sorted((tmp_path / "run").iterdir())
        assert train.main(["--config", config, "--run-dir", str(tmp_path / "run")]) == 2
        assert sorted((tmp_path / "run").iterdir()) == before
    assert re.fullmatch(r".*is running there; wait for it.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("objective", ["utilitarian", "majority", "single"])
def test_one_group_is_enough_for_what_is_not_between_groups(objective: str, tmp_path: Path) -> None:
    config = write(
        tmp_path,
        rewards={"name": "table", "rewards": [[[1.0], [0.0]]]},
        groups={},
        objective={"name": objective},
        training={"epochs": 2, "steps_per_epoch": 100},
        rollouts=None,
    )
    assert train.main(["--config", str(config), "--run-dir", str(tmp_path / "run")]) == 0
    metrics = metrics_of(tmp_path / "run")
    assert metrics["groups"]["names"] == ["group 0"]
    best = metrics["comparisons"]["utilitarian"]
    # The policy that one reward asks for is in closed form: β log E_ref exp(r / β).
    assert best["value"] == pytest.approx(0.1 * np.log((np.exp(10) + 1) / 2), rel=1e-6)
    assert best["value"] - 0.02 < metrics["scores"]["value"] <= best["value"] + 1e-9


def files_of(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()
    }


OTHERS = {
    "opposite rewards": {"rewards": (-np.array(REWARDS)).tolist()},
    "another action": {"rewards": np.pad(REWARDS, [(0, 0), (0, 1), (0, 0)]).tolist()},
    "another reference": {"reference": [[0.5, 0.3, 0.2]] * 2},
    "other weights of prompts": {"prompt_weights": [0.25, 0.75]},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_run_goes_on_with_the_rewards_it_began_with_or_not_at_all(
    other: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    rewards, run = tmp_path / "r.json", tmp_path / "run"
    record = {"rewards": REWARDS, "prompt_weights": [0.75, 0.25]}
    rewards.write_text(json.dumps(record), encoding="utf-8")
    changes = from_file(str(rewards)) | {
        "rollouts": None,
        "training": {"epochs": 3, "steps_per_epoch": 2, "checkpoint_every": 1},
    }
    command = ["--config", str(write(tmp_path, **changes)), "--run-dir", str(run)]
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "noticed", lambda: contextlib.nullcontext(lambda: True))
        assert train.main(command) == 0
    assert not (run / runs.METRICS).exists()
    before = files_of(run)
    rewards.write_text(json.dumps(record | OTHERS[other]), encoding="utf-8")
    capsys.readouterr()
    assert train.main(command) == 2
    assert capsys.readouterr().err == (
        f"paljax.train: {run / runs.INPUTS}: what rewards.path names is not what the run began "
        "with; choose another --run-dir\n"
    )
    assert files_of(run) == before
    # Written anew, with the same numbers, they are the same rewards.
    rewards.write_text(json.dumps(record, indent=1), encoding="utf-8")
    (run / runs.INPUTS).rename(tmp_path / "inputs")
    assert train.main(command) == 2
    assert "holds a run that did not record what it reads" in capsys.readouterr().err
    (tmp_path / "inputs").rename(run / runs.INPUTS)
    assert train.main(command) == 0


class Case(NamedTuple):
    kind: str
    changes: dict[str, Any]
    line: str
    content: Callable[[Path], None] | None = None  # writes rewards.json, .npz or .parquet


def table(rewards: Any, **others: Any) -> dict[str, Any]:
    return {"rewards": {"name": "table", "rewards": rewards} | others}


def from_file(name: str) -> dict[str, Any]:
    return {"rewards": {"name": "file", "path": name}}


def as_json(record: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / "r.json").write_text(json.dumps(record), encoding="utf-8")


def as_npz(**arrays: Any) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / "r.npz", **arrays)


def as_parquet(**columns: Any) -> Callable[[Path], None]:
    return lambda folder: pq.write_table(pa.table(columns), folder / "r.parquet")


def as_npy_named_npz(folder: Path) -> None:
    with (folder / "r.npz").open("wb") as file:
        np.save(file, np.array(REWARDS))


def as_cut_npz(folder: Path) -> None:
    np.savez(folder / "r.npz", rewards=np.array(REWARDS))
    whole = (folder / "r.npz").read_bytes()
    (folder / "r.npz").write_bytes(whole[: len(whole) // 2])


def of_two(**columns: Any) -> Callable[[Path], None]:
    """A Parquet file of one prompt with two actions, some columns of it others."""
    right = {"prompt": [0, 0], "action": [0, 1], "rewards": [[1.0, 0.0], [0.0, 1.0]]}
    return as_parquet(**(right | columns))


NAMELESS = {"names": None, "shares": None}
BROKEN = np.array(REWARDS)
BROKEN[1, 2, 0] = np.nan
CASES = [
    Case("one reward", table([[[1.0], [0.0]]]) | {"groups": NAMELESS},
         r"groups: there is 1 group \(K = 1 rewards\); 'maxmin' is between two or more"),
    Case("CVaR of one group",
         table([[[1.0], [0.0]]]) | {"groups": NAMELESS, "objective": {"name": "cvar"}},
         r"groups: there is 1 group .*; 'cvar' is between two or more"),
    Case("a group without users", {"groups": {"shares": [1.0, 0.0]}},
         r"groups: 'group 1' has no users \(its share of the population is 0\)"),
    Case("a group that wants nothing", {"groups": {"matrix": [[1, 0], [0, 0]]}},
         r"'group 1' has no users \(its row of the matrix is 0\)"),
    Case("constant reward", table([[[1.0, 2.0], [0.0, 2.0]]]),
         r"reward 1 is the same for all actions"),
    Case("NaN", from_file("r.npz"), r"r\.npz: rewards\[1\]\[2\]\[0\] is nan",
         as_npz(rewards=BROKEN)),
    Case("beta of 0", {"beta": 0}, r"beta: 0 is wrong: .*greater than 0"),
    Case("negative beta", {"beta": -1.0}, r"beta: -1\.0 is wrong: .*greater than 0"),
    Case("alpha above 1", {"objective": {"name": "cvar", "alpha": 1.5}},
         r"objective\.alpha: 1\.5 is wrong: .*less than or equal to 1"),
    Case("no such group", {"objective": {"name": "single", "group": 2}},
         r"objective: there is no group 2; the last of 2 is 1"),
    Case("unknown objective", {"objective": {"name": "maxmim"}},
         r"objective\.name: unknown 'maxmim'; did you mean 'maxmin'"),
    Case("unknown rule of weights", {"group_weights": {"name": "softmax"}},
         r"group_weights\.name: unknown 'softmax'; did you mean 'softmin'"),
    Case("unknown stage", {"stage": "polcy"}, r"stage: 'polcy' .*did you mean 'policy'"),
    Case("one response", {"rollouts": {"samples": 1}},
         r"rollouts\.samples: 1 .*greater than or equal to 2"),
    Case("ragged table", table([[[1.0, 0.0], [0.0]]]), r"wanted numbers \[prompts\]\[actions\]"),
    Case("one action", table([[[1.0, 0.0]]]), r"1 action leaves nothing to choose"),
    Case("reference of another shape", table(REWARDS, reference=[[0.5, 0.5]]),
         r"reference has shape \[1, 2\]; the rewards want \[2, 3\]"),
    Case("reference that is none", table(REWARDS, reference=[[0.5, 0.5, 0.5]] * 2),
         r"reference: wanted probabilities >= 0 that sum to 1"),
    Case("negative weights of prompts", table(REWARDS, prompt_weights=[1.5, -0.5]),
         r"prompt_weights: wanted probabilities"),
    Case("matrix of another width", {"groups": {"matrix": [[1, 0, 0], [0, 1, 0]]}},
         r"groups\.matrix has shape \[2, 3\]; wanted a column for each of the 2 rewards"),
    Case("ragged matrix", {"groups": {"matrix": [[1, 0], [1]]}}, r"groups\.matrix: .*unequal"),
    Case("names of others", {"groups": {"names": ["a", "b", "c"]}},
         r"groups\.names: 3 given for 2 groups"),
    Case("a name twice", {"groups": {"names": ["a", "a"]}}, r"groups\.names: a name .*twice"),
    Case("sequences for a table", {"policy": {"name": "tabular_autoregressive"}},
         r"policy\.name: 'tabular_autoregressive' does not go with .*did you mean 'categorical'"),
    Case("unknown letter", {
        "policy": {"name": "tabular_autoregressive"},
        "rewards": {"name": "sequences", "rewards": [{"counts": {"c": 1}}, {"constant": 1}]}},
         r"rewards\.rewards\.0\.counts: no letter 'c'; choose one of 'a', 'b'"),
    Case("sequences without end", {
        "policy": {"name": "tabular_autoregressive", "length": 40},
        "rewards": {"name": "sequences", "rewards": [{"counts": {"a": 1}}]}},
         r"policy\.length: 2 letters make more than 200,000 sequences of 40 tokens"),
    Case("no file", from_file("none.json"), r"none\.json: no such file"),
    Case("unknown file", from_file("r.csv"), r"r\.csv: unknown kind of rewards '\.csv'"),
    Case("file without rewards", from_file("r.json"), r"r\.json: the array 'rewards' is missing",
         as_json({"reference": [[1.0]]})),
    Case("file with another key", from_file("r.json"),
         r"r\.json: unknown array 'reward'; did you mean 'rewards'", as_json({"reward": REWARDS})),
    Case("file with wrong shapes", from_file("r.json"), r"r\.json: rewards has shape \[2, 3\]",
         as_json({"rewards": [[1, 2, 3], [1, 2, 3]]})),
    Case("damaged npz", from_file("r.npz"), r"r\.npz: damaged",
         lambda folder: (folder / "r.npz").write_bytes(b"PK\x03\x04half") and None),
    Case("pickles are not read", from_file("r.npz"), r"r\.npz: damaged: .*allow_pickle",
         as_npz(rewards=np.array([{}], object))),
    Case("parquet with a row missing", from_file("r.parquet"),
         r"r\.parquet: 3 rows; 2 prompts of 2 actions want 4",
         as_parquet(prompt=[0, 0, 1], action=[0, 1, 0], rewards=[[1.0, 0], [0, 1.0], [1.0, 1.0]])),
    Case("parquet with a row twice", from_file("r.parquet"), r"wants one row, numbered from 0",
         as_parquet(prompt=[0, 0], action=[0, 0], rewards=[[1.0, 0], [0, 1.0]])),
    Case("a table that is named npz", from_file("r.npz"),
         r"r\.npz: holds one array; wanted an archive of arrays", as_npy_named_npz),
    Case("an empty npz", from_file("r.npz"), r"r\.npz: damaged: ",
         lambda folder: (folder / "r.npz").touch()),
    Case("an npz that is cut", from_file("r.npz"), r"r\.npz: damaged: ", as_cut_npz),
    Case("an npz that is a pickle", from_file("r.npz"), r"r\.npz: damaged: ",
         lambda folder: (folder / "r.npz").write_bytes(pickle.dumps(REWARDS)) and None),
    Case("npz of text", from_file("r.npz"), r"r\.npz: rewards: wanted numbers",
         as_npz(rewards=np.full((1, 2, 2), "a"))),
    Case("json of text", from_file("r.json"), r"r\.json: rewards: wanted numbers",
         as_json({"rewards": [[["a", "b"], ["c", "d"]]]})),
    Case("json of numbers beyond floats", from_file("r.json"), r"r\.json: rewards: wanted numbers",
         as_json({"rewards": [[[10**400, 0], [0, 1]]]})),
    Case("json that is deep", from_file("r.json"), r"r\.json: damaged: ",
         lambda folder: (folder / "r.json").write_text("[" * 100_000) and None),
    Case("parquet of prompts between numbers", from_file("r.parquet"),
         r"r\.parquet: prompt: 0\.5 is no whole number from 0", of_two(prompt=[0.5, 0.2])),
    Case("parquet of actions between numbers", from_file("r.parquet"),
         r"r\.parquet: action: 1\.5 is no whole number from 0", of_two(action=[0.0, 1.5])),
    Case("parquet without a prompt", from_file("r.parquet"),
         r"r\.parquet: prompt: None is no whole number from 0", of_two(prompt=[0, None])),
    Case("parquet of prompts that are text", from_file("r.parquet"),
         r"r\.parquet: prompt: '0' is no whole number from 0", of_two(prompt=["0", "b"])),
    Case("parquet of negative actions", from_file("r.parquet"),
         r"r\.parquet: action: -1 is no whole number from 0", of_two(action=[0, -1])),
    Case("parquet of a huge action", from_file("r.parquet"),
         r"r\.parquet: 2 rows; 1 prompts of 1000000000000 actions want",
         of_two(action=[0, 10**12 - 1])),
    Case("parquet of times as actions", from_file("r.parquet"),
         r"r\.parquet: action: datetime.* is no whole number from 0",
         of_two(action=[datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)])),
    Case("parquet with a reference of text", from_file("r.parquet"),
         r"r\.parquet: reference: wanted a finite number in every row",
         of_two(reference=["half", "half"])),
    Case("parquet with a reference that is missing", from_file("r.parquet"),
         r"r\.parquet: reference: wanted a finite number in every row",
         of_two(reference=[0.5, None])),
    Case("parquet with weights of text", from_file("r.parquet"),
         r"r\.parquet: prompt_weight: wanted a finite number",
         of_two(prompt_weight=["one", "one"])),
    Case("parquet with weights that contradict", from_file("r.parquet"),
         r"r\.parquet: prompt_weight: prompt 0 has 1\.0 at action 0 and 0\.9 at action 1",
         of_two(prompt_weight=[1.0, 0.9])),
    Case("parquet with rewards of text", from_file("r.parquet"),
         r"r\.parquet: rewards: wanted numbers", of_two(rewards=["a", "b"])),
    Case("parquet with rewards that are numbers", from_file("r.parquet"),
         r"r\.parquet: rewards has shape \[1, 2\]; wanted \[prompts\]\[actions\]\[rewards\]",
         of_two(rewards=[1.0, 0.0])),
    Case("parquet with ragged rewards", from_file("r.parquet"),
         r"r\.parquet: rewards: wanted numbers .*every list of one length",
         of_two(rewards=[[1.0], [0.0, 1.0]])),
    Case("parquet without rows", from_file("r.parquet"), r"r\.parquet: 0 rows",
         as_parquet(prompt=pa.array([], pa.int32()), action=pa.array([], pa.int32()),
                    rewards=pa.array([], pa.list_(pa.float64())))),
    Case("parquet without a column", from_file("r.parquet"), r"the column 'action' is missing",
         as_parquet(prompt=[0, 0], rewards=[[1.0, 0], [0, 1.0]])),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_one_line_and_nothing_written(
    case: Case, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    if case.content is not None:
        case.content(tmp_path)
    config = write(tmp_path, **case.changes)
    before = sorted(tmp_path.rglob("*"))
    assert train.main(["--config", str(config), "--run-dir", "new"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert re.search(case.line, line), line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", ["json", "npz", "parquet"])
def test_files_hold_what_a_table_holds(suffix: str, tmp_path: Path) -> None:
    reference = [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]
    arrays = {"rewards": REWARDS, "reference": reference, "prompt_weights": [0.75, 0.25]}
    writers = {
        "json": as_json(arrays),
        "npz": as_npz(**arrays),
        "parquet": as_parquet(
            prompt=[1, 1, 1, 0, 0, 0],
            action=[0, 1, 2, 0, 1, 2],
            rewards=REWARDS[1] + REWARDS[0],
            reference=reference[1] + reference[0],
            prompt_weight=[0.25] * 3 + [0.75] * 3,
        ),
    }
    writers[suffix](tmp_path)
    changes = from_file(str(tmp_path / f"r.{suffix}"))
    problem = build_problem(load(write(tmp_path, **changes)))
    assert_allclose(problem.tables.rewards, REWARDS)
    assert_allclose(np.exp(problem.tables.log_reference), reference)
    assert_allclose(problem.prompt_weights, [0.75, 0.25])
