"""Whole runs on comparisons of texts: train, evaluate, adapt and score; and what stops them."""

import errno
import importlib
import json
import os
import re
import shlex
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from paljax import runs
from paljax.data.encoders import minilm
from tests import tiny_bert
from tests.tiny_bert import WORDS

pytestmark = pytest.mark.usefixtures("quick_compilation")

SETTINGS = {
    "data": {"name": "file", "path": "votes.jsonl"},
    "encoder": [{"name": "minilm", "model": "tiny"}, {"name": "item_id", "width": 2}],
    "model": {"name": "pal_a", "num_prototypes": 2, "latent_width": 3, "shared": None},
    "training": {"epochs": 60, "batch_size": 32},
    "optimizer": {
        "learning_rate": {"networks": 0.02, "prototypes": 0.02, "user_weights": 0.3},
    },
    "selection": {"prior_strength": [1.0], "refit": False},
    "evaluation": {"shots": [0, 5], "resamples": 100},
}


def rows(num_users=12, comparisons=16):
    """Users who like the weather, and users who like the stadium; one text is very long."""
    generator = np.random.default_rng(3)
    plain = [word for word in WORDS if not word.startswith("#")]
    texts = {
        topic: [f"{topic} {' '.join(generator.choice(plain, 3))}" for _ in range(12)]
        for topic in ("weather weather lovely", "stadium stadium drove")
    }
    sunny, sporty = texts.values()
    sunny[0] = "weather " * 12_500
    made = []
    for user in range(num_users):
        liked, other = (sunny, sporty) if user % 2 else (sporty, sunny)
        for _ in range(comparisons):
            row = {"chosen": str(generator.choice(liked)), "rejected": str(generator.choice(other))}
            made.append({"user_id": f"user {user}"} | row)
    return made


def write(path, records):
    path.write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")


