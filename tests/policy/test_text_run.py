"""Whole runs of a language model on learned rewards: results, resume, lock, and what is wrong."""

import dataclasses
import html
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from paljax import locking, runs, stopping, train
from paljax.config import load
from paljax.networks import causal_lm as decoder
from paljax.networks import huggingface, lora
from paljax.policy.group_rewards import group_rewards
from paljax.policy.tasks import policy_task
from paljax.policy.text_problems import text_problem
from paljax.policy.text_results import distinct, text_scores, win_rate
from paljax.reward.trained_model import load_model
from tests import tiny_language_model
from tests.tiny_language_model import WORDS

pytestmark = pytest.mark.usefixtures("quick_compilation")
T = 6
REWARD = {
    "data": {"name": "file", "path": "votes.jsonl"},
    "encoder": [{"name": "causal_lm", "model": "tiny", "pooling": "sum"}],
    "model": {"name": "reward_mixture", "num_prototypes": 2, "hidden_layers": 0},
    "learner": {"name": "em", "starts": 3},
    "training": {"epochs": 30, "batch_size": 32, "patience": None},
    "optimizer": {"learning_rate": {"networks": 0.1}},
    "selection": {"personalize": "always", "prior_strength": [1.0], "refit": False},
    "evaluation": {"shots": [0], "resamples": 100},
}
POLICY = {
    "stage": "policy",
    "seed": 3,
    "rewards": {"name": "run", "run": "reward", "calibration": 4},
    "prompts": {"path": "prompts.jsonl", "held_out": 0.4},
    "policy": {"name": "causal_lm", "model": "tiny", "max_new_tokens": T},
    "beta": 0.5,
    "rollouts": {"samples": 4},
    "optimizer": {"learning_rate": 0.003, "schedule": "constant"},
    "training": {
        "epochs": 4, "steps_per_epoch": 3, "prompts_per_batch": 3, "checkpoint_every": 1
    },
    "evaluation": {"iterate": "last", "samples": 4, "functions": ["concise"]},
}  # fmt: skip
LORA = {"policy": POLICY["policy"] | {"lora": {"rank": 2, "targets": ["query", "down"]}}}


def votes() -> list[dict[str, str]]:
    """Ten people who like the sun, and six who like the rain."""
    random = np.random.default_rng(1)
    rows = []
    for user in range(16):
        liked, other = ("sun", "rain") if user < 10 else ("rain", "sun")
        for _ in range(10):
            rest = [" ".join(random.choice(WORDS[2:], 3)) for _ in range(2)]
            row = {"user_id": f"user {user}", "group": liked}
            rows.append(row | {"chosen": f"{rest[0]} {liked}", "rejected": f"{other} {rest[1]}"})
    return rows


