"""Batches hold every text once, little padding, and few shapes."""

import numpy as np
import pytest

from paljax.data.encoders.tokens import bucket, open_tokenizer, token_batches, tokenize
from paljax.errors import UserError
from tests import tiny_bert

LIMIT = 256


@pytest.mark.parametrize("count", [1, 3, 700])
def test_every_text_is_in_one_batch(count):
    generator = np.random.default_rng(count)
    lengths = np.minimum(generator.geometric(1 / 25, count), LIMIT)
    ids = [generator.integers(1, 99, length).tolist() for length in lengths]
    batches = list(token_batches(ids, tokens_per_batch=1024, limit=LIMIT))
    assert sorted(np.concatenate([batch.places for batch in batches])) == list(range(count))
    for batch in batches:
        assert batch.token_ids.size <= 1024
        assert batch.token_ids.shape[1] <= LIMIT
        for row, place in enumerate(batch.places):
            assert batch.token_ids[row][batch.mask[row]].tolist() == ids[place]
        assert not batch.mask[len(batch.places) :].any()
    if count == 700:
        computed = sum(batch.token_ids.size for batch in batches)
        assert computed < 1.25 * lengths.sum()
        assert len({batch.token_ids.shape for batch in batches}) <= 17


def test_a_text_longer_than_a_batch_stands_alone():
    batches = list(token_batches([[1] * 100, [2] * 90], tokens_per_batch=64, limit=128))
    assert [batch.token_ids.shape for batch in batches] == [(1, 112), (1, 96)]


def test_lengths_are_few_and_near():
    buckets = [bucket(length) for length in range(1, 513)]
    assert len(set(buckets)) == 20
    for length, padded in enumerate(buckets, start=1):
        assert length <= padded < max(1.25 * length, length + 8)


@pytest.fixture
def tokenizer(tmp_path):
    tiny_bert.write_tokenizer(tmp_path / "tokenizer.json")
    return open_tokenizer(tmp_path / "tokenizer.json", limit=6)


def test_texts_are_cut_and_counted_whatever_the_file_says(tokenizer):
    exact, long, empty = "The weather is lovely", "the weather is lovely today", ""
    tokens = tokenize(tokenizer, [exact, long, empty, "taxes"])
    assert tokens.ids == [[2, 4, 5, 6, 7, 3], [2, 4, 5, 6, 7, 3], [2, 3], [2, 13, 14, 3]]
    np.testing.assert_array_equal(tokens.cut, [False, True, False, False])


def test_a_text_of_100_000_characters(tokenizer):
    tokens = tokenize(tokenizer, ["weather " * 12_500])
    assert len(tokens.ids[0]) == 6
    assert tokens.cut.all()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file; wanted a tokenizer in the fast format"), ("{", "damaged: ")],
)
def test_a_tokenizer_that_cannot_be_read(content, message, tmp_path):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_tokenizer(tmp_path / "tokenizer.json", limit=6)
