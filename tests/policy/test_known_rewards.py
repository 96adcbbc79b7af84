"""Policies of texts on known functions, without a reward run."""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from paljax import runs, text_functions, train
from paljax.config import parse
from paljax.data.encoders import causal_lm
from paljax.policy.decoding import Decoder
from paljax.policy.known_rewards import of_functions
from paljax.policy.text_problems import text_problem
from paljax.text_functions import TEXT_FUNCTIONS
from tests import tiny_language_model
from tests.tiny_language_model import WORDS

pytestmark = pytest.mark.usefixtures("quick_compilation")
PEOPLE = ["positive", "concise"]
POLICY = {
    "stage": "policy",
    "seed": 3,
    "rewards": {"name": "functions", "functions": PEOPLE, "calibration": 16},
    "prompts": {"path": "prompts.txt", "held_out": 0.4},
    "policy": {"name": "causal_lm", "model": "tiny", "max_new_tokens": 6},
    "groups": {"shares": [0.8, 0.2]},
    "beta": 0.2,
    "rollouts": {"samples": 16},
    "optimizer": {"learning_rate": 0.01, "schedule": "constant"},
    "training": {"epochs": 2, "steps_per_epoch": 15, "prompts_per_batch": 3},
    "evaluation": {"iterate": "last", "samples": 32, "functions": PEOPLE},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    tiny_language_model.write(tmp_path / "tiny")
    (tmp_path / "prompts.txt").write_text("the cat\na dog\nthe big dog ran\na cat saw\nsmall dog\n")
    monkeypatch.chdir(tmp_path)
    causal_lm._opened.cache_clear()
    return tmp_path


def run(folder: Path, **changes: Any) -> int:
    (folder / "config.yaml").write_text(json.dumps(POLICY | changes), encoding="utf-8")
    return train.main(["--config", "config.yaml", "--run-dir", "run"])


def test_a_run_on_known_rewards_needs_no_reward_run(folder: Path) -> None:
    assert run(folder) == 0
    metrics = json.loads((folder / "run" / runs.METRICS).read_text())
    assert metrics["groups"]["names"] == PEOPLE
    assert metrics["groups"]["shares"] == pytest.approx([0.8, 0.2])
    table = pq.read_table(folder / "run" / runs.SAMPLES).to_pydict()
    for column, name in enumerate(PEOPLE):
        expected = TEXT_FUNCTIONS[name](table["response"])
        np.testing.assert_allclose([row[column] for row in table["rewards"]], expected, rtol=1e-6)
        # Rewards and judges are one function here: utilities are the gains in another unit.
        judged, scores = metrics["texts"]["functions"][name], metrics["scores"]
        scale = judged["gain"] / scores["utilities"][name]
        assert scores["standard_errors"][name] * scale == pytest.approx(
            judged["gain_standard_error"], rel=1e-3
        )
    page = (folder / "run" / runs.REPORT).read_text()
    assert "Functions of text; the run&#x27;s rewards: positive, concise; a tie" in page
    assert metrics["scores"]["minimum"] > 3 * max(metrics["scores"]["standard_errors"].values())


def test_of_one_held_out_prompt_there_are_no_standard_errors(folder: Path, capsys: Any) -> None:
    training = {"epochs": 1, "steps_per_epoch": 1, "prompts_per_batch": 3}
    prompts = POLICY["prompts"] | {"held_out": 0.1}  # type: ignore[operator]
    assert run(folder, prompts=prompts, training=training) == 0
    metrics = json.loads((folder / "run" / runs.METRICS).read_text())
    assert metrics["problem"]["held-out prompts"] == 1
    assert metrics["scores"]["standard_errors"] == dict.fromkeys(PEOPLE)
    assert metrics["scores"]["kl_standard_error"] is None
    for judged in metrics["texts"]["functions"].values():
        assert judged["gain_standard_error"] is judged["win_rate_standard_error"] is None
    said = capsys.readouterr().out
    assert re.search(r"positive: .*; wins [\d.]+ %\n", said)
    assert "±" not in said + (folder / "run" / runs.REPORT).read_text()


def test_prompts_open_as_the_tokenizer_says(folder: Path) -> None:
    tiny_language_model.write(folder / "plain", opens=False)
    for model, opening in (("tiny", [1]), ("plain", [])):
        config = parse(
            POLICY | {"policy": POLICY["policy"] | {"model": model}},  # type: ignore[operator]
            where="here",
        )
        problem = text_problem(config)
        texts = (problem.prompts.prompts, problem.texts.prompts.prompts)
        rows = {
            tuple(tokens[mask].tolist())
            for part in texts
            for tokens, mask in zip(*(np.asarray(each) for each in part), strict=True)
        }
        lines = Path("prompts.txt").read_text().splitlines()
        assert rows == {
            (*opening, *(WORDS.index(word) + 3 for word in line.split())) for line in lines
        }


def test_functions_read_the_text_before_the_end_token() -> None:
    decoder = Decoder(lambda ids: " ".join(WORDS[token - 3] for token in ids), (2,))
    happy, sad, cat = (WORDS.index(word) + 3 for word in ("happy", "sad", "cat"))
    tokens = jnp.array([[[happy, cat, 2, sad], [sad, 2, 0, 0]], [[cat, cat, cat, happy], [2] * 4]])
    mask = jnp.array([[[1, 1, 1, 0], [1, 1, 0, 0]], [[1, 1, 1, 1], [1, 0, 0, 0]]], bool)
    assert decoder.texts(tokens, mask) == ["happy cat", "sad", "cat cat cat happy", ""]
    rewards = jax.jit(of_functions(["concise", "positive"], decoder))(None, tokens, mask)
    np.testing.assert_array_equal(rewards[:, :, 0], [[-2, -1], [-4, 0]])
    signs = np.sign(rewards[:, :, 1])
    np.testing.assert_array_equal(signs, [[1, -1], [1, 0]])


def rewards(**changes: Any) -> dict[str, Any]:
    return {"rewards": POLICY["rewards"] | changes}  # type: ignore[operator]


class Case(NamedTuple):
    kind: str
    changes: dict[str, Any]
    line: str


CASES = [
    Case("unknown function", rewards(functions=["concise", "positve"]),
         r"rewards\.functions: 'positve' is not known; did you mean 'positive'"),
    Case("the same twice", rewards(functions=["concise", "concise"]),
         r"rewards\.functions: 'concise' is given twice"),
    Case("no functions", rewards(functions=[]), r"rewards\.functions"),
    Case("one group", rewards(functions=["concise"]) | {"groups": {}},
         r"groups: there is 1 group \(K = 1 rewards\); 'maxmin' is between two or more"),
    Case("shares of more groups", {"groups": {"shares": [0.5, 0.3, 0.2]}},
         r"groups\.shares: 3 given for 2 groups"),
    Case("a group without users", {"groups": {"shares": [1.0, 0.0]}},
         r"groups: 'concise' has no users"),
    Case("a table of actions", {"policy": {"name": "categorical"}, "prompts": None},
         r"policy\.name: 'categorical' does not go with rewards\.name 'functions'"),
    Case("rewards that are constant",  # every token ends a response, which is no text then
         {"policy": POLICY["policy"] | {"end_tokens": [*range(37)]}},  # type: ignore[operator]
         r"group 'positive': its reward is the same for all responses to a prompt"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_one_line_and_nothing_written(case: Case, folder: Path, capsys: Any) -> None:
    assert run(folder, **case.changes) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert re.search(case.line, line), line
    assert not (folder / "run").exists()


def test_what_is_not_installed_is_told_before_a_fit(
    folder: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    text_functions._analyzer.cache_clear()
    for changes in ({}, rewards(functions=["concise"]) | {"groups": {}}):
        assert run(folder, **changes) == 2
        assert "install the extra 'experiments'" in capsys.readouterr().err
        assert not (folder / "run").exists()
    text_functions._analyzer.cache_clear()