def write_lines(path: Path, records: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")


def run(config: Any, run_dir: str, folder: Path) -> int:
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    return train.main(["--config", str(folder / "config.yaml"), "--run-dir", run_dir])


@pytest.fixture(scope="module")
def begun(tmp_path_factory: Any, quick_compilation: None) -> Path:
    """A model, prompts, and a finished reward run."""
    folder = tmp_path_factory.mktemp("texts")
    tiny_language_model.write(folder / "tiny")
    write_lines(folder / "votes.jsonl", votes())
    prompts = ["the cat", "a dog", "the big dog ran", "a cat saw", "small dog"]
    write_lines(folder / "prompts.jsonl", [{"prompt": text} for text in prompts])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PALJAX_DATA_DIR", str(folder / "data"))
        assert run(REWARD, "reward", folder) == 0
        assert run(POLICY, "straight", folder) == 0
    return folder


def configured(folder: Path, **changes: Any) -> Any:
    (folder / "config.yaml").write_text(json.dumps(POLICY | changes), encoding="utf-8")
    return load(folder / "config.yaml")


def test_a_run_scores_fresh_responses_to_held_out_prompts(folder: Path) -> None:
    metrics = json.loads((folder / "straight" / runs.METRICS).read_text())
    assert metrics["problem"] == {"prompts": 3, "held-out prompts": 2, "rewards": 2}
    assert sum(metrics["groups"]["shares"]) == pytest.approx(1)
    reference = metrics["comparisons"]["reference"]
    # Centred on the reference's own responses.
    assert list(reference["utilities"].values()) == pytest.approx([0, 0], abs=1e-5)
    assert reference["kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["scores"]["minimum"] == min(metrics["scores"]["utilities"].values())
    table = pq.read_table(folder / "straight" / runs.SAMPLES).to_pydict()
    assert table["policy"] == ["policy"] * 8 + ["reference"] * 8
    assert len(set(table["prompt"])) == 2
    concise = metrics["texts"]["functions"]["concise"]
    assert concise["mean"] == pytest.approx(np.mean(table["concise"][:8]))
    assert table["concise"] == [-len(text.split()) for text in table["response"]]
    page = (folder / "straight" / runs.REPORT).read_text()
    for words in ("What it writes", "Distinct-2", "nobody has chosen them", "concise"):
        assert words in page, words
    assert "exact" not in page.split("The numbers")[1].split("Win rates")[0]


def test_a_run_that_was_stopped_ends_as_the_straight_run(folder: Path, monkeypatch: Any) -> None:
    asked = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "noticed", lambda: _Noticed(lambda: next(asked)))
        assert run(POLICY, "stopped", folder) == 0
    assert not (folder / "stopped" / runs.METRICS).exists()
    assert run(POLICY, "stopped", folder) == 0
    for name in (runs.METRICS_LOG, runs.CONFIG):
        left, right = (folder / each / name for each in ("stopped", "straight"))
        assert left.read_bytes() == right.read_bytes(), name
    left, right = (pq.read_table(folder / each / runs.SAMPLES) for each in ("stopped", "straight"))
    assert left.equals(right)


def other_prompts(folder: Path) -> None:
    path = folder / "prompts.jsonl"
    path.write_text(path.read_text().replace("a dog", "big cat"), encoding="utf-8")


def other_weights(folder: Path) -> None:
    path = folder / "reward" / runs.USERS
    table = pq.read_table(path).to_pydict()
    table["weights"] = [row[::-1] for row in table["weights"]]
    pq.write_table(pa.table(table), path)


def other_model(folder: Path) -> None:
    path = folder / "tiny" / "model.safetensors"
    arrays = load_file(path)
    name = next(iter(arrays))
    save_file(arrays | {name: -arrays[name]}, path)


@pytest.mark.parametrize(
    ("change", "key", "rewards"),
    [
        (other_prompts, "prompts.path", POLICY["rewards"]),
        (other_weights, "rewards.run", POLICY["rewards"]),
        (other_model, "policy.model", {"name": "functions", "functions": ["concise", "positive"]}),
    ],
)
def test_a_run_goes_on_with_what_it_began_with_or_not_at_all(
    change: Any, key: str, rewards: Any, folder: Path, capsys: Any, monkeypatch: Any
) -> None:
    config = POLICY | {"rewards": rewards}
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "noticed", lambda: _Noticed(lambda: True))
        assert run(config, "stopped", folder) == 0
    change(folder)
    before = {path: path.read_bytes() for path in Path("stopped").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(config, "stopped", folder) == 2
    assert capsys.readouterr().err == (
        f"paljax.train: stopped/{runs.INPUTS}: what {key} names is not what the run began with; "
        "choose another --run-dir\n"
    )
    assert before == {
        path: path.read_bytes() for path in Path("stopped").rglob("*") if path.is_file()
    }


class _Noticed(NamedTuple):
    ask: Any

    def __enter__(self) -> Any:
        return self.ask

    def __exit__(self, *_: Any) -> None:
        pass


def test_a_directory_that_is_in_use_is_refused(folder: Path, capsys: Any) -> None:
    with locking.held(folder / "mine"):
        assert run(POLICY, "mine", folder) == 2
    assert re.search(r"mine: process \d+ on .* is running there", capsys.readouterr().err)


def test_rewards_of_drawn_tokens_are_those_of_their_text(folder: Path) -> None:
    problem = text_problem(configured(folder))
    texts = ["sun happy the", "rain", "a small cat ran sun"]
    ids = [[WORDS.index(word) + 3 for word in text.split()] for text in texts]
    tokens, mask = np.zeros((1, 3, T), np.int32), np.zeros((1, 3, T), bool)
    for place, row in enumerate(ids):
        # The end token closes a response, and is no part of its text.
        tokens[0, place, : len(row) + 1] = [*row, 2]
        mask[0, place, : len(row) + 1] = True
    prompts = problem.take(problem.prompts, jnp.array([1]))
    rewards = np.asarray(problem.texts.rewards(prompts, jnp.asarray(tokens), jnp.asarray(mask)))
    groups = group_rewards(load_model(folder / "reward"))
    np.testing.assert_allclose(rewards[0], groups(tuple(texts)), rtol=2e-4, atol=2e-4)
    # Normalised: centred at the prompt, and one scale a column.
    normal = problem.rewards.of_responses(prompts, jnp.asarray(tokens), jnp.asarray(mask))
    calibration = prompts.calibration
    expected = (rewards[0] - np.asarray(calibration.center)) / np.asarray(calibration.scale)
    np.testing.assert_allclose(normal[0], expected, atol=1e-5)


def test_groups_weigh_rewards_before_they_are_measured(folder: Path) -> None:
    matrix = np.array([[1.0, 0.0], [0.25, 0.75], [2.0, -1.0]])
    problem = text_problem(configured(folder, groups={"matrix": matrix.tolist()}))
    prompts = problem.take(problem.prompts, jnp.array([2, 0]))
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 3 + len(WORDS), (2, 4, T)))
    mask = jnp.ones(tokens.shape, bool)
    plain = text_problem(configured(folder)).texts.rewards(prompts, tokens, mask)
    weighed = np.asarray(problem.texts.rewards(prompts, tokens, mask))
    np.testing.assert_allclose(weighed, plain @ matrix.T, rtol=1e-4, atol=1e-4)
    center, scale = (np.asarray(part) for part in prompts.calibration[:2])
    assert (center.shape, scale.shape) == ((2, 3), (3,))
    normal = problem.rewards.of_responses(prompts, tokens, mask)
    np.testing.assert_allclose(normal, (weighed - center[:, None]) / scale, atol=1e-4)


