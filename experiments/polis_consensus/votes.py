"""Votes of a Polis conversation for this experiment: its groups, its folds, its candidates.

U people, N statements, G groups, F folds, v votes, Y candidates. Only people whom Polis placed in a
group are kept. The groups are Polis's own and come from all votes: they say who is to be served,
and no vote of a held-out person reaches a reward or a rule.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from paljax.data.builders import load
from paljax.data.polis import NO_GROUP
from paljax.storage import Table, write_table

SILENCE = "(saying nothing)"
# A candidate has this many votes from every group, whatever they say.
LEAST_VOTES = 15
VALIDATION, TEST = 0.10, 0.05  # of a person's votes, in a reward run


class Conversation(NamedTuple):
    """Votes of placed people, and who is held out when."""

    name: str
    people: tuple[str, ...]  # [U]
    statements: tuple[str, ...]  # [N]
    groups: tuple[str, ...]  # [G]
    group: NDArray[np.int64]  # [U]
    fold: NDArray[np.int64]  # [U] in which the person is held out
    voted: NDArray[np.bool_]  # [U, N]
    agreed: NDArray[np.bool_]  # [U, N]; a pass is a vote that does not agree
    candidates: NDArray[np.int64]  # [Y] statements that rules choose among


class Counts(NamedTuple):
    """How many of each group voted on each candidate, and agreed."""

    voted: NDArray[np.float64]  # [G, Y]
    agreed: NDArray[np.float64]  # [G, Y]


def read(name: str, num_folds: int, seed: int) -> Conversation:
    """Load a conversation and deal each group's people to folds of one size."""
    dataset = load("polis", conversation=name)
    votes = dataset.votes
    assert votes is not None
    assert votes.group is not None
    votes = votes.select(np.not_equal(votes.group, NO_GROUP))
    users, user = np.unique(votes.user, return_inverse=True)
    label = np.empty(len(users), object)
    label[user] = votes.group
    names, group = np.unique(label.astype(str), return_inverse=True)
    voted = np.zeros((len(users), len(dataset.items)), bool)
    agreed = np.zeros_like(voted)
    voted[user, votes.item] = True
    agreed[user, votes.item] = votes.value == 1
    generator = np.random.default_rng(seed)
    fold = np.empty(len(users), np.int64)
    for g in range(len(names)):
        members = generator.permutation(np.flatnonzero(group == g))
        fold[members] = np.arange(len(members)) % num_folds
    fewest = np.min([voted[group == g].sum(axis=0) for g in range(len(names))], axis=0)
    return Conversation(
        name=name,
        people=tuple(dataset.users[row] for row in users),
        statements=tuple(str(text) for text in dataset.items),
        groups=tuple(names.tolist()),
        group=group,
        fold=fold,
        voted=voted,
        agreed=agreed,
        candidates=np.flatnonzero(fewest >= LEAST_VOTES),
    )


def learned_from(conversation: Conversation, fold: int, seed: int) -> NDArray[np.object_]:
    """The part [U, N] of every vote in the reward run of a fold; "" for held-out people."""
    draw = np.random.default_rng([seed, fold]).random(conversation.voted.shape)
    part = np.full(draw.shape, "train", object)
    part[draw < VALIDATION + TEST] = "validation"
    part[draw < TEST] = "test"
    # Everybody has something to learn from: the first vote is for training.
    part[np.arange(len(part)), conversation.voted.argmax(axis=1)] = "train"
    part[~conversation.voted | (conversation.fold == fold)[:, None]] = ""
    return part


def write_comparisons(conversation: Conversation, part: NDArray[np.object_], file: Path) -> None:
    """Write every vote as a comparison of the statement with silence; see reward.yaml."""
    user, item = np.nonzero(np.not_equal(part, ""))
    statement = np.array(conversation.statements, object)[item]
    silence = np.full(len(item), SILENCE, object)
    agreed = conversation.agreed[user, item]
    columns: dict[str, Any] = {
        "user_id": np.array(conversation.people, object)[user],
        "chosen": np.where(agreed, statement, silence),
        "rejected": np.where(agreed, silence, statement),
        "group": np.array(conversation.groups, object)[conversation.group[user]],
        "split": part[user, item],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_table(file, Table(columns, dict.fromkeys(columns, pa.string())))


def count(conversation: Conversation, used: NDArray[np.bool_]) -> Counts:
    """Count the votes [U, N] that may be used, on candidates, by group."""
    members = np.eye(len(conversation.groups))[conversation.group].T  # [G, U]
    voted = (conversation.voted & used)[:, conversation.candidates]
    agreed = (conversation.agreed & used)[:, conversation.candidates]
    return Counts(members @ voted, members @ agreed)
