"""Policies on reward runs that read texts by a model with another tokenizer: `minilm`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from paljax import runs, train
from paljax.config import parse
from paljax.data.encoders import causal_lm, fit_encoder
from paljax.data.messages import written
from paljax.policy.decoding import Decoder
from paljax.policy.group_rewards import GroupRewards, group_rewards
from paljax.policy.text_policy import TextPrompts
from paljax.policy.text_rewards import of_texts, open_readers, prompt_inputs
from paljax.reward.fits import configured_model
from paljax.reward.predictors import Trained
from paljax.reward.trained_model import TrainedModel, load_model
from tests import tiny_bert, tiny_language_model
from tests.policy.test_text_run import T, write_lines

pytestmark = pytest.mark.usefixtures("quick_compilation")
# The policy writes whole words; BERT has some of them, in one piece or two, and not the others.
WORDS = ("lovely", "taxes", *tiny_bert.WORDS[:3], *tiny_language_model.WORDS[5:])
STATES = {"name": "causal_lm", "model": "tiny"}
MINILM = {"name": "minilm", "model": "bert"}
REWARD = {
    "data": {"name": "file", "path": "votes.jsonl"},
    "encoder": [MINILM],
    "model": {"name": "bradley_terry", "hidden_layers": 0},
    "training": {"epochs": 10, "batch_size": 32, "patience": None},
    "optimizer": {"learning_rate": {"networks": 0.1}},
    "selection": {"refit": False},
    "evaluation": {"shots": [0], "resamples": 100},
}
POLICY = {
    "stage": "policy",
    "seed": 3,
    "rewards": {"name": "run", "run": "reward", "calibration": 8},
    "prompts": {"path": "prompts.jsonl", "held_out": 0.4},
    "policy": {"name": "causal_lm", "model": "tiny", "max_new_tokens": T},
    "beta": 0.2,
    "objective": {"name": "utilitarian"},
    "rollouts": {"samples": 16},
    "optimizer": {"learning_rate": 0.01, "schedule": "constant"},
    "training": {"epochs": 2, "steps_per_epoch": 10, "prompts_per_batch": 3},
    "evaluation": {"iterate": "last", "samples": 32},
}
USUAL = ("the lovely weather", "", "taxes", "word3")
# Two pieces each: more than a text of T tokens mostly has, and more than BERT reads.
LONG = ("lovely taxes taxes taxes", " ".join(["taxes"] * T), "lovely", "the the lovely")


def votes() -> list[dict[str, str]]:
    """Ten people who like what is lovely, and six who like taxes."""
    random = np.random.default_rng(1)
    rows = []
    for user in range(16):
        liked, other = ("lovely", "taxes") if user < 10 else ("taxes", "lovely")
        for _ in range(10):
            texts = [
                " ".join(random.permutation([word, *random.choice(WORDS[2:5], 3)]))
                for word in (liked, other)
            ]
            row = {"user_id": f"user {user}", "prompt": str(random.choice(WORDS[2:5]))}
            rows.append(row | {"chosen": texts[0], "rejected": texts[1]})
    return rows


def run(config: Any, run_dir: str) -> int:
    Path("config.yaml").write_text(json.dumps(config), encoding="utf-8")
    return train.main(["--config", "config.yaml", "--run-dir", run_dir])


@pytest.fixture(scope="module")
def begun(tmp_path_factory: Any, quick_compilation: None) -> Path:
    """Models, prompts, and a reward run that reads texts by BERT."""
    folder = tmp_path_factory.mktemp("readers")
    tiny_language_model.write(folder / "tiny", words=WORDS)
    tiny_bert.write(folder / "bert")
    write_lines(folder / "votes.jsonl", votes())
    prompts = ["the weather", "is", "the", "weather is", "the cat"]
    write_lines(folder / "prompts.jsonl", [{"prompt": text} for text in prompts])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PALJAX_DATA_DIR", str(folder / "data"))
        assert run(REWARD, "reward") == 0
    return folder


def drawn(texts: Sequence[str]) -> tuple[Any, Any]:
    """Texts as responses [1, n, T], each closed by the end token where there is room."""
    tokens, mask = np.zeros((1, len(texts), T), np.int32), np.zeros((1, len(texts), T), bool)
    for place, text in enumerate(texts):
        row = [*(WORDS.index(word) + 3 for word in text.split()), 2][:T]
        tokens[0, place, : len(row)], mask[0, place, : len(row)] = row, True
    return jnp.asarray(tokens), jnp.asarray(mask)


def messages(role: str, texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(written([{"role": role, "content": text}]) for text in texts)


def read_by_both() -> GroupRewards:
    """Random rewards of items that both models read, and of prompts that BERT reads."""
    model = {"name": "pal_b", "num_prototypes": 2, "hidden_layers": 0, "shared": None}
    config = parse(REWARD | {"encoder": [STATES, MINILM], "model": model}, where="here")
    texts = (*USUAL, *LONG)
    rows = np.arange(len(texts), dtype=np.int32)
    # A run of votes: no text that is drawn is one of its levels.
    item_encoder = fit_encoder(config.encoder, texts, rows, levels=("rated 1", "rated 2"))
    prompt_encoder = fit_encoder(config.encoder[1:], texts, rows)
    fitted = configured_model(config.model, 2)
    params = fitted.init(jax.random.key(0), item_encoder.blank(), prompt_encoder.blank())
    people = {"ann": np.array([0.9, 0.1], np.float32), "ben": np.array([0.1, 0.9], np.float32)}
    trained = Trained(fitted, params, jnp.full(2, 0.5), 1.0)
    return group_rewards(TrainedModel(config, trained, item_encoder, prompt_encoder, people, {}))


@pytest.mark.parametrize("read_by", ["bert", "both"])
def test_rewards_of_drawn_tokens_are_those_of_their_text(read_by: str, folder: Path) -> None:
    groups = read_by_both() if read_by == "both" else group_rewards(load_model(folder / "reward"))
    model = causal_lm.open_language_model("tiny")
    decoder = Decoder(model.tokenizer.decode, (2,))
    readers = open_readers(groups, run="reward")
    opening = model.tokenizer.opening
    rewards = jax.jit(
        of_texts(groups, model.config, opening=opening, decoder=decoder, readers=readers)
    )
    prompts = TextPrompts(
        prompts=cast(Any, None),
        reward_inputs=prompt_inputs(groups, ("the weather",)),
        calibration=cast(Any, None),
        language_model=model.params,
        readers={name: reader.params for name, reader in readers.items()},
    )
    asked = ("the weather",) * 4 if read_by == "both" else None
    for texts in (USUAL, LONG):
        found = rewards(prompts, *drawn(texts))
        np.testing.assert_allclose(found[0], groups(texts, asked), rtol=2e-4, atol=2e-4)
        # Those of files with chat messages are the same.
        told, questions = messages("assistant", texts), asked and messages("user", asked)
        np.testing.assert_array_equal(groups(told, questions), groups(texts, asked))
        assert len(np.unique(np.asarray(found[0]).round(3), axis=0)) == len(texts)


def test_a_policy_learns_from_texts_that_another_model_reads(folder: Path) -> None:
    assert run(POLICY, "new") == 0
    scores = json.loads((folder / "new" / runs.METRICS).read_text())["scores"]
    (utility,), (error,) = (scores[key].values() for key in ("utilities", "standard_errors"))
    assert utility > 4 * error > 0
    table = pq.read_table(folder / "new" / runs.SAMPLES).to_pydict()
    expected = group_rewards(load_model(folder / "reward"))(tuple(table["response"]))
    np.testing.assert_allclose(table["rewards"], expected, rtol=2e-4, atol=2e-4)


def with_other_weights(folder: Path) -> None:
    tiny_bert.write(folder / "bert", seed=1)


def read_by_format(folder: Path) -> None:
    """As if the run had read the format of texts, too."""
    path = folder / "reward" / runs.MODEL
    record = json.loads(path.read_text())
    record["item_encoder"]["parts"]["format"] = {"mean": [0.0] * 11, "scale": [1.0] * 11}
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        (with_other_weights,
         r"encoder 'minilm': the files of bert are not those that the run was trained with"),
        (read_by_format,
         r"rewards\.run: reward reads texts with 'format'; drawn texts can be read by the encoders "
         r"'causal_lm' and 'minilm'"),
    ],
    ids=["other weights", "another encoder"],
)  # fmt: skip
def test_one_line_and_nothing_written(prepare: Any, line: str, folder: Path, capsys: Any) -> None:
    prepare(folder)
    capsys.readouterr()
    assert run(POLICY, "new") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    assert re.search(line, told), told
    assert not (folder / "new").exists()
