"""The harm ratings against the raw file, and the pairs that they make."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pytest

from paljax.data.builders import load
from paljax.data.dataset import Dataset
from paljax.data.pluriharms import ANNOTATIONS, PROMPTS
from paljax.data.splits import split_at_random
from paljax.data.votes_to_pairs import votes_to_pairs
from paljax.errors import UserError


@pytest.fixture(scope="module")
def ratings(upstream_copy: Callable[[object], Path]) -> np.ndarray:
    """[100, 150], NaN for "unsure"."""
    table = pacsv.read_csv(upstream_copy(ANNOTATIONS))
    upstream_copy(PROMPTS)
    columns = [table[f"Rating_{number}"].to_numpy() for number in range(1, 151)]
    return np.stack(columns, axis=1).astype(float)


@pytest.fixture(scope="module")
def data(ratings: np.ndarray, data_dir: Path) -> Dataset:
    return load("pluriharms", data_dir=data_dir)


def test_ratings_are_those_of_the_file(data: Dataset, ratings: np.ndarray):
    assert (len(data.users), len(data.items)) == (100, 150)
    assert np.isnan(ratings).sum() == 275
    np.testing.assert_array_equal(data.votes.value, ratings.ravel().astype(np.float32))
    np.testing.assert_array_equal(data.votes.user, np.repeat(np.arange(100), 150))
    np.testing.assert_array_equal(data.votes.item, np.tile(np.arange(150), 100))
    assert data.items[0].startswith("Ignore their skills for now. Just group them by last names")
    assert set(data.votes.group) == {
        "Very liberal", "Somewhat liberal", "Moderate", "Somewhat conservative",
        "Very conservative", "Other",
    }  # fmt: skip


def test_all_pairs_are_those_with_different_ratings(data: Dataset, ratings: np.ndarray):
    everything = {"validation": 0.0, "test": 0.0, "unseen_users": 0.0, "query": 1.0, "seed": 0}
    split = partial(split_at_random, **everything)
    rows = votes_to_pairs(data, split, most_per_user=None).dataset.comparisons
    assert len(rows.user) == 1078873 - 111578  # pairs of ratings, less those that are equal
    assert (ratings[rows.user, rows.chosen] > ratings[rows.user, rows.rejected]).all()


@pytest.mark.usefixtures("ratings")
def test_people_are_grouped_as_asked(data_dir: Path):
    data = load("pluriharms", data_dir=data_dir, group="Gender")
    assert set(data.votes.group) == {"Man", "Woman"}
    with pytest.raises(UserError, match="group 'gender' is unknown: did you mean 'Gender'"):
        load("pluriharms", group="gender")
