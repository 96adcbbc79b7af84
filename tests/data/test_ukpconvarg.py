"""The argument pairs against the raw files, which are read here as text."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from paljax.data import ukpconvarg
from paljax.data.builders import load
from paljax.data.dataset import Dataset
from paljax.data.ukpconvarg import SOURCE, UPSTREAM, Options
from paljax.errors import UserError


@pytest.fixture(scope="module")
def raw(upstream_copy: Callable[[object], Path]) -> str:
    return "".join(upstream_copy(file).read_text(encoding="utf-8") for file in UPSTREAM)


@pytest.fixture(scope="module")
def data(raw: str, data_dir: Path) -> Dataset:
    return load("ukpconvarg", data_dir=data_dir)


def test_counts_are_those_of_the_files(raw: str, data: Dataset):
    workers = Counter(re.findall(r"<turkID>(\w+)</turkID>", raw))
    answers = Counter(re.findall(r"<value>(\w+)</value>", raw))
    assert (len(workers), workers.total()) == (3778, 64531)
    assert answers == {"a1": 24778, "a2": 24426, "equal": 15327}
    # Fourteen pairs are of one text; each has five answers.
    rows = data.comparisons
    assert data.dropped == {"chosen equals rejected": 70}
    assert len(rows.user) == 64531 - 70
    assert len(data.users) == 3777  # one worker answered about such pairs only
    assert 15327 - 70 < rows.tie.sum() < 15327
    stances = Counter(data.group)
    for stance in ("same", "opposite", "none"):
        found = raw.count(f"<workerStance>{stance}</workerStance>")
        assert found - 70 <= stances[stance] <= found
    assert len(set(data.topic)) == 12
    assert len(data.prompts) == 24


def test_an_answer_by_hand(data: Dataset):
    """The first answer of the first file: the second argument, at 16:59:52."""
    rows = data.comparisons
    assert data.users[rows.user[0]] == "A3ESHM4QQW5NH6"
    assert data.items[rows.chosen[0]].startswith("Americans spend billions on bottled water")
    assert data.items[rows.rejected[0]].startswith('"In 2006, the Alliance for a Healthier')
    assert data.prompts[rows.prompt[0]] == "Ban Plastic Water Bottles (No Bad For the Economy)"
    assert data.topic[0] == "Ban Plastic Water Bottles"
    assert data.timestamp[0] == datetime(2016, 1, 31, 16, 59, 52, tzinfo=UTC).timestamp()
    assert not rows.tie[0]


def answered(answers: list[tuple[str, str]]) -> dict[str, list]:
    """Columns of one pair of arguments."""
    workers, values = zip(*answers, strict=True)
    return {
        "debate": ["d"], "side": ["s"], "argument1": ["one"], "argument2": ["two"],
        "worker": [list(workers)], "answer": [list(values)],
        "worker_stance": [["none"] * len(answers)], "time": [np.zeros(len(answers))],
    }  # fmt: skip


def test_each_answer_means_what_it_says():
    columns = answered([("ann", "a1"), ("ben", "a2"), ("cem", "equal")])
    found = SOURCE.dataset(columns, Options(), Path())
    chosen = [found.items[item] for item in found.comparisons.chosen]
    assert chosen[:2] == ["one", "two"]
    assert found.comparisons.tie.tolist() == [False, False, True]


def test_workers_with_few_answers_are_left_out_and_counted():
    columns = answered([("ann", "a1"), ("ben", "a2"), ("ben", "a1")])
    found = SOURCE.dataset(columns, Options(least_per_worker=2), Path())
    assert found.users == ("ben",)
    assert found.dropped == {"fewer than least_per_worker": 1}
    with pytest.raises(UserError, match="least_per_worker 3 leaves nobody; no worker has more th"):
        SOURCE.dataset(columns, Options(least_per_worker=3), Path())


def test_sides_are_pinned():
    assert len(ukpconvarg.SIDES) == len({file.sha256 for file in UPSTREAM}) == 24