def test_a_policy_is_measured_on_what_it_says_itself(folder: Path) -> None:
    """Whatever it explores with: calibration, scores and texts of one state are the same."""
    config = configured(folder)
    plain = text_problem(config)
    sharp_config = configured(folder, **policy(temperature=0.2, top_k=2, top_p=0.9))
    sharp = text_problem(sharp_config)
    for left, right in zip(plain.prompts.calibration, sharp.prompts.calibration, strict=True):
        np.testing.assert_array_equal(left, right)
    params, key = jax.jit(plain.policy.init)(jax.random.key(1)), jax.random.key(2)
    scored = text_scores(config, plain, params, key)
    again = text_scores(sharp_config, sharp, params, key)
    assert again.scores == scored.scores
    assert again.table.columns["response"] == scored.table.columns["response"]
    # It does explore so: more than two tokens follow a prompt, of which it draws but two.
    first = [
        {int(token) for token in problem.policy.sample(params, key, part, 64).tokens[0, :, 0]}
        for problem in (plain, sharp)
        for part in [problem.take(problem.prompts, jnp.array([0]))]
    ]
    assert len(first[1]) <= 2 < len(first[0])


def test_with_lora_only_low_rank_parts_are_learned_and_kept(folder: Path) -> None:
    config = configured(folder, **LORA)
    problem = text_problem(config)
    task = policy_task(config, problem)
    state = jax.jit(task.learner.init)(jax.random.key(0))
    names = {path[-1].key for path, _ in jax.tree_util.tree_flatten_with_path(state.params)[0]}
    assert names == {"lora_a", "lora_b", "lora_scale"}
    rows, weights = (jnp.asarray(each[0]) for each in task.epoch_batches(0))
    step = jax.jit(lambda state, table: task.learner.step(
        state, task.to_batch(table, (rows, weights))))  # fmt: skip
    moved, metrics = step(state, task.tables)
    # At the start a low-rank part changes nothing: the policy is its reference.
    assert metrics["kl"] == pytest.approx(0, abs=1e-5)
    layer = moved.params["layers"]["query"]
    assert np.abs(layer["lora_b"]).max() > 0
    np.testing.assert_array_equal(layer["lora_scale"], 8.0)
    whole = lora.with_parts(task.tables.language_model, moved.params)
    assert whole["layers"].keys() == task.tables.language_model["layers"].keys()
    np.testing.assert_array_equal(lora.low_rank_parts(whole)["layers"]["query"]["lora_b"],
                                  layer["lora_b"])  # fmt: skip
    assert float(step(moved, task.tables)[1]["kl"]) != 0


def test_an_end_that_never_comes_is_told_and_the_run_goes_on(
    folder: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(stopping, "noticed", lambda: _Noticed(lambda: True))  # after an epoch
    capsys.readouterr()
    assert run(POLICY | policy(end_tokens=[]), "endless", folder) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "policy.end_tokens: none of 12 responses of the reference ends with one of [] within 6 "
        "tokens; all are cut there"
    )
    records = (folder / "endless" / runs.METRICS_LOG).read_text().splitlines()
    assert [json.loads(record)["length"] for record in records] == [T]


