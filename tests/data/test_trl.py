"""Data sets in TRL's columns: from a folder, from the hub, and what can go wrong."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paljax.data.builders import load
from paljax.errors import UserError


def rows(start: int = 0, count: int = 4) -> list[dict[str, Any]]:
    return [
        {"annotator": f"a{n % 2}", "prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"}
        for n in range(start, start + count)
    ]


def jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_folder_is_read_without_the_hubs_library(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    jsonl(tmp_path / "train.jsonl", rows())
    jsonl(tmp_path / "test.jsonl", rows(count=1))
    data = load("trl", path=str(tmp_path), user="annotator", group="annotator")
    assert data.users == ("a0", "a1")
    assert data.items[:2] == ("good 0", "bad 0")
    assert list(data.group) == ["a0", "a1", "a0", "a1"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_shards_as_the_hub_lays_them_out_are_put_together(suffix: str, tmp_path: Path):
    """With chat messages."""
    messages = [
        record
        | {
            side: [{"role": "assistant", "content": record[side]}]
            for side in ("chosen", "rejected")
        }
        for record in rows(count=6)
    ]
    for shard in range(2):
        path = tmp_path / "data" / f"train-0000{shard}-of-00002.{suffix}"
        part = messages[3 * shard : 3 * shard + 3]
        if suffix == "jsonl":
            jsonl(path, part)
        else:
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(part), path)
    data = load("trl", path=str(tmp_path), user="annotator")
    assert len(data.comparisons.user) == 6
    assert data.items[0] == '[{"content":"good 0","role":"assistant"}]'
    assert data.prompts == tuple(f"p{n}" for n in range(6))


def test_a_name_is_asked_of_the_hub(monkeypatch):
    asked = []

    class Rows:
        def to_parquet(self, path: str) -> None:
            pq.write_table(pa.Table.from_pylist(rows()), path)

    def load_dataset(*names: Any, **options: Any) -> Rows:
        asked.append((names, options))
        return Rows()

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    data = load("trl", path="org/name", user="annotator", subset="s", revision="abc", split="test")
    assert asked == [(("org/name", "s"), {"split": "test", "revision": "abc"})]
    assert len(data.comparisons.user) == 4


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="'no/where' is no folder here and can't be had from") as e:
        load("trl", path="no/where")
    assert "\n" not in str(e.value)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"the hub needs the package 'datasets': .*paljax\[hub\]"):
        load("trl", path="no/where")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "no column 'user_id' for user_id: choose one of .*'annotator'"),
        ({"user": "anotator"}, "no column 'anotator' for user_id: did you mean 'annotator'"),
        ({"user": "annotator", "split": "trian"}, "no file of the split 'trian'; did you mean 'tr"),
        ({"user": "annotator", "on_bad_row": "drop"}, "on_bad_row 'drop' is unknown: choose one"),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict[str, Any], line: str, tmp_path: Path):
    jsonl(tmp_path / "train.jsonl", rows())
    with pytest.raises(UserError, match=line) as caught:
        load("trl", path=str(tmp_path), **options)
    assert "\n" not in str(caught.value)


def test_a_damaged_shard_and_an_empty_folder_are_told(tmp_path: Path):
    with pytest.raises(UserError, match=r"no file of the split 'train'; wanted \.jsonl"):
        load("trl", path=str(tmp_path))
    for shard in "ab":
        (tmp_path / f"train-{shard}.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match=r"train-a\.parquet: cannot be read: "):
        load("trl", path=str(tmp_path))


def test_equal_texts_are_a_bad_row_that_can_be_skipped(tmp_path: Path):
    same = {"annotator": "a", "prompt": "p", "chosen": "same", "rejected": "same"}
    for shard in range(2):
        jsonl(tmp_path / f"train-{shard}.jsonl", [*rows(4 * shard), same])
    options = {"path": str(tmp_path), "user": "annotator"}
    with pytest.raises(UserError, match=f"^trl: {tmp_path}: row 5, column 'chosen': 'same'"):
        load("trl", **options)
    data = load("trl", **options, on_bad_row="skip")
    assert data.dropped == {"chosen equals rejected": 2}
