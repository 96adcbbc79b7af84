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
    with pytest.raises(UserError, match=r"train-a\.parquet: damaged Parquet file"):
        load("trl", path=str(tmp_path))


def test_equal_texts_are_a_bad_row_that_can_be_skipped(tmp_path: Path):
    same = {"annotator": "a", "prompt": "p", "chosen": "same", "rejected": "same"}
    jsonl(tmp_path / "train-0.jsonl", rows())
    for shard in (1, 2):
        jsonl(tmp_path / f"train-{shard}.jsonl", [*rows(4 * shard, count=shard), same])
    options = {"path": str(tmp_path), "user": "annotator"}
    bad = r"row 2, column 'chosen': 'same': .* \(2 of 9 rows are bad: 2 chosen equals rejected\)$"
    with pytest.raises(UserError, match=f"^{tmp_path}/train-1.jsonl: {bad}"):
        load("trl", **options)
    data = load("trl", **options, on_bad_row="skip")
    assert data.dropped == {"chosen equals rejected": 2}
    assert data.users == ("a0", "a1")
    assert [data.items[row] for row in data.comparisons.chosen] == [
        *(f"good {n}" for n in (0, 1, 2, 3, 4, 8, 9))
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_shards_are_read_as_one_file_is(suffix: str, tmp_path: Path):
    """Ids that are numbers here and text there, texts that look like dates, no rows at all."""
    shards = [
        [{"user_id": 7, "chosen": "2020-01-01", "rejected": "2020-01-02"}],
        [],
        [{"user_id": "2020-01-01", "chosen": "2020-01-01", "rejected": "1", "prompt": None}],
        [{"user_id": "7", "chosen": "true", "rejected": "2020-01-02", "more": [1]}],
    ]
    for place, shard in enumerate(shards):
        path = tmp_path / f"train-{place}.{suffix}"
        if suffix == "jsonl":
            jsonl(path, shard)
        else:
            pq.write_table(pa.Table.from_pylist(shard), path)
    data = load("trl", path=str(tmp_path))
    assert data.users == ("7", "2020-01-01")
    assert data.comparisons.user.tolist() == [0, 1, 0]
    assert data.items == ("2020-01-01", "2020-01-02", "1", "true")
    assert data.prompts is None


def test_bad_rows_of_a_shard_are_named_and_skipped_as_those_of_a_file(tmp_path: Path):
    good = {"user_id": "a", "chosen": "x", "rejected": "y", "prompt": "p"}
    answer = [{"role": "assistant", "content": "Tea."}]
    shards = {
        "unreadable line": '{"user_id": \n',
        "duplicate key": '{"user_id": "a", "user_id": "b", "chosen": "x", "rejected": "y"}\n',
        "mixed kinds": json.dumps(good | {"chosen": answer}) + "\n",
        "missing": json.dumps({"user_id": "a", "chosen": "x", "rejected": "y"}) + "\n",
    }
    options = {"path": str(tmp_path)}
    jsonl(tmp_path / "train-0.jsonl", [good] * 3)
    for reason, line in shards.items():
        path = tmp_path / "train-1.jsonl"
        path.write_text(json.dumps(good) + "\n" + line)
        if reason == "missing":  # the shard has no such column
            path.write_text(line)
        row = 1 if reason == "missing" else 2
        with pytest.raises(UserError, match=rf"^{path}: row {row}[:,] "):
            load("trl", **options)
        data = load("trl", **options, on_bad_row="skip")
        assert data.dropped == {reason: 1}
        assert len(data.comparisons.user) == 2 + row


def test_what_no_shard_has_is_told_of_all(tmp_path: Path):
    for shard in range(3):
        jsonl(tmp_path / f"train-{shard}.jsonl", [])
    with pytest.raises(UserError, match=f"^{tmp_path}/train-0.jsonl and 2 more: has no rows$"):
        load("trl", path=str(tmp_path))
    jsonl(tmp_path / "train-1.jsonl", rows())
    wanted = f"^{tmp_path}/train-0.jsonl and 2 more: no column 'user_id' for user_id: "
    with pytest.raises(UserError, match=wanted):
        load("trl", path=str(tmp_path))
