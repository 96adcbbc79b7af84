"""One judgement has one identity however a file writes it, and another judgement has another."""

import json

import pytest

from paljax.data.files import read_comparisons
from paljax.data.identities import comparison_ids, task_ids, vote_ids

TEXT = {"user_id": "7", "chosen": "tea", "rejected": "rum", "prompt": "what to drink?"}
NUMBERS = {"user_id": "ann", "chosen": [1.0, 0.1], "rejected": [0.0, 2.0], "prompt": [3.0]}
TASK = TEXT | {"task_id": "4"}


def said(*contents):
    roles = ("user", "assistant")
    return [
        {"role": roles[place % 2], "content": content} for place, content in enumerate(contents)
    ]


def read(folder, row):
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return read_comparisons(folder / "rows.jsonl")


def ids(folder, row):
    """With the prompt, without, of the votes (in any order), of the task."""
    data = read(folder, row)
    votes = (
        vote_ids(data, side)[0] for side in (data.comparisons.chosen, data.comparisons.rejected)
    )
    return {
        "with prompt": comparison_ids(data, with_prompts=True)[0],
        "without prompt": comparison_ids(data, with_prompts=False)[0],
        "votes": set(votes),
        "task": task_ids(data)[0],
    }


CHAT = {"chosen": said("tea"), "rejected": said("rum")}
SAME = {
    "sides swapped": (TEXT, {"chosen": "rum", "rejected": "tea"}),
    "sides swapped, of numbers": (NUMBERS, {"chosen": [0.0, 2.0], "rejected": [1.0, 0.1]}),
    "a tie": (TEXT, {"tie": True}),
    "a user's number": (TEXT, {"user_id": 7}),
    "a task's number": (TASK, {"task_id": 4}),
    "whole numbers": (NUMBERS, {"rejected": [0, 2], "prompt": [3]}),
    "numbers of double precision": (NUMBERS, {"chosen": [1.0, 0.1 + 1e-12]}),
    "a negative zero": (NUMBERS, {"rejected": [-0.0, 2.0]}),
    "chats of one message": (TEXT, CHAT),
    "chats of one message of another's": (
        TEXT,
        {side: [{"role": "assistant", "content": TEXT[side]}] for side in CHAT},
    ),
    "chats as JSON text": (
        TEXT,
        {side: json.dumps(messages, indent=1) for side, messages in CHAT.items()},
    ),
    "a prompt as a chat": (TEXT, {"prompt": said("what to drink?")}),
    "longer chats as JSON text": (
        TEXT | {"chosen": said("a", "b"), "rejected": said("a", "c")},
        {"chosen": json.dumps(said("a", "b")), "rejected": json.dumps(said("a", "c"))},
    ),
    "white space": (TEXT, {"chosen": " tea\r\n", "prompt": "what  to\ndrink?"}),
    "composed letters": (TEXT | {"chosen": "café"}, {"chosen": "cafe\u0301"}),
}


@pytest.mark.parametrize("case", SAME)
def test_one_judgement_has_one_identity(case, tmp_path):
    row, changes = SAME[case]
    assert ids(tmp_path, row | changes) == ids(tmp_path, row)


OTHER = {
    "user": (TEXT, {"user_id": "8"}),
    "item": (TEXT, {"rejected": "milk"}),
    "case": (TEXT, {"chosen": "Tea"}),
    "numbers": (NUMBERS, {"rejected": [0.0, 2.001]}),
    "order of messages": (
        TEXT | {"chosen": said("a", "b"), "rejected": said("a", "c")},
        {"chosen": said("b", "a"), "rejected": said("c", "a")},
    ),
    "first message": (
        TEXT | {"chosen": said("a", "b"), "rejected": said("a", "c")},
        {"chosen": said("x", "b"), "rejected": said("x", "c")},
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_another_judgement_has_another(case, tmp_path):
    row, changes = OTHER[case]
    one, two = ids(tmp_path, row), ids(tmp_path, row | changes)
    assert all(one[name] != two[name] for name in ("with prompt", "without prompt", "votes"))


@pytest.mark.parametrize("row", [TEXT, NUMBERS])
def test_a_prompt_counts_only_where_it_is_read(row, tmp_path):
    bare = {name: value for name, value in row.items() if name != "prompt"}
    another = row | {"prompt": "and to eat?" if row is TEXT else [4.0]}
    one = ids(tmp_path, row)
    for other in (ids(tmp_path, another), ids(tmp_path, bare)):
        assert one["with prompt"] != other["with prompt"]
        assert one["without prompt"] == other["without prompt"]
    assert ids(tmp_path, bare)["with prompt"] == one["without prompt"]


def test_texts_that_only_look_like_chats_are_texts(tmp_path):
    for text in ("[", "[1, 2]", "[]", '[{"role": "user"}]', "[" * 100_000, '["tea"]', "[tea]"):
        assert ids(tmp_path, TEXT | {"chosen": text})["votes"] != ids(tmp_path, TEXT)["votes"]
    lone = '[{"role": "user", "content": "\\ud800"}]'  # half of a letter that UTF-8 can't write
    assert ids(tmp_path, TEXT | {"chosen": lone}) == ids(tmp_path, TEXT | {"chosen": lone + " "})
