"""Comparison files: every format gives the same data, and every bad row or file its own line."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paljax.data.files import read_comparisons, read_responses
from paljax.errors import UserError

GOOD = {"user_id": "ann", "chosen": "tea", "rejected": "milk"}
CHAT = [{"role": "user", "content": "hi"}, {"content": "Grüße", "role": "assistant"}]


def csv_bytes(rows):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(rows[0])
    for row in rows:
        cells = (row[name] for name in rows[0])
        writer.writerow(
            "" if c is None else json.dumps(c) if isinstance(c, list) else c for c in cells
        )
    return out.getvalue().encode()


def parquet_bytes(rows, schema=None):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), out)
    return out.getvalue()


def jsonl_bytes(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


WRITERS = {".jsonl": jsonl_bytes, ".csv": csv_bytes, ".parquet": parquet_bytes}


def write(folder: Path, suffix: str, content) -> Path:
    """Write rows (or bytes as they are) to a file of a format."""
    data = content if isinstance(content, bytes) else WRITERS[suffix.removesuffix(".gz")](content)
    path = folder / f"votes{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    return path


def assert_same(one, other):
    for name in one._fields:
        a, b = getattr(one, name), getattr(other, name)
        if name == "comparisons":
            for field in a._fields:
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            assert a == b, name


# ---- What good files hold


def rows_of(kind):
    """Seven rows with every column, and items of one kind."""
    item = {
        "text": lambda i: f'item {i}, süß \u2028 and\n"quoted"',
        "numbers": lambda i: [i / 3, -1e-30, i],
        "messages": lambda i: [*CHAT, {"role": "user", "content": str(i)}],
    }[kind]
    return [
        {
            "user_id": f"u{i % 3}",
            "prompt": item(10 + i % 2),
            "chosen": item(i),
            "rejected": item((i + 1) % 7),
            "tie": i == 2,
            "weight": 0.25 * i,
            "group": "ab"[i % 2],
            "split": ["train", "validation", "test", "support"][i % 3],
            "task_id": i // 6,
            "timestamp": 1700000000.5 + i,
        }
        for i in range(7)
    ]


@pytest.mark.parametrize("kind", ["text", "numbers", "messages"])
def test_every_format_gives_equal_data(tmp_path, kind):
    rows = rows_of(kind)
    first = read_comparisons(write(tmp_path, ".jsonl", rows))
    for suffix in (".csv", ".parquet", ".jsonl.gz", ".csv.gz", ".parquet.gz", ".CSV"):
        other = write(tmp_path, suffix, csv_bytes(rows) if suffix == ".CSV" else rows)
        assert_same(first, read_comparisons(other))

    comparisons = first.comparisons
    assert first.users == ("u0", "u1", "u2")
    np.testing.assert_array_equal(comparisons.user, [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(comparisons.chosen, range(7))
    np.testing.assert_array_equal(comparisons.rejected, [1, 2, 3, 4, 5, 6, 0])
    np.testing.assert_array_equal(comparisons.prompt, [0, 1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(comparisons.tie, [i == 2 for i in range(7)])
    np.testing.assert_array_equal(comparisons.weight, 0.25 * np.arange(7))
    np.testing.assert_array_equal(comparisons.task, [0, 1, 2, 0, 1, 2, 3])
    assert first.group.tolist() == list("abababa")
    assert first.split.tolist()[:4] == ["train", "validation", "test", "train"]
    assert first.timestamp.tolist() == [1700000000.5 + i for i in range(7)]
    assert first.dropped == {}
    if kind == "numbers":
        np.testing.assert_array_equal(
            first.items, np.array([row["chosen"] for row in rows], np.float32)
        )
    elif kind == "text":
        assert first.items == tuple(row["chosen"] for row in rows)
    else:
        assert first.items[0] == (
            '[{"content":"hi","role":"user"},{"content":"Grüße","role":"assistant"},'
            '{"content":"0","role":"user"}]'
        )
        assert {type(item) for item in first.items} == {str}


@pytest.mark.parametrize("kind", ["text", "numbers", "messages"])
def test_several_files_are_read_as_one(tmp_path, kind):
    rows = rows_of(kind)
    whole = read_comparisons(write(tmp_path, ".jsonl.gz", rows))
    shards = ((".jsonl", rows[:3]), (".csv", rows[3:5]), (".parquet", rows[5:]))
    assert_same(whole, read_comparisons(*(write(tmp_path, *shard) for shard in shards)))


def test_columns_are_remapped(tmp_path):
    rows = [{"annotator": "ann", "a.b": "tea", "no": "milk", "chosen": "not this", "other": None}]
    mapping = {"user_id": "annotator", "chosen": "a.b", "rejected": "no"}
    for suffix in WRITERS:
        dataset = read_comparisons(write(tmp_path, suffix, rows), columns=mapping)
        assert (dataset.users, dataset.items) == (("ann",), ("tea", "milk"))


def test_users_tasks_and_groups_may_be_whole_numbers(tmp_path):
    rows = [{**GOOD, "user_id": 7, "group": 1}, {**GOOD, "user_id": 8, "group": 2}]
    for suffix in WRITERS:
        dataset = read_comparisons(write(tmp_path, suffix, rows))
        assert dataset.users == ("7", "8")
        assert dataset.group.tolist() == ["1", "2"]
    mixed = write(tmp_path, ".jsonl", [{**GOOD, "user_id": 7}, {**GOOD, "user_id": "7"}])
    assert read_comparisons(mixed).users == ("7",)


def test_an_absent_tie_weight_and_task_have_their_defaults(tmp_path):
    rows = [
        {**GOOD, "tie": True, "weight": 3.0, "task_id": "x", "group": None},
        {**GOOD, "tie": None, "weight": None, "task_id": None, "group": None},
        {**GOOD, "tie": None, "weight": None, "task_id": None, "group": None},
    ]
    for suffix in WRITERS:
        dataset = read_comparisons(write(tmp_path, suffix, rows))
        np.testing.assert_array_equal(dataset.comparisons.tie, [True, False, False])
        np.testing.assert_array_equal(dataset.comparisons.weight, [3, 1, 1])
        np.testing.assert_array_equal(dataset.comparisons.task, [0, 1, 2])
        assert dataset.group is None


def test_a_csv_column_is_lists_or_text_as_a_whole(tmp_path):
    texts = b'user_id,chosen,rejected,prompt\na,"[1]",x,"[1,2]"\na,y,z,"[3, 4]"\na,v,w,"[5,6]"\n'
    dataset = read_comparisons(write(tmp_path, ".csv", texts))
    assert dataset.items == ("[1]", "x", "y", "z", "v", "w")
    np.testing.assert_array_equal(dataset.prompts, [[1, 2], [3, 4], [5, 6]])
    # Chosen and rejected decide together: four lists in six cells.
    lists = write(
        tmp_path, ".csv", b'user_id,chosen,rejected\na,"[1]",x\na,"[2]","[3]"\na,"[4]",z\n'
    )
    assert "row 1, column 'rejected': 'x': is text, where most items are 1 num" in message(lists)
    kept = read_comparisons(lists, on_bad_row="skip")
    np.testing.assert_array_equal(kept.items, [[2], [3]])
    assert kept.dropped == {"mixed kinds": 2}


@pytest.mark.parametrize(
    ("cell", "tie"), [("true", True), ("FALSE", False), ("0", False), ("1", True), ("True", True)]
)
def test_booleans_in_csv(tmp_path, cell, tie):
    path = write(tmp_path, ".csv", f"user_id,chosen,rejected,tie\na,b,c,{cell}\n".encode())
    assert read_comparisons(path).comparisons.tie.tolist() == [tie]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (12.5, 12.5),
        (-3, -3.0),
        ("1970-01-02", 86400.0),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T02:00:00.5+02:00", 0.5),
    ],
)
def test_timestamps_are_seconds(tmp_path, written, seconds):
    for suffix in WRITERS:
        path = write(tmp_path, suffix, [{**GOOD, "timestamp": written}])
        assert read_comparisons(path).timestamp.tolist() == [seconds]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_parquet_has_timestamps_of_its_own(tmp_path, unit, zone):
    schema = pa.schema(
        [*((name, pa.string()) for name in GOOD), ("timestamp", pa.timestamp(unit, zone))]
    )
    instant = pa.scalar(60 * 10 ** {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit], pa.int64())
    table = pa.Table.from_pylist([GOOD], pa.schema(list(schema)[:3]))
    stamp = pa.array([instant.as_py()], pa.int64()).cast(pa.timestamp(unit, zone))
    pq.write_table(table.append_column(schema.field(3), stamp), tmp_path / "votes.parquet")
    assert read_comparisons(tmp_path / "votes.parquet").timestamp.tolist() == [60.0]


@pytest.mark.parametrize(
    "numbers",
    [
        pa.list_(pa.float16()),
        pa.list_(pa.float32()),
        pa.list_(pa.float64(), 2),
        pa.large_list(pa.int8()),
    ],
)
def test_parquet_has_several_lists_of_numbers(tmp_path, numbers):
    schema = pa.schema([("user_id", pa.int64()), ("chosen", numbers), ("rejected", numbers)])
    rows = [{"user_id": i, "chosen": [i, 2], "rejected": [3, i]} for i in range(2)]
    rows.append({"user_id": 9, "chosen": None, "rejected": [1, 1]})
    path = write(tmp_path, ".parquet", parquet_bytes([dict(row) for row in rows], schema))
    dataset = read_comparisons(path, on_bad_row="skip")
    np.testing.assert_array_equal(dataset.items, [[0, 2], [3, 0], [1, 2], [3, 1]])
    assert dataset.dropped == {"missing": 1}


def test_parquet_in_many_row_groups_and_categories(tmp_path):
    rows = rows_of("numbers")
    table = pa.Table.from_pylist(rows)
    index = table.column_names.index("group")
    table = table.set_column(index, "group", table["group"].dictionary_encode())
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=2)
    assert_same(
        read_comparisons(tmp_path / "groups.parquet"),
        read_comparisons(write(tmp_path, ".jsonl", rows)),
    )


def test_marks_of_spreadsheets_and_blank_ends_do_no_harm(tmp_path):
    sheet = b"\xef\xbb\xbfuser_id,chosen,rejected\r\na,b,c\r\n\r\n\r\n"
    assert read_comparisons(write(tmp_path, ".csv", sheet)).users == ("a",)
    lines = b"\xef\xbb\xbf" + jsonl_bytes([GOOD]).replace(b"\n", b"\r\n") + b"\n  \n"
    assert read_comparisons(write(tmp_path, ".jsonl", lines)).users == ("ann",)
    assert read_comparisons(write(tmp_path, ".jsonl", jsonl_bytes([GOOD])[:-1])).users == ("ann",)


def test_long_texts_and_the_csv_modules_limit(tmp_path):
    before = csv.field_size_limit(1000)
    try:
        path = write(tmp_path, ".csv", [{**GOOD, "chosen": "x" * 2000}])
        assert len(read_comparisons(path).items[0]) == 2000
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_one_task_of_several_users_may_be_in_several_splits(tmp_path):
    rows = [
        {**GOOD, "user_id": user, "task_id": 1, "split": split}
        for user, split in [("a", "train"), ("b", "test"), ("a", "train")]
    ]
    dataset = read_comparisons(write(tmp_path, ".jsonl", rows))
    np.testing.assert_array_equal(dataset.comparisons.task, [0, 1, 0])


def test_two_hundred_thousand_rows(tmp_path):
    n = 200_000
    rows = {
        "user_id": [i % 1000 for i in range(n)],
        "chosen": [f"answer {i % 7001}" for i in range(n)],
        "rejected": [f"reply {i % 6007}" for i in range(n)],
    }
    pq.write_table(pa.table(rows), tmp_path / "votes.parquet")
    dataset = read_comparisons(tmp_path / "votes.parquet")
    lines = "".join(
        f'{{"user_id": {u}, "chosen": "{c}", "rejected": "{r}"}}\n'
        for u, c, r in zip(*rows.values(), strict=True)
    )
    assert_same(dataset, read_comparisons(write(tmp_path, ".jsonl", lines.encode())))
    assert (len(dataset.users), len(dataset.items)) == (1000, 13008)
    last = dataset.comparisons.select(np.array([n - 1]))
    assert dataset.items[last.chosen[0]] == f"answer {(n - 1) % 7001}"


# ---- Bad rows: each is the second of three, and alone in being bad


def message(path, **options):
    with pytest.raises(UserError) as caught:
        read_comparisons(path, **options)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert str(path) in line or options
    return line


def second(**change):
    return {**GOOD, **change}


NUMERIC = {"user_id": "ann", "chosen": [1.0, 2.0], "rejected": [3, 4]}

BAD_ROWS = [
    # name, good row, bad row (a dictionary, or the line), reason, words of the line
    ("no user", GOOD, second(user_id=None), "missing", "column 'user_id': is missing"),
    ("no chosen", GOOD, {"user_id": "a", "rejected": "b"}, "missing", "column 'chosen'"),
    ("no rejected", GOOD, second(rejected=None), "missing", "column 'rejected'"),
    ("empty user", GOOD, second(user_id=""), "empty", "column 'user_id'"),
    ("blank text", GOOD, second(chosen=" \n\t"), "empty", r"'chosen': ' \n\t': is empty"),
    ("user is a number", GOOD, second(user_id=1.5), "unknown type", "'user_id': 1.5: must be text"),
    ("user is a boolean", GOOD, second(user_id=True), "unknown type", "'user_id': True"),
    ("item is a number", GOOD, second(chosen=3), "unknown type", "'chosen': 3: must be text, a"),
    ("item is an object", GOOD, second(chosen={"a": 1}), "unknown type", "'chosen': {'a': 1}"),
    ("item is a list of text", GOOD, second(chosen=["a"]), "unknown type", "'chosen': ['a']"),
    ("item is an empty list", GOOD, second(rejected=[]), "empty", "'rejected': []: is an empty"),
    ("item is a list of booleans", NUMERIC, {**NUMERIC, "chosen": [True, False]}, "unknown type",
     "'chosen': [True, False]: must be"),
    ("item has a null", NUMERIC, {**NUMERIC, "chosen": [1, None]}, "unknown type", "[1, None]"),
    ("message without content", GOOD, second(chosen=[{"role": "user"}]), "unknown type",
     "messages {'role'"),
    ("message content is a number", GOOD, second(chosen=[{"role": "user", "content": 1}]),
     "unknown type", "messages {'role'"),
    ("message with another key", GOOD, second(chosen=[{"role": "u", "content": "c", "name": "n"}]),
     "unknown type", "messages {'role'"),
    ("messages without words", GOOD, second(chosen=[{"role": "user", "content": " "}]), "empty",
     "messages without content"),
    ("NaN", NUMERIC, {**NUMERIC, "rejected": [1, float("nan")]}, "not finite",
     "'rejected': [1.0, nan]: holds a number that is NaN"),
    ("infinite", NUMERIC, {**NUMERIC, "chosen": [float("-inf"), 1]}, "not finite", "[-inf, 1.0]"),
    ("infinite in float32", NUMERIC, {**NUMERIC, "chosen": [1e39, 1]}, "not finite", "[1e+39"),
    ("beyond any float", NUMERIC, {**NUMERIC, "chosen": [10**400, 1]}, "not finite", "characters)"),
    ("width", NUMERIC, {**NUMERIC, "chosen": [1, 2, 3]}, "wrong width",
     "'chosen': [1.0, 2.0, 3.0]: is 3 numbers, where most items are 2 numbers"),
    ("text among numbers", NUMERIC, {**NUMERIC, "rejected": "tea"}, "mixed kinds",
     "'rejected': 'tea': is text, where most items are 2 numbers"),
    ("messages among text", GOOD, second(chosen=CHAT), "mixed kinds",
     "is messages, where most items are text"),
    ("prompt of another kind", second(prompt="why?"), second(prompt=[1]), "mixed kinds",
     "'prompt': [1.0]: is 1 numbers, where most items are text"),
    ("no prompt", second(prompt="why?"), GOOD, "missing", "column 'prompt'"),
    ("equal texts", GOOD, second(chosen="milk"), "chosen equals rejected", "'chosen': 'milk'"),
    ("equal texts in a tie", second(tie=False), second(chosen="milk", tie=True),
     "chosen equals rejected", "'chosen': 'milk'"),
    ("equal in float32", NUMERIC, {**NUMERIC, "chosen": [3.0, 4.0 + 1e-12]},
     "chosen equals rejected", "'chosen': [3.0, 4.0]"),
    ("equal messages", second(chosen=CHAT, rejected=CHAT[:1]),
     second(chosen=CHAT, rejected=[dict(reversed(m.items())) for m in CHAT]),
     "chosen equals rejected", "is chosen and rejected at once"),
    ("negative weight", second(weight=1), second(weight=-0.5), "negative weight",
     "'weight': -0.5: must be 0 or more"),
    ("NaN weight", second(weight=1), second(weight=float("nan")), "not finite", "'weight': nan"),
    ("huge weight", second(weight=1), second(weight=10**400), "not finite", "'weight': 1000"),
    ("weight is text", second(weight=1), second(weight="much"), "unknown type",
     "'weight': 'much': must be a number"),
    ("weight is a boolean", second(weight=1), second(weight=True), "unknown type",
     "'weight': True"),
    ("split", second(split="train"), second(split="Train"), "unknown split",
     "'split': 'Train': is not a split: did you mean 'train'?"),
    ("split is a list", second(split="train"), second(split=["test"]), "unknown split", "['test']"),
    ("no split", second(split="train"), GOOD, "missing", "column 'split'"),
    ("no group", second(group="x"), GOOD, "missing", "column 'group'"),
    ("no timestamp", second(timestamp=1), GOOD, "missing", "column 'timestamp'"),
    ("group is a number", second(group="x"), second(group=0.5), "unknown type", "'group': 0.5"),
    ("task is a list", second(task_id=1), second(task_id=[1]), "unknown type", "'task_id': [1]"),
    ("tie is a number", second(tie=True), second(tie=1), "not boolean",
     "'tie': 1: must be true or false"),
    ("tie is text", second(tie=True), second(tie="true"), "not boolean", "'tie': 'true'"),
    ("timestamp", second(timestamp=1), second(timestamp="yesterday"), "bad timestamp",
     "'timestamp': 'yesterday': must be a number or a time"),
    ("no such day", second(timestamp=1), second(timestamp="2023-02-30"), "bad timestamp",
     "'2023-02-30'"),
    ("infinite timestamp", second(timestamp=1), second(timestamp=float("inf")), "not finite",
     "'timestamp': inf"),
    ("timestamp is a boolean", second(timestamp=1), second(timestamp=True), "unknown type", "True"),
    ("half a surrogate pair", GOOD, second(chosen="\ud800"), "not UTF-8", "'\\ud800'"),
    ("half a pair in a message", GOOD, second(chosen=[{"role": "u", "content": "\udfff"}]),
     "not UTF-8", "cannot be written as UTF-8"),
    ("not JSON", GOOD, b'{"user_id": "a", "chosen"', "unreadable line", 'is not JSON (Expecting'),
    ("two objects in a line", GOOD, b"{} {}", "unreadable line", "Extra data, character 4"),
    ("not an object", GOOD, b"[1, 2]", "unreadable line", "[1, 2] is not a JSON object"),
    ("blank line", GOOD, b"  ", "unreadable line", "'' is not JSON"),
    ("endless digits", GOOD, b'{"user_id": ' + b"9" * 5000 + b"}", "unreadable line", "cannot be"),
    ("endless brackets", GOOD, b'{"user_id": ' + b"[" * 99999, "unreadable line", "cannot be read"),
    ("not UTF-8", GOOD, b'{"user_id": "\xff"}', "not UTF-8", "byte 14 of the line is not UTF-8"),
    ("key twice", GOOD, b'{"user_id": "a", "user_id": "b"}', "duplicate key", "key 'user_id'"),
    ("key twice inside", GOOD, b'{"x": {"y": 1, "z": 2, "y": 3}}', "duplicate key", "key 'y'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("good", "bad", "reason", "words"),
    [case[1:] for case in BAD_ROWS],
    ids=[case[0] for case in BAD_ROWS],
)
def test_bad_rows_of_jsonl(tmp_path, good, bad, reason, words):
    line = bad + b"\n" if isinstance(bad, bytes) else jsonl_bytes([bad])
    path = write(tmp_path, ".jsonl", jsonl_bytes([good]) + line + jsonl_bytes([good]))
    told = message(path)
    assert "row 2" in told
    assert words in told
    assert len(told) < 100 + len(str(path)) + 160
    dataset = read_comparisons(path, on_bad_row="skip")
    assert dataset.dropped == {reason: 1}
    assert len(dataset.comparisons.user) == 2
    assert len(dataset.items) == 2


BAD_CSV_ROWS = [
    ("no user", ",b,c,,,test,5", "missing", "column 'user_id'"),
    ("few cells", "a,b,c", "unreadable line", "3 cells, where the header has 7"),
    ("many cells", "a,b,c,,,test,5,", "unreadable line", "8 cells, where the header has 7"),
    ("blank row", "", "unreadable line", "0 cells, where the header has 7"),
    ("blank text", "a,  ,c,,,test,5", "empty", "column 'chosen': '  '"),
    ("equal", "a,b,b,,,test,5", "chosen equals rejected", "column 'chosen': 'b'"),
    ("weight is text", "a,b,c,heavy,,test,5", "unknown type", "column 'weight': 'heavy'"),
    ("weight with a mark", "a,b,c,1_000,,test,5", "unknown type", "column 'weight': '1_000'"),
    ("NaN weight", "a,b,c,nan,,test,5", "not finite", "column 'weight': nan"),
    ("negative weight", "a,b,c,-1,,test,5", "negative weight", "column 'weight': -1.0"),
    ("tie", "a,b,c,,yes,test,5", "not boolean", "column 'tie': 'yes'"),
    ("tie is two", "a,b,c,,2,test,5", "not boolean", "column 'tie': '2'"),
    ("split", "a,b,c,,,tset,5", "unknown split", "'tset': is not a split: did you mean 'test'?"),
    ("timestamp", "a,b,c,,,test,soon", "bad timestamp", "column 'timestamp': 'soon'"),
    ("not UTF-8", "a,\udcff,c,,,test,5", "not UTF-8", "row 2: the row is not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [case[1:] for case in BAD_CSV_ROWS],
    ids=[case[0] for case in BAD_CSV_ROWS],
)
def test_bad_rows_of_csv(tmp_path, row, reason, words):
    good = "a,b,c,1,true,test,5"
    text = "\n".join(["user_id,chosen,rejected,weight,tie,split,timestamp", good, row, good, ""])
    path = write(tmp_path, ".csv", text.encode(errors="surrogateescape"))
    told = message(path)
    assert "row 2" in told
    assert words in told
    dataset = read_comparisons(path, on_bad_row="skip")
    assert dataset.dropped == {reason: 1}
    assert len(dataset.comparisons.user) == 2


def bad_parquet(values, kind=None):
    columns = {"user_id": ["a", "b", "c"], "chosen": ["x"] * 3, "rejected": ["y"] * 3}
    if kind is not None:
        return {
            **columns,
            "chosen": pa.array(values, kind),
            "rejected": pa.array([[7, 8]] * 3, kind),
        }
    return {**columns, **values}


BAD_PARQUET_ROWS = [
    ("no user", bad_parquet({"user_id": ["a", None, "c"]}), "missing", "column 'user_id'"),
    ("NaN", bad_parquet([[1, 2], [float("nan"), 1], [1, 2]], pa.list_(pa.float32())),
     "not finite", "[nan, 1.0]: holds a number that is NaN"),
    *(
        (f"null inside, {kind}", bad_parquet([[1, 2], [None, 1], [1, 2]], kind),
         "not finite", "[nan, 1.0]: holds a number that is NaN")
        for kind in (pa.list_(pa.int64()), pa.list_(pa.float32(), 2), pa.large_list(pa.float64()))
    ),
    ("width", bad_parquet([[1, 2], [1], [1, 2]], pa.list_(pa.float64())),
     "wrong width", "[1.0]: is 1 numbers, where most items are 2 numbers"),
    ("empty list", bad_parquet([[1, 2], [], [1, 2]], pa.list_(pa.float64())),
     "empty", "'chosen': []: is an empty list"),
    ("no list", bad_parquet([[1, 2], None, [1, 2]], pa.list_(pa.float64(), 2)),
     "missing", "column 'chosen'"),
    ("weight", bad_parquet({"weight": [1.0, -1.0, 2.0]}), "negative weight", "'weight': -1.0"),
    ("equal", bad_parquet({"chosen": ["x", "y", "x"]}), "chosen equals rejected", "'chosen': 'y'"),
    ("not UTF-8", bad_parquet({"chosen": pa.array([b"x", b"\xff", b"x"]).view(pa.string())}),
     "not UTF-8", "column 'chosen'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "reason", "words"),
    [case[1:] for case in BAD_PARQUET_ROWS],
    ids=[case[0] for case in BAD_PARQUET_ROWS],
)
def test_bad_rows_of_parquet(tmp_path, columns, reason, words):
    pq.write_table(pa.table(columns), tmp_path / "votes.parquet")
    told = message(tmp_path / "votes.parquet")
    assert "row 2" in told
    assert words in told
    dataset = read_comparisons(tmp_path / "votes.parquet", on_bad_row="skip")
    assert dataset.dropped == {reason: 1}
    assert len(dataset.comparisons.user) == 2


def test_columns_of_a_type_that_no_rule_knows(tmp_path):
    columns = {"user_id": [1.0, 2.0], "chosen": [[True], [False]], "rejected": [b"x", b"y"]}
    pq.write_table(pa.table(columns), tmp_path / "votes.parquet")
    assert "column 'user_id': 1.0: must be text or a whole" in message(tmp_path / "votes.parquet")
    columns["user_id"] = [1, 2]
    pq.write_table(pa.table(columns), tmp_path / "votes.parquet")
    assert "column 'chosen': [True]: must be text, a list" in message(tmp_path / "votes.parquet")
    columns["chosen"] = ["a", "b"]
    pq.write_table(pa.table(columns), tmp_path / "votes.parquet")
    assert "column 'rejected': b'x': must be text, a list" in message(tmp_path / "votes.parquet")


def test_the_first_bad_row_is_told_and_all_are_counted(tmp_path):
    rows = [
        GOOD,
        second(weight=-1),
        second(chosen=None, rejected=""),  # two faults, one row
        second(user_id=None),
        b"}",
        GOOD,
    ]
    lines = (r + b"\n" if isinstance(r, bytes) else jsonl_bytes([r]) for r in rows)
    path = write(tmp_path, ".jsonl", b"".join(lines))
    told = message(path)
    assert "row 2, column 'weight': -1: must be 0 or more (4 of 6 rows are bad: " in told
    dataset = read_comparisons(path, on_bad_row="skip")
    assert dataset.dropped == {"unreadable line": 1, "missing": 2, "negative weight": 1}
    np.testing.assert_array_equal(dataset.comparisons.weight, [1, 1])


def test_the_file_s_own_name_of_a_column_is_told(tmp_path):
    path = write(tmp_path, ".jsonl", [{"who": " ", "chosen": "a", "rejected": "b"}])
    assert "row 1, column 'who': ' ': is empty" in message(path, columns={"user_id": "who"})


# ---- Bad files

ROW = jsonl_bytes([GOOD])
HEADER = b"user_id,chosen,rejected\n"
STRADDLING = [{**GOOD, "task_id": 7, "split": split} for split in ("train", "test")]

BAD_FILES = [
    # name, suffix, content, options, words of the line
    ("empty", ".jsonl", b"", {}, ["has no rows"]),
    ("blank", ".jsonl", b"\n\n \n", {}, ["has no rows"]),
    ("empty csv", ".csv", b"", {}, ["has no rows"]),
    ("header only", ".csv", HEADER, {}, ["has no rows"]),
    ("empty gzip", ".jsonl.gz", b"", {}, ["has no rows"]),
    ("no row of parquet", ".parquet", parquet_bytes([], pa.schema({"user_id": pa.string()})), {},
     ["has no rows"]),
    ("all bad", ".jsonl", jsonl_bytes([{**GOOD, "chosen": ""}] * 2), {"on_bad_row": "skip"},
     ["row 1, column 'chosen'", "2 of 2 rows are bad: 2 empty"]),
    ("no line can be read", ".jsonl", b"{\n", {"on_bad_row": "skip"}, ["row 1", "is not JSON"]),
    ("column missing", ".jsonl", jsonl_bytes([{"user_id": 1, "chosen": "a", "rejcted": "b"}]), {},
     ["no column 'rejected'", "did you mean 'rejcted'?", "'user_id', 'chosen', 'rejcted'"]),
    ("column missing, none near", ".csv", b"a,b\n1,2\n", {},
     ["no column 'user_id'", "choose one of 'a', 'b'"]),
    ("separator", ".csv", b"user_id;chosen;rejected\na;b;c\n", {}, ["'user_id;chosen;rejected'"]),
    ("parquet without it", ".parquet", [{"user_id": "a", "chosen": "b"}], {},
     ["no column 'rejected'", "'user_id', 'chosen'"]),
    ("our name unknown", ".jsonl", ROW, {"columns": {"user": "who"}},
     ["columns: 'user' is not", "did you mean 'user_id'?"]),
    ("their name unknown", ".jsonl", ROW, {"columns": {"weight": "chosn"}},
     ["no column 'chosn' for weight", "did you mean 'chosen'?"]),
    ("on_bad_row", ".jsonl", ROW, {"on_bad_row": "skp"}, ["on_bad_row: 'skp'", "'skip'"]),
    ("column twice", ".csv", b"user_id,chosen,rejected,x,x\n1,2,3,4,5\n", {},
     ["column 'x' is there 2 times"]),
    ("wanted column twice", ".csv", b"user_id,chosen,rejected,chosen\n1,2,3,4\n", {},
     ["column 'chosen' is there 2 times"]),
    ("open quote", ".csv", HEADER + b'a,b,c\na,"b,c\na,b,c\n', {"on_bad_row": "skip"},
     ["broken CSV: row 2: unexpected end of data"]),
    ("text behind a quote", ".csv", HEADER + b'a,"b"x,c\n', {}, ["broken CSV: row 1", "expected"]),
    ("quote in the header", ".csv", b'user_id,"chosen', {}, ["broken CSV: the header"]),
    ("header not UTF-8", ".csv", b"user_id,chosen,rejected,\xff\n1,2,3,4\n", {}, ["header is not"]),
    ("UTF-16", ".jsonl", ROW.decode().encode("utf-16"), {}, ["row 1", "is not UTF-8"]),
    ("not parquet", ".parquet", ROW, {}, ["damaged Parquet file"]),
    ("empty parquet", ".parquet", b"", {}, ["damaged Parquet file"]),
    ("half a parquet", ".parquet", parquet_bytes([GOOD])[:-40], {}, ["damaged Parquet file"]),
    ("suffix", ".txt", ROW, {}, ["unknown suffix '.txt'", "'.jsonl', '.csv', '.parquet'"]),
    ("suffix before gz", ".tsv.gz", ROW, {}, ["unknown suffix '.tsv'", "'.jsonl', '.csv'"]),
    ("no suffix", "", ROW, {}, ["unknown suffix ''"]),
    ("task in two splits", ".jsonl", jsonl_bytes(STRADDLING), {"on_bad_row": "skip"},
     ["task_id '7' of user_id 'ann'", "'train'", "'test'"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "content", "options", "words"),
    [case[1:] for case in BAD_FILES],
    ids=[case[0] for case in BAD_FILES],
)
def test_bad_files(tmp_path, suffix, content, options, words):
    told = message(write(tmp_path, suffix, content), **options)
    assert [word for word in words if word not in told] == [], told


def test_files_that_cannot_be_opened(tmp_path, monkeypatch):
    assert "no such file" in message(tmp_path / "votes.jsonl").lower()
    assert "is a directory" in message(tmp_path)
    path = write(tmp_path, ".jsonl", [GOOD])

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # a test that runs as root is refused nothing
    assert "cannot be read: Permission denied" in message(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz", ".parquet.gz"])
def test_damaged_gzip(tmp_path, suffix):
    path = write(tmp_path, suffix, [GOOD] * 50)
    whole = path.read_bytes()
    damages = {
        "cut": whole[:-12],
        "not gzip": gzip.decompress(whole),
        "flipped": whole[:20] + bytes([whole[20] ^ 255]) + whole[21:],
        "checksum": whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],
    }
    for damage, content in damages.items():
        path.write_bytes(content)
        assert "damaged gzip file" in message(path), damage


def test_no_damage_of_a_parquet_file_ends_in_a_traceback(tmp_path):
    path = write(tmp_path, ".parquet", rows_of("numbers"))
    whole = path.read_bytes()
    choices = random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(choices.choice([1, 8])):
            damaged[choices.randrange(len(whole))] = choices.randrange(256)
        path.write_bytes(damaged)
        try:
            read_comparisons(path, on_bad_row="skip")
        except UserError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 (some damage goes unseen)


# ---- Responses to be scored


def test_responses(tmp_path):
    rows = [
        {"who": 7, "prompt": CHAT[:1], "response": "a"},
        {"who": 8, "prompt": CHAT[:1], "response": "b"},
    ]
    for suffix in WRITERS:
        responses = read_responses(write(tmp_path, suffix, rows), columns={"user_id": "who"})
        assert responses.user_id == ("7", "8")
        assert responses.prompt == ('[{"content":"hi","role":"user"}]',) * 2
        assert {type(prompt) for prompt in responses.prompt} == {str}
        assert responses.response == ("a", "b")


def test_responses_of_numbers_without_prompts(tmp_path):
    rows = [{"user_id": "a", "response": [1, 2]}, {"user_id": "a", "response": [1, 2]}]
    for suffix in WRITERS:
        responses = read_responses(write(tmp_path, suffix, rows))
        assert responses.prompt is None
        np.testing.assert_array_equal(responses.response, np.array([[1, 2], [1, 2]], np.float32))
        assert responses.response.dtype == np.float32


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"user_id": "a", "response": ""}, "row 2, column 'response': '': is empty"),
        ({"user_id": "a", "response": [1]}, "is 1 numbers, where most items are text"),
        ({"response": "x"}, "row 2, column 'user_id': is missing"),
    ],
)
def test_bad_responses(tmp_path, row, words):
    good = {"user_id": "a", "response": "fine"}
    path = write(tmp_path, ".jsonl", [good, row, good])
    with pytest.raises(UserError) as caught:
        read_responses(path)
    assert f"{path}: " in str(caught.value)
    assert words in str(caught.value)
