"""Data that a run can't use, and splits that they can't have: one line, exit 2, nothing written.

A case is a section of the configuration and the line that answers it; the folder holds

    votes.jsonl     40 comparisons of 4 users, of items in 4 topics
    single.jsonl    30 users with one comparison each
    one.jsonl       one user with 30 comparisons
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from paljax import runs, train
from paljax.data.splits import PARTS

CONFIG = """\
data: {name: file, path: votes.jsonl}
encoder: [{name: item_id, width: 4}]
model: {name: pal_a, num_prototypes: 2, latent_width: 4, shared: {hidden_layers: 0}}
"""

CASES = {
    "users with one comparison": (
        "data.path=single.jsonl",
        r"splits: no comparison is left for 'validation'; give more comparisons a user or change",
    ),
    "unknown split": (
        "splits.name=topics",
        r"splits\.name: unknown 'topics'; did you mean 'topic'",
    ),
    "no timestamps": (
        "splits.name=time",
        r"splits\.name: 'time' needs a timestamp for every row, and the data have none",
    ),
    "unknown topic": (
        "splits={name: topic, topics: [debate four]}",
        r"splits\.topics: 'debate four' is no topic here; did you mean 'debate 4'\?",
    ),
    "no topics": (
        "data.path=single.jsonl | splits.name=topic",
        r"splits\.name: 'topic' needs a topic for every row, and the data have none",
    ),
    "no split column": (
        "splits.name=column",
        r"splits\.column: the comparisons have no 'split' column",
    ),
    "every item in one part": (
        "splits={name: items, test: 0.95}",
        r"splits: 80 items can't be shared out: 8 for validation and 76 for test leave none",
    ),
    "too much support": (
        "splits={name: random, support: 10}",
        r"splits\.support: 10 wants 1 unseen users with more tasks than that, and 0 have; give",
    ),
    "pairs of comparisons": (
        "pairs.passes=middle",
        r"pairs: are formed of votes, and 'file' holds comparisons; leave it out",
    ),
    "levels of pairs": ("pairs.num_levels=9", r"pairs\.num_levels: 9 .*learn_from 'votes'"),
    "unknown pass": ("pairs.passes=lower", r"pairs\.passes: 'lower' .*did you mean 'lowest'"),
    "unknown conversation": (
        "data={name: polis, conversation: bowling-green}",
        r"polis: conversation 'bowling-green' is unknown: did you mean 'american-assembly\.bowl",
    ),
    "unknown option of a data set": (
        "data={name: polis, conversations: x}",
        r"unknown key 'data\.conversations'; did you mean 'conversation'",
    ),
    "unknown persona": (
        "data={name: personas, personas: [openness, extroversion]}",
        r"personas: persona 'extroversion' is unknown: did you mean 'extraversion'",
    ),
    "refused build": (
        "data={name: personas, build: own_persona}",
        r"personas: build 'own_persona' is refused: .* a shared reward scores 98 to 99\.7 %",
    ),
    "no folder": (
        "data={name: tldr_length, path: none}",
        r"tldr_length: none holds no batch\*\.json; wanted the comparisons of https://",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALJAX_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "config.yaml").write_text(CONFIG)
    for name, users, count in (("votes", 4, 10), ("single", 30, 1), ("one", 1, 30)):
        rows = [
            {"user_id": f"u{user}", "chosen": f"{user} {n} good", "rejected": f"{user} {n} bad"}
            | ({"topic": f"debate {n % 4 + 1}"} if name == "votes" else {})
            for user in range(users)
            for n in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("kind", CASES)
def test_bad_data_end_in_one_line(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    overrides, line = CASES[kind]
    changes = overrides.split(" | ")
    assert train.main(["--config", "config.yaml", "--run-dir", "new", *changes]) == 2
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert re.search(line, output.err), output.err
    assert sorted(path.name for path in folder.iterdir() if path.name != "data") == [
        "config.yaml", "one.jsonl", "single.jsonl", "votes.jsonl",
    ]  # fmt: skip
    assert not list(folder.glob("data/*/*"))


def finished(*changes: str) -> dict:
    """metrics.json of a quick run that must end well."""
    quick = ["training.epochs=2", "evaluation.resamples=100"]
    assert train.main(["--config", "config.yaml", "--run-dir", "new", *quick, *changes]) == 0
    assert (Path("new") / runs.REPORT).stat().st_size
    return json.loads((Path("new") / runs.METRICS).read_text())


@pytest.mark.usefixtures("quick_compilation")
def test_one_user_alone_has_the_shared_reward(folder: Path):
    metrics = finished("data.path=one.jsonl")
    assert not metrics["selection"]["personal"]
    assert set(metrics["data"]["split"]) == set(PARTS)
    assert metrics["data"]["split"]["query"] == 0
    assert metrics["unseen"] == {}
    assert metrics["test"]["accuracy"] == metrics["baselines"]["bradley_terry"]["test"]["accuracy"]


@pytest.mark.usefixtures("quick_compilation")
def test_a_choice_that_everybody_always_makes_is_learned(folder: Path):
    rows = [{"user_id": f"u{n % 6}", "chosen": "tea", "rejected": "mud"} for n in range(60)]
    (folder / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = finished("data.path=same.jsonl")
    assert metrics["test"]["accuracy"] == 1
    assert 0 < metrics["test"]["nll"] < np.log(2)


def test_answers_that_are_all_ties_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"user_id": f"u{n % 6}", "chosen": "tea", "rejected": f"cup {n}"} for n in range(60)]
    text = "".join(json.dumps(row | {"tie": True}) + "\n" for row in rows)
    (folder / "ties.jsonl").write_text(text)
    changed = ["--config", "config.yaml", "--run-dir", "new", "data.path=ties.jsonl"]
    assert train.main(changed) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "every comparison for 'validation' is a tie; nothing can be scored on them" in error
    assert not (folder / "new").exists()
