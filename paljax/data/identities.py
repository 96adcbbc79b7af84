"""Who judged what, as hashes: the same judgement has the same identity in every data set.

A comparison is a user, a prompt and two items, whichever was chosen; a vote is a user and an item;
a choice task is a user and their name of it.
"""

from collections.abc import Collection, Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Dataset
from paljax.data.encoders import content


def comparison_ids(dataset: Dataset) -> list[str]:
    """The identity of every comparison, [n]."""
    users, items = _digests(dataset.users), _digests(content(dataset.items))
    prompts = [b""] if dataset.prompts is None else _digests(content(dataset.prompts))
    rows = dataset.comparisons
    return [
        _hash(users[user], prompts[max(prompt, 0)], *sorted((items[chosen], items[rejected]))).hex()
        for user, prompt, chosen, rejected in zip(
            rows.user, rows.prompt, rows.chosen, rows.rejected, strict=True
        )
    ]


def vote_ids(dataset: Dataset, item: NDArray[np.int32]) -> list[str | None]:
    """The identity of each comparison's user with one item of it, [n]; `item` are its rows.

    None where it is a level, on which nobody votes.
    """
    users, items = _digests(dataset.users), _digests(content(dataset.items))
    votes = zip(dataset.comparisons.user, item, dataset.is_level(item), strict=True)
    return [
        None if is_level else _hash(users[user], items[row]).hex() for user, row, is_level in votes
    ]


def votes_of(dataset: Dataset, levels: Collection[str]) -> list[set[str]]:
    """The identities of the votes that each comparison is made of, [n].

    Args:
        dataset: As read from a file, where levels are items like others.
        levels: Texts that votes are compared with, on which nobody votes.
    """
    known = [text in levels for text in content(dataset.items)]
    rows = dataset.comparisons
    return [
        {name for name, item in zip(names, items, strict=True) if name and not known[item]}
        for names, items in zip(
            zip(vote_ids(dataset, rows.chosen), vote_ids(dataset, rows.rejected), strict=True),
            zip(rows.chosen, rows.rejected, strict=True),
            strict=True,
        )
    ]


def task_ids(dataset: Dataset) -> list[str | None]:
    """The identity of every comparison's choice task, [n]; None for a task without a name."""
    users, rows = _digests(dataset.users), dataset.comparisons.user
    if dataset.task_id is None:
        return [None] * len(rows)
    named = zip(rows, dataset.task_id, strict=True)
    return [
        None if name is None else _hash(users[user], name.encode()).hex() for user, name in named
    ]


def _digests(texts: Iterable[str]) -> list[bytes]:
    return [_hash(text.encode()) for text in texts]


def _hash(*parts: bytes) -> bytes:
    """16 bytes: of a billion judgements no two will have the same."""
    return blake2b(b"".join(parts), digest_size=16).digest()
