"""Texts as token ids, and batches of texts of like length that hold a number of tokens.

N texts, B texts a batch, T tokens a text in it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.errors import UserError

# Texts that are tokenised in one call: enough for all cores, little enough to stop between.
_AT_ONCE = 8192


class Tokenized(NamedTuple):
    """N texts as token ids."""

    ids: list[list[int]]  # [N] of their own lengths
    cut: NDArray[np.bool_]  # [N] the text has more tokens than were kept


class TokenBatch(NamedTuple):
    """B texts of like length; rows from `len(places)` on are padding."""

    places: NDArray[np.int64]  # of the texts among all
    token_ids: NDArray[np.int32]  # [B, T], 0 is padding
    mask: NDArray[np.bool_]  # [B, T] True is a token


def open_tokenizer(path: Path, *, limit: int) -> Any:
    """Open a `tokenizer.json`, to cut texts at `limit` tokens, those that frame a text included.

    Raises:
        UserError: If it is missing or damaged.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise UserError(f"{path}: no such file; wanted a tokenizer in the fast format")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())[:200]}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tokenized:
    """Token ids of texts.

    Args:
        tokenizer: Of `open_tokenizer`.
        texts: N texts.

    Returns:
        The ids, and which texts were cut.
    """
    ids: list[list[int]] = []
    cut: list[bool] = []
    for start in range(0, len(texts), _AT_ONCE):
        for encoding in tokenizer.encode_batch_fast(list(texts[start : start + _AT_ONCE])):
            ids.append(encoding.ids)
            cut.append(bool(encoding.overflowing))
    return Tokenized(ids, np.array(cut, np.bool_))


def bucket(length: int) -> int:
    """The length that a text of `length` tokens is padded to: by less than a quarter, or up to 7.

    Few lengths make few programs to compile, many lengths little padding to compute.
    """
    step = max(8, 1 << (length - 1).bit_length() >> 3)
    return -(-length // step) * step


def token_batches(
    ids: Sequence[Sequence[int]], *, tokens_per_batch: int, limit: int
) -> Iterator[TokenBatch]:
    """Cut texts into batches of like length, the longest first.

    Args:
        ids: Token ids of N texts.
        tokens_per_batch: B times T, at most; a text longer than that is a batch of its own.
        limit: The most tokens that the model reads; T is never above.

    Yields:
        Batches of few distinct shapes [B, T]; every text is in one of them.
    """
    lengths = np.array([len(row) for row in ids], np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        length = min(bucket(int(max(lengths[order[start]], 1))), limit)
        places = order[start : start + max(1, tokens_per_batch // length)]
        start += len(places)
        # Only the last batch is not full; its shape is one of few, too.
        rows = max(1, tokens_per_batch // length)
        rows = min(rows, 1 << (len(places) - 1).bit_length())
        token_ids = np.zeros((rows, length), np.int32)
        mask = np.zeros((rows, length), np.bool_)
        for row, place in enumerate(places):
            token_ids[row, : lengths[place]] = ids[place]
            mask[row, : lengths[place]] = True
        yield TokenBatch(places, token_ids, mask)