def test_what_a_person_should_know_is_in_the_metrics_and_in_the_report(folder: Path) -> None:
    changes = {
        "rewards": POLICY["rewards"] | {"least_people": 8},  # type: ignore[operator]
        "objective": {"name": "utilitarian"},  # of the one group that is left
        "training": POLICY["training"] | {"epochs": 1, "steps_per_epoch": 1},  # type: ignore[operator]
    }
    assert run(POLICY | changes | policy(end_tokens=[]), "remarked", folder) == 0
    remarks = json.loads((folder / "remarked" / runs.METRICS).read_text())["remarks"]
    page = html.unescape((folder / "remarked" / runs.REPORT).read_text())
    assert len(remarks) == 2
    assert re.fullmatch(
        r"left out, since fewer than 8 people have them: prototype [12]", remarks[0]
    )
    assert remarks[1].startswith("policy.end_tokens: none of 12 responses of the reference ends")
    for remark in remarks:
        assert remark in page.split("Remarks")[1].split("Who is served")[0]
    assert "Remarks" not in (folder / "straight" / runs.REPORT).read_text()


def test_one_reward_is_enough_for_the_single_reward_policy_alone(folder: Path, capsys: Any) -> None:
    shared = REWARD | {"model": {"name": "bradley_terry"}, "learner": {"name": "gradient"}}
    assert run(shared | {"training": {"epochs": 2}}, "shared", folder) == 0
    single = {"rewards": {"name": "run", "run": "shared"}, "objective": {"name": "utilitarian"}}
    problem = text_problem(configured(folder, **single))
    assert (len(problem.groups.names), problem.num_rewards) == (1, 1)
    capsys.readouterr()
    assert run(POLICY | {"rewards": single["rewards"]}, "new", folder) == 2
    assert capsys.readouterr().err == (
        "paljax.train: groups: there is 1 group (K = 1 rewards); 'maxmin' is between two or more\n"
    )
    assert not (folder / "new").exists()


def test_win_rates_and_distinct_n_by_definition() -> None:
    left, right = np.array([[1.0, 2.0], [0.0, 5.0]]), np.array([[1.0, 0.0, 3.0], [5.0, 5.0, 9.0]])
    # First prompt: 1 ties, wins, loses; 2 wins, wins, loses. Second: 0 loses; 5 ties, ties, loses.
    np.testing.assert_allclose(win_rate(left, right), [3.5 / 6, 1 / 6])
    assert distinct(["a b a", "a b"], 1) == 2 / 5
    assert distinct(["a b a", "a b"], 2) == 2 / 3
    assert distinct(["a"], 2) == 0


class Case(NamedTuple):
    kind: str
    changes: dict[str, Any]
    line: str
    prepare: Any = None


def policy(**changes: Any) -> dict[str, Any]:
    return {"policy": POLICY["policy"] | changes}


def prompts(text: str, name: str = "p.jsonl") -> dict[str, Any]:
    return {
        "changes": {"prompts": {"path": name}},
        "prepare": lambda folder: (folder / name).write_text(text, encoding="utf-8"),
    }


def other_words(folder: Path) -> None:
    more = tuple(f"more{number}" for number in range(9))
    tiny_language_model.write(folder / "wordy", words=WORDS + more)


def wider(folder: Path) -> None:
    sizes = dataclasses.replace(huggingface.load(folder / "tiny")[0], width=32)
    huggingface.save(folder / "wide", decoder.init(jax.random.key(0), sizes), sizes)
    shutil.copy(folder / "tiny" / "tokenizer.json", folder / "wide")


def with_tensors(folder: Path, drop: tuple[str, ...] = (), **added: Any) -> None:
    shutil.copytree(folder / "tiny", folder / "broken")
    path = folder / "broken" / "model.safetensors"
    held = {name: value for name, value in load_file(path).items() if name not in drop}
    save_file(held | added, path, metadata={"format": "pt"})


def without_scale(folder: Path) -> None:
    """A reward run whose inputs, and so its rewards, are not finite."""
    path = folder / "reward" / runs.MODEL
    record = json.loads(path.read_text())
    record["item_encoder"]["parts"]["causal_lm"]["scale"] = 0.0
    path.write_text(json.dumps(record))