def run(command):
    name, *arguments = shlex.split(command)
    return importlib.import_module(f"paljax.{name}").main(arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_compilation):
    folder = tmp_path_factory.mktemp("texts")
    tiny_bert.write(folder / "tiny")
    write(folder / "votes.jsonl", rows())
    (folder / "config.yaml").write_text(json.dumps(SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PALJAX_DATA_DIR", str(folder / "data"))
        assert run("train --config config.yaml --run-dir run") == 0
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALJAX_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def test_a_run_learns_from_texts_and_counts_what_it_cut(folder):
    metrics = json.loads((folder / "run" / runs.METRICS).read_text())
    assert metrics["test"]["accuracy"] > 0.9, metrics["test"]
    assert metrics["data"]["encoding"] == {"items, minilm: texts cut at 10 tokens": 1}
    assert "texts cut at 10 tokens: 1" in (folder / "run" / runs.REPORT).read_text()


def test_the_other_commands_read_texts(folder, capsys, monkeypatch):
    def opened(*arguments):
        raise AssertionError("every text here has been embedded")

    monkeypatch.setattr(minilm, "_embed", opened)
    strangers = [row | {"user_id": "new " + row["user_id"]} for row in rows()]
    told = strangers[0::2]
    write(folder / "new.jsonl", told)
    write(folder / "asked.jsonl", [row for row in strangers[1::2] if row not in told])
    assert run("adapt --run run --comparisons new.jsonl --out new.parquet") == 0
    assert "items, minilm: texts cut at 10 tokens: 1\n" in capsys.readouterr().out
    weights = pq.read_table(folder / "new.parquet").to_pydict()["weights"]
    assert np.argmax(weights[0]) != np.argmax(weights[1])
    command = "evaluate --run run --comparisons asked.jsonl --adapt new.jsonl --out scores.json"
    assert run(command) == 0
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["accuracy"] > 0.9, scores
    assert scores["encoding"] == {"items, minilm: texts cut at 10 tokens": 1}


def test_new_texts_are_embedded_for_scoring(folder):
    texts = ["lovely weather weather today", "drove stadium stadium today"]
    asked = [{"user_id": user, "response": text} for user in ("user 0", "user 1") for text in texts]
    write(folder / "items.jsonl", asked)
    assert run("score --run run --input items.jsonl --out rewards.parquet") == 0
    rewards = pq.read_table(folder / "rewards.parquet").to_pydict()["reward"]
    assert rewards[0] < rewards[1]
    assert rewards[2] > rewards[3]


def without(name):
    return lambda folder: (folder / name).unlink()


def cut_in_half(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:5000])


def file_for_folder(folder):
    shutil.rmtree(folder / "data")
    (folder / "data").touch()


def other_weights(folder):
    tiny_bert.write(folder / "tiny", seed=1)


def new_text(folder, text="lovely today"):
    write(folder / "new.jsonl", [{"user_id": "a", "chosen": text, "rejected": "he drove"}])


def nothing(folder):
    pass


TRAIN = "train --config config.yaml --run-dir new"
EVALUATE = "evaluate --run run --comparisons new.jsonl"
CASES = [
    ("no such folder", TRAIN + " encoder.0.model=./none", nothing, r"\./none: no such folder"),
    ("folder is a file", TRAIN + " encoder.0.model=votes.jsonl", nothing, "is a file, wanted the"),
    ("no weights", TRAIN, without("tiny/model.safetensors"), "tiny: model.safetensors is missing"),
    ("damaged weights", TRAIN, cut_in_half("tiny/model.safetensors"), "safetensors: damaged: "),
    ("no tokenizer", TRAIN, without("tiny/tokenizer.json"), r"tokenizer\.json: no such file"),
    (
        "hub silent",
        TRAIN + " encoder.0.model=a/b",
        nothing,
        "a/b: not on this machine, and the hub",
    ),
    (
        "unknown dtype",
        TRAIN + " encoder.0.dtype=float61",
        nothing,
        "did you mean 'bfloat16'",
    ),
    (
        "unknown key",
        TRAIN + " encoder.0.modell=tiny",
        nothing,
        "unknown key 'encoder.0.modell'; did",
    ),
    (
        "model missing",
        TRAIN + " 'encoder=[{name: transformers}]'",
        nothing,
        "key 'encoder.0.model' is missing",
    ),
    (
        "numbers of texts",
        TRAIN + " 'encoder=[{name: numbers}]'",
        nothing,
        "encoder: 'numbers' needs items that are lists of numbers.*use 'minilm' or 'item_id'",
    ),
    ("cache in a file", TRAIN, file_for_folder, r"data/embeddings/minilm-\w+/?.*can't be "),
    ("other weights", EVALUATE, other_weights, "are not those that the run was trained with"),
    (
        "weights gone",
        EVALUATE,
        lambda folder: shutil.rmtree(folder / "tiny"),
        "tiny: no such folder",
    ),
    (
        "empty text",
        EVALUATE,
        lambda folder: new_text(folder, " "),
        "column 'chosen': ' ': is empty",
    ),
    (
        "equal sides",
        EVALUATE,
        lambda folder: new_text(folder, "he drove"),
        "chosen and rejected at",
    ),
]


@pytest.mark.parametrize(
    ("command", "harm", "line"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_one_line_and_nothing_half_written(command, harm, line, folder, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing answers there
    new_text(folder)
    if "train" in command:
        shutil.rmtree(folder / "data")
    elif "text" not in line:
        shutil.rmtree(folder / "data" / "embeddings")
    (folder / "data").mkdir(exist_ok=True)
    harm(folder)
    capsys.readouterr()
    status = run(command)
    out, told = capsys.readouterr()
    assert status == 2, out + told
    assert re.search(line, told), told
    assert told.count("\n") == 1, told
    assert not (folder / "new").exists()


def test_a_full_disk_stops_in_one_line_and_the_next_run_goes_on(folder, capsys, monkeypatch):
    shutil.rmtree(folder / "data")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run(TRAIN) == 2
    told = capsys.readouterr().err
    assert re.fullmatch(
        r"paljax\.train: .*: embeddings can't be written \(No space left on device\); "
        r"0 texts are kept there, and the next run goes on from them\n",
        told,
    )
    assert run(TRAIN + " training.epochs=1") == 0
