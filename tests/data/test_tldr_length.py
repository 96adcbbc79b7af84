"""PAL's TL;DR experiment on a small copy of the upstream format."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paljax.data.builders import load
from paljax.data.dataset import Dataset
from paljax.data.splits import split_by_column
from paljax.data.tldr_length import LONGER_UNSEEN
from paljax.errors import UserError

LONGER = sorted(LONGER_UNSEEN)[0]
UNSEEN = {LONGER: 104, "likes short ones": 102, "too few": 99}
# Pairs of the seen workers in the training part, so that their rank is their number, and of a
# worker who comes eleventh.
SEEN = {f"worker {rank}": 40 - 2 * rank for rank in range(10)} | {"eleventh": 5}


def record(worker: str | None, number: int, split: str, **changes: Any) -> dict[str, Any]:
    """A line as upstream has it."""
    generator = np.random.default_rng([number, len(worker or "")])
    lengths = generator.integers(3, 30, 2)
    policies = changes.pop("policies", ("sup2", "sup4_6b"))
    texts = [f"{'ab'[side]}{number}" + "x" * int(n) for side, n in enumerate(lengths)]
    return {
        "info": {"id": f"t3_{number}", "post": f"post {number}", "title": "t", "subreddit": "s"},
        "summaries": [
            {"text": text, "policy": policy, "note": None}
            for text, policy in zip(texts, policies, strict=True)
        ],
        "choice": int(generator.integers(2)),
        "worker": worker,
        "batch": "batch3",
        "split": split,
        "extra": {"confidence": 7},
    } | changes


def records() -> list[dict[str, Any]]:
    rows = [record(worker, n, "train") for worker, count in SEEN.items() for n in range(count)]
    rows += [record(worker, 900 + n, "valid1") for worker in SEEN for n in range(6)]
    rows += [record(worker, n, "valid2") for worker, count in UNSEEN.items() for n in range(count)]
    # None of these count: the eleventh worker would be first, and the one with too few enough.
    rows += [record("eleventh", n, "train", policies=("sup1", "sup4_ppo_rm3")) for n in range(60)]
    rows += [record("eleventh", n, "train", policies=("ref", "sup1")) for n in range(60)]
    rows += [record("too few", n, "valid2", policies=("T0", "sup4")) for n in range(20)]
    article = {"id": "d", "article": "news", "title": "t", "site": "cnn"}
    rows += [record("worker 0", n, "valid2", info=article) for n in range(3)]
    return rows


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """In two batches, of which the first by number is the second by name."""
    folder.mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    for name, part in (("batch3.json", rows[:half]), ("batch10.json", rows[half:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tldr") / "comparisons", records())


@pytest.fixture(scope="module")
def data(folder: Path, data_dir: Path) -> Dataset:
    return load("tldr_length", data_dir=data_dir, path=str(folder), support_per_worker=50)


def test_workers_and_parts_are_those_of_the_experiment(data: Dataset):
    rows = data.comparisons
    counts = Counter(zip([data.users[user] for user in rows.user], data.split, strict=True))
    expected = {("likes short ones", "support"): 50, ("likes short ones", "test"): 52}
    expected |= {(LONGER, "support"): 50, (LONGER, "test"): 54}
    for rank in range(10):
        pairs = 40 - 2 * rank
        validation = -(-pairs // 10)  # the last of a tenth is in it
        worker = f"worker {rank}"
        expected[worker, "validation"], expected[worker, "train"] = validation, pairs - validation
        expected[worker, "test"] = 6
    assert counts == expected


def test_ranks_three_to_five_prefer_shorter_summaries(data: Dataset):
    rows = data.comparisons
    shorter = {f"worker {rank}" for rank in (3, 4, 5)} | {"likes short ones"}
    equal = 0
    for user, chosen, rejected, group in zip(
        rows.user, rows.chosen, rows.rejected, data.group, strict=True
    ):
        better, worse = data.items[chosen], data.items[rejected]
        wanted = "shorter" if data.users[user] in shorter else "longer"
        assert group == wanted
        if len(better) == len(worse):
            equal += 1
            assert better.startswith(" b")  # the second, whoever chooses
        else:
            assert (len(better) < len(worse)) == (wanted == "shorter")
    assert equal
    assert data.prompts[rows.prompt[0]].startswith("Human: post ")
    assert data.prompts[rows.prompt[0]].endswith(" Assistant:")


def test_support_arrives_in_a_random_order_that_the_seed_decides(data: Dataset, folder: Path):
    split = split_by_column(data)
    assert len(split.rows("query")) == 52 + 54
    assert sorted(split.arrival[split.rows("support")]) == sorted(2 * list(range(50)))
    options = {"path": str(folder), "support_per_worker": 50}
    one, same, other = (
        load("tldr_length", data_dir=folder.parent / "data", **options, seed=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.comparisons.chosen, same.comparisons.chosen)
    assert one.items != other.items


def test_files_that_change_are_read_again(tmp_path: Path):
    rows = records()
    folder = write(tmp_path / "raw", rows)
    before = load("tldr_length", data_dir=tmp_path, path=str(folder), support_per_worker=9)
    write(folder, [record(LONGER, 500, "valid2"), *rows])
    after = load("tldr_length", data_dir=tmp_path, path=str(folder), support_per_worker=9)
    assert len(after.comparisons.user) == len(before.comparisons.user) + 1


def test_pairs_of_one_text_are_dropped_and_counted(tmp_path: Path):
    same = [{"text": "same", "policy": "sup1", "note": None}] * 2
    rows = [*records(), record("worker 1", 7, "train", summaries=same)]
    folder = write(tmp_path / "raw", rows)
    data = load("tldr_length", data_dir=tmp_path, path=str(folder), support_per_worker=9)
    assert data.dropped == {"chosen equals rejected": 1}


@pytest.mark.parametrize(
    ("rows", "options", "line"),
    [
        ([], {}, "0 workers have training pairs of supervised policies, wanted 10"),
        (records(), {"support_per_worker": 102}, "leaves nothing to score of worker"),
        ([{"info": {}}], {}, r"batch10\.json: line 1: is no comparison of summarize_from_feedback"),
        (["x"], {}, r"batch10\.json: line 1: is no comparison of summarize_from_feedback"),
        (None, {}, r"holds no batch\*\.json; wanted the comparisons of https://"),
        (records(), {"support_per_worker": 0}, "support_per_worker is 0, wanted a whole number"),
    ],
)
def test_what_does_not_fit_is_one_line(rows: Any, options: dict, line: str, tmp_path: Path):
    folder = tmp_path / "raw" if rows is None else write(tmp_path / "raw", rows)
    with pytest.raises(UserError, match=line) as caught:
        load("tldr_length", data_dir=tmp_path / "data", path=str(folder), **options)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
