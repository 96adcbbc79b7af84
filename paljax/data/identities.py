"""Who judged what, as hashes: the same judgement has the same identity in every data set.

A comparison is a user, a prompt and two items, whichever was chosen; a vote is a user and an item;
a choice task is a user and their name of it. To a model that reads no prompts a comparison is the
same under every prompt, and without one: then it is a user and two items.

Texts are the same that differ in white space or in how Unicode composes their letters, and a chat
of one message is the text of this message: one export writes what another leaves out.
"""

import json
import unicodedata
from collections.abc import Collection, Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Dataset, Table
from paljax.data.encoders import content
from paljax.data.messages import is_messages


def comparison_ids(dataset: Dataset, *, with_prompts: bool) -> list[str]:
    """The identity of every comparison, [n].

    Args:
        dataset: The comparisons.
        with_prompts: Whether the prompt belongs to it, as it does for a model that reads prompts.
    """
    users, items = _digests(dataset.users), _of_table(dataset.items)
    rows = dataset.comparisons
    prompts, prompt = [b""], np.zeros_like(rows.prompt)
    if with_prompts and dataset.prompts is not None:
        prompts, prompt = _of_table(dataset.prompts), rows.prompt
    return [
        _hash(users[user], prompts[asked], *sorted((items[chosen], items[rejected]))).hex()
        for user, asked, chosen, rejected in zip(
            rows.user, prompt, rows.chosen, rows.rejected, strict=True
        )
    ]


def vote_ids(dataset: Dataset, item: NDArray[np.int32]) -> list[str | None]:
    """The identity of each comparison's user with one item of it, [n]; `item` are its rows.

    None where it is a level, on which nobody votes.
    """
    users, items = _digests(dataset.users), _of_table(dataset.items)
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


def _of_table(table: Table) -> list[bytes]:
    """A digest of every item or prompt."""
    return _digests(map(_said, table) if isinstance(table, tuple) else content(table))


def _said(text: str) -> str:
    """A text without what exports differ in."""
    messages = _messages(text)
    if not messages:
        return " ".join(unicodedata.normalize("NFC", text).split())
    said = [[message["role"], _said(message["content"])] for message in messages]
    return said[0][1] if len(said) == 1 else json.dumps(said)


def _messages(text: str) -> list[dict[str, str]]:
    """The messages of a chat that is written as JSON; none of any other text."""
    if not text.lstrip().startswith("["):
        return []
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return held if is_messages(held) else []


def _digests(texts: Iterable[str]) -> list[bytes]:
    return [_hash(text.encode("utf-8", "surrogatepass")) for text in texts]


def _hash(*parts: bytes) -> bytes:
    """16 bytes: of a billion judgements no two will have the same."""
    return blake2b(b"".join(parts), digest_size=16).digest()
