"""What goes with an anchored model and with decays of the shared reward, and what is refused."""

import re

import pytest
import yaml

from paljax import train

RECORD = {
    "data": {"name": "file", "path": "none.jsonl"},
    "model": {"name": "pal_a", "anchored": True},
}
STREAM = {
    "stage": "stream",
    "data": {"comparisons": "shards", "items": "items.npy", "num_users": 3},
    "model": {"name": "pal_a", "num_prototypes": 2, "anchored": True},
    "training": {"epochs": 1, "steps_per_epoch": 1},
}
CASES = {
    "no shared reward": (
        RECORD,
        "model.shared=null",
        r"model\.anchored: true .*model\.shared is null; set model\.anchored to false",
    ),
    "members of groups": (RECORD, "learner.name=em", r"model\.anchored: true .*'gradient'"),
    "not linear": (
        RECORD,
        "model.distance=cosine",
        r"model\.distance: 'cosine' .*model\.anchored: true.*'squared'",
    ),
    "a stream": (STREAM, "seed=0", r"model\.anchored: true .*give stage 'reward'"),
    "a decay beyond a step": (
        RECORD,
        "selection.shared_weight_decay=[1, 1000]",
        r"selection\.shared_weight_decay: 1000 .*less than 333\.333",
    ),
    "the same of the personal part": (
        RECORD,
        "selection.personal_weight_decay=[1, 1000]",
        r"selection\.personal_weight_decay: 1000 .*less than 333\.333",
    ),
    "a baseline that is tuned less": (
        RECORD,
        "selection.personal_weight_decay=[1, 2]",
        r"selection\.personal_weight_decay: .*give it selection\.shared_weight_decay",
    ),
    "a negative decay": (
        RECORD,
        "selection.shared_weight_decay=[-1]",
        r"selection\.shared_weight_decay.*greater than or equal to 0",
    ),
    "no decay": (
        RECORD,
        "selection.shared_weight_decay=[]",
        r"selection\.shared_weight_decay.*at least 1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_does_not_go_together(case, tmp_path, monkeypatch, capsys):
    record, override, message = CASES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    assert train.main(["--config", "config.yaml", "--run-dir", "run", override]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()
