"""The Polis conversations against the raw files, which are read here by other means."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pytest

from paljax.data.builders import load
from paljax.data.dataset import Dataset
from paljax.data.polis import CONVERSATIONS, NO_GROUP, upstream_files
from paljax.errors import UserError

# People, statements, agreements, disagreements and passes, counted once with awk and cut.
SEATTLE = "15-per-hour-seattle"
COUNTS = {
    SEATTLE: (339, 54, 1358, 922, 592),
    "american-assembly.bowling-green": (2031, 896, 109752, 38647, 77125),
    "scoop-hivemind.ubi": (234, 71, 4582, 1759, 812),
}

Copy = Callable[[object], Path]


@pytest.fixture(scope="module")
def seattle(upstream_copy: Copy, data_dir: Path) -> Dataset:
    for file in upstream_files(SEATTLE):
        upstream_copy(file)
    return load("polis", data_dir=data_dir, conversation=SEATTLE)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_votes_are_those_of_the_file(conversation: str, upstream_copy: Copy, data_dir: Path):
    statements, votes = (
        pacsv.read_csv(
            upstream_copy(file), parse_options=pacsv.ParseOptions(newlines_in_values=True)
        )
        for file in upstream_files(conversation)
    )
    numbers = [name for name in votes.column_names if name.isdigit()]
    columns = [votes[name].to_numpy(zero_copy_only=False).astype(float) for name in numbers]
    table = np.stack(columns, axis=1)
    data = load("polis", data_dir=data_dir, conversation=conversation)
    held = data.votes
    opinions = (table == 1) | (table == -1)
    voters = opinions.any(axis=1)
    assert len(data.users) == voters.sum()
    assert (held.value == 1).sum() == (table == 1).sum()
    assert (held.value == -1).sum() == (table == -1).sum()
    assert np.isnan(held.value).sum() == (table[voters] == 0).sum()
    lost = (table[~voters] == 0).sum()
    assert data.dropped == ({"fewer than least_votes": lost} if lost else {})
    if conversation in COUNTS:
        found = (len(table), len(statements), *((table == value).sum() for value in (1, -1, 0)))
        assert found == COUNTS[conversation]
    # The first person's votes, one by one.
    texts = dict(
        zip(
            map(str, statements["comment-id"].to_pylist()),
            statements["comment-body"].to_pylist(),
            strict=True,
        )
    )
    first = int(np.flatnonzero(voters)[0])
    expected = {
        texts[number]: vote
        for number, vote in zip(numbers, table[first], strict=True)
        if not np.isnan(vote)
    }
    mine = held.user == 0
    assert {
        data.items[item]: 0.0 if np.isnan(value) else value
        for item, value in zip(held.item[mine], held.value[mine], strict=True)
    } == expected
    assert data.users[0] == str(votes["participant"][first])


def test_groups_are_those_of_the_platform(seattle: Dataset):
    labels = {seattle.users[user]: label for user, label in zip(
        seattle.votes.user, seattle.votes.group, strict=True
    )}  # fmt: skip
    assert set(labels.values()) == {"group 0", "group 1", NO_GROUP}
    assert sum(label == "group 1" for label in labels.values()) == 39


def test_people_with_few_votes_are_left_out_and_counted(seattle: Dataset, data_dir: Path):
    data = load("polis", data_dir=data_dir, conversation=SEATTLE, least_votes=10)
    opinions = np.bincount(seattle.votes.user[~np.isnan(seattle.votes.value)])
    assert len(data.users) == (opinions >= 10).sum()
    kept = len(data.votes.user) + data.dropped["fewer than least_votes"]
    assert kept == 1358 + 922 + 592


@pytest.mark.usefixtures("seattle")
def test_nobody_left_is_told(data_dir: Path):
    with pytest.raises(UserError, match="least_votes 99 leaves nobody in '15-per-hour-seattle': "):
        load("polis", data_dir=data_dir, conversation=SEATTLE, least_votes=99)


def test_unknown_conversation_is_told():
    with pytest.raises(UserError, match=r"'brexit-consent' is unknown: .*mean 'brexit-consensus'"):
        load("polis", conversation="brexit-consent")


def test_damaged_mirror_is_one_line_and_leaves_nothing(
    upstream_copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for file, keep in zip(upstream_files(SEATTLE), (10**9, 20000), strict=True):
        path = tmp_path / "mirror" / file.repository / file.commit / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(upstream_copy(file).read_bytes()[:keep])
    monkeypatch.setenv("PALJAX_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(UserError, match=r"participants-votes\.csv is damaged") as caught:
        load("polis", data_dir=tmp_path / "data", conversation=SEATTLE)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    shutil.rmtree(tmp_path / "mirror")