CASES = [
    Case("a checkpoint without a tensor", policy(model="broken"),
         r"policy\.model: broken: missing 1 tensor \(norm\.weight\) of a llama model",
         partial(with_tensors, drop=("model.norm.weight",))),
    Case("a checkpoint with another tensor", policy(model="broken"),
         r"policy\.model: broken: 1 tensor \(extra\) too many for a llama model as configured",
         partial(with_tensors, extra=np.zeros(2, np.float32))),
    Case("rewards that are NaN", {}, r"reward 'prototype 1' is not finite",
         without_scale),
    Case("nobody has the groups",
         {"rewards": {"name": "run", "run": "reward", "least_people": 99}},
         r"rewards: least_people: 99 is wrong: the prototype that most people have, has \d+"),
    Case("empty file of prompts", line=r"p\.jsonl: there are no prompts in it", **prompts("\n")),
    Case("no file of prompts", {"prompts": {"path": "none.jsonl"}}, r"none\.jsonl: can't be read"),
    Case("prompts in a table", {"prompts": {"path": "p.csv"}},
         r"p\.csv: unknown kind of prompts '\.csv'; choose one of '\.jsonl', '\.txt'"),
    Case("prompt without its key", line=r"p\.jsonl: line 2: has no key 'prompt'",
         **prompts('{"prompt": "a"}\n{"text": "b"}\n')),
    Case("empty prompt", line=r"p\.jsonl: line 1: prompt is ' '", **prompts('{"prompt": " "}\n')),
    Case("all held out", line=r"prompts\.held_out: 0\.9 leaves none of 1 prompts",
         changes={"prompts": {"path": "p.txt", "held_out": 0.9}},
         prepare=lambda folder: (folder / "p.txt").write_text("the cat\n")),
    # Held out or trained on, and whatever the order that prompts are mixed to.
    *(Case(f"prompt longer than the context in line {number}",
           line=rf"p\.jsonl: line {number} has 51 tokens; with 6 new ones .* context of 48",
           **prompts("".join(
               ["\n" if place == 2 else json.dumps({"prompt": f"word{place} " +
                "a " * (49 if place == number else 1)}) + "\n" for place in range(1, 8)])))
      for number in (1, 3, 7)),
    Case("prompt longer than the context in a list of texts",
         line=r"p\.txt: line 3 has 51 tokens; with 6 new ones that is more than the model's "
         r"context of 48", **prompts("the cat\nthe cat\n" + "a " * 50 + "\na dog\n", "p.txt")),
    Case("no room for new tokens", policy(max_new_tokens=60), r"has \d tokens; with 60 new ones"),
    Case("vocabulary that does not fit", policy(model="wordy"),
         r"policy\.model: wordy: its tokenizer has 46 tokens, the model's vocabulary has 37",
         other_words),
    Case("reward run of another width", policy(model="wide"),
         r"rewards\.run: reward reads embeddings of width 24, the policy's .* has width 32", wider),
    Case("reward run of another model", policy(model="other"),
         r"rewards\.run: reward was trained on states of tiny, whose files are not those",
         lambda folder: tiny_language_model.write(folder / "other", scale=0.5)),
    Case("no reward run", {"rewards": {"name": "run", "run": "nowhere"}},
         r"nowhere: no such run directory"),
    Case("a policy run for rewards", {"rewards": {"name": "run", "run": "straight"}},
         r"straight: is a run of stage 'policy'"),
    Case("one group", {"groups": {"matrix": [[0.5, 0.5]]}}, r"groups: there is 1 group"),
    Case("end token outside the vocabulary", policy(end_tokens=[37]),
         r"policy: tiny: end token 37 is not in the model's vocabulary of 37"),
    Case("LoRA of a layer that there is not",
         policy(lora={"targets": ["querry"]}), r"no linear layer 'querry'; did you mean 'query'"),
    Case("rank too large", policy(lora={"rank": 99}), r"rank: 99 does not fit layer 'query'"),
    Case("no such model", policy(model="nowhere"), r"policy\.model: nowhere: no such folder"),
    Case("unknown function", {"evaluation": {"functions": ["positiv"]}},
         r"evaluation\.functions: 'positiv' is not known; did you mean 'positive'"),
    Case("no prompts", {"prompts": None}, r"key 'prompts' is missing"),
    Case("exact expectations of texts", {"rollouts": None}, r"rollouts: null is for actions"),
    Case("the average of policies of texts", {"evaluation": {"iterate": "average_policy"}},
         r"evaluation\.iterate: 'average_policy' is for actions"),
    Case("rewards of texts for a table", {"policy": {"name": "categorical"}, "prompts": None},
         r"policy\.name: 'categorical' does not go with .* did you mean 'causal_lm'"),
    Case("several hosts", {"parallel": {"processes": {"name": "environment"}}},
         r"parallel\.processes: a policy runs in one process, on the devices of one host"),
    Case("a top p above 1", policy(top_p=1.5), r"policy\.top_p: 1\.5 is wrong"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_one_line_and_nothing_written(case: Case, folder: Path, capsys: Any) -> None:
    if case.prepare is not None:
        case.prepare(folder)
    (folder / "config.yaml").write_text(json.dumps(POLICY | case.changes), encoding="utf-8")
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert train.main(["--config", "config.yaml", "--run-dir", "new"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert re.search(case.line, line), line
    assert sorted(folder.rglob("*")) == before
