"""Bad inputs: each command answers with one clear line and exit 2, and leaves every file as it was.

A case is a command line, run in a folder that holds

    votes.jsonl     96 comparisons: 8 users, 12 each, items of 3 numbers
    config.yaml     trains on them
    run             a finished run of that configuration

after the case's own files have been put there. `line` is a pattern that the whole line must match.
"""

import errno
import gzip
import importlib
import io
import json
import os
import re
import resource
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CONFIG = """\
data: {name: file, path: votes.jsonl}
model: {name: pal_a, num_prototypes: 2, latent_width: 4, shared: {hidden_layers: 0}}
training: {epochs: 2, batch_size: 32}
selection: {prior_strength: [1.0], refit: false, personalize: always}
evaluation: {shots: [0, 2], resamples: 100}
"""

# A file's bytes, its text, rows that are written as JSON Lines, a change to what is there, or None
# to remove it.
Content = bytes | str | list[Any] | Callable[[bytes], bytes] | None


class Case(NamedTuple):
    """A bad input and the line that answers it."""

    kind: str
    command: str
    line: str
    files: Mapping[str, Content] = {}  # a name that ends in / is a folder


def votes(num_users: int = 8, comparisons: int = 12, width: int = 3, **columns: Any) -> list[Any]:
    """Rows of users who each like one direction; `columns` are added to every row."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(num_users):
        taste = generator.normal(size=width)
        for _ in range(comparisons):
            pair = generator.normal(size=(2, width)).round(3)
            better, worse = sorted(pair.tolist(), key=lambda item: -float(taste @ item))
            rows.append({"user_id": f"u{user}", "chosen": better, "rejected": worse} | columns)
    return rows


def with_row(place: int = 4, **values: Any) -> list[Any]:
    """Good rows with one that is changed."""
    rows = votes(2, 4)
    rows[place] |= values
    return rows


def texts(num_users: int = 4, **columns: Any) -> list[Any]:
    """Rows whose items are text."""
    return [
        row | {"chosen": f"yes {number}", "rejected": f"no {number}"} | columns
        for number, row in enumerate(votes(num_users))
    ]


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def record(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """A change to a JSON file."""
    return lambda content: json.dumps(change(json.loads(content))).encode()


def without(key: str) -> Callable[[bytes], bytes]:
    return record(lambda held: {name: value for name, value in held.items() if name != key})


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


TRAIN = "train --config config.yaml --run-dir new"


def configuration(kind: str, line: str, overrides: str) -> Case:
    return Case(kind, f"{TRAIN} {overrides}", line)


def written(kind: str, line: str, content: Content) -> Case:
    return Case(kind, TRAIN, line, {"config.yaml": content})


def data(
    kind: str, line: str, content: Content, overrides: str = "", name: str = "d.jsonl"
) -> Case:
    return Case(kind, f"{TRAIN} data.path={name} {overrides}", line, {name: content})


CONFIGURATIONS = [
    Case("no such configuration", "train --config none.yaml", r"none\.yaml: no such file"),
    Case("configuration is a folder", "train --config run", r"run: is a folder, wanted a YAML"),
    written("configuration not UTF-8", r"not UTF-8 at byte 6", b"data: \xff"),
    written("configuration not YAML", r"not YAML: expected ',' or '\]'.*line 1", "data: [1, 2"),
    written("control character", r"not YAML: .*#x0001", "data: \x01"),
    written("empty configuration", r"is empty, wanted keys and values", ""),
    written("configuration is a list", r"wanted keys and values, found list", "- 1\n"),
    written("key given twice", r"key 'seed' is given twice \(line 2\)", "seed: 1\nseed: 2\n"),
    written("key is a list", r"not YAML: found unhashable key \(line 1\)", "[1, 2]: 3\n"),
    written("key is a number", r"3 is wrong: keys should be strings", CONFIG + "3: 4\n"),
    written("section missing", r"key 'data' is missing", "model: {name: pal_a}\n"),
    written(
        "name missing",
        r"key 'data\.name' is missing; choose one of 'file', 'electricity', 'synthetic'",
        "data: {path: votes.jsonl}\nmodel: {name: pal_a}\n",
    ),
    written(
        "path missing", r"key 'data\.path' is missing", "data: {name: file}\nmodel: {name: pal_a}\n"
    ),
    configuration("unknown key", r"unknown key 'lerner'; did you mean 'learner'", "lerner.name=x"),
    configuration(
        "unknown key in a section", r"'training\.epoch'; did you mean 'epochs'", "training.epoch=3"
    ),
    configuration(
        "unknown model", r"model\.name: .*'pal_c'; did you mean 'pal_b'", "model.name=pal_c"
    ),
    configuration(
        "unknown data set", r"data\.name: .*did you mean 'electricity'", "data.name=electrcity"
    ),
    configuration("unknown loss", r"loss\.name: .*did you mean 'logistic'", "loss.name=logstic"),
    configuration(
        "unknown learner", r"learner\.name: .*did you mean 'gradient'", "learner.name=gradiant"
    ),
    configuration(
        "unknown choice", r"model\.distance: .*did you mean 'cosine'", "model.distance=cosin"
    ),
    configuration(
        "unknown encoder",
        r"encoder\.0\.name: .*choose one of 'numbers'",
        "'encoder=[{name: words}]'",
    ),
    configuration(
        "key of another model",
        r"'model\.similarity'; choose one of .*'distance'",
        "model.similarity=cosine",
    ),
    configuration(
        "text for a number", r"training\.epochs: 'many' is wrong: .*integer", "training.epochs=many"
    ),
    configuration(
        "out of range", r"loss\.label_smoothing: .*less than 0\.5", "loss.label_smoothing=0.5"
    ),
    configuration(
        "below one", r"training\.epochs: .*greater than or equal to 1", "training.epochs=0"
    ),
    configuration(
        "NaN in the configuration",
        r"learning_rate\.networks: nan .*finite",
        "optimizer.learning_rate.networks=.nan",
    ),
    configuration("infinite", r"prior_strength: inf .*finite", "prior_strength=.inf"),
    configuration("seed of 67 bits", r"seed: .*less than 4294967296", "seed=99999999999999999999"),
    configuration(
        "number for a section", r"training: 3 .*wanted a section with keys", "training=3"
    ),
    configuration("empty list", r"evaluation\.shots: .*at least 1 item", "evaluation.shots=[]"),
    configuration(
        "bad number in a list",
        r"selection\.num_prototypes\.1: 0 .*equal to 1",
        "selection.num_prototypes=[2,0]",
    ),
    configuration(
        "override without =", r"'training\.epochs': wanted key\.path=value", "training.epochs"
    ),
    configuration("override without a key", r"wanted key\.path=value", "training..epochs=3"),
    configuration(
        "override beyond a list", r"shots is a list of 2; '7' is no place", "evaluation.shots.7=3"
    ),
    configuration(
        "override inside a number", r"training\.epochs has no keys", "training.epochs.x.y=3"
    ),
    configuration("override not YAML", r"override 'model=\[1': not YAML: expected", "'model=[1'"),
    configuration("override key twice", r"key 'name' is given twice", "'model={name: a, name: b}'"),
    configuration(
        "NUL in a path", r"data\.path: .*should match pattern", "'data.path=\"a\\0b.jsonl\"'"
    ),
    configuration("empty path", r"data\.path: '' is wrong", "'data.path=\"\"'"),
    configuration(
        "prototypes off, shared off",
        r"model\.personal: false .*model\.shared is null",
        "model.shared=null model.personal=false",
    ),
]

EPISODES = "learner.name=episodes"
MISFITS = [
    configuration(
        "episodes, cosine",
        r"model\.distance: 'cosine' .*choose one of 'squared', or learner\.name 'gradient'",
        f"{EPISODES} model.distance=cosine",
    ),
    configuration(
        "episodes, euclidean",
        r"model\.distance: 'euclidean' .*'episodes'.* 'squared'",
        f"{EPISODES} model.distance=euclidean",
    ),
    configuration(
        "episodes, mixed first",
        r"model\.user_point: 'mix_then_project' .*'project_then_mix', 'latent'",
        f"{EPISODES} model.user_point=mix_then_project",
    ),
    configuration(
        "episodes, PAL-B by cosine",
        r"model\.similarity: 'cosine' .*'inner'",
        f"{EPISODES} 'model={{name: pal_b, similarity: cosine}}'",
    ),
    configuration(
        "PAL-B without prompts", r"model\.name: 'pal_b' needs prompts", "'model={name: pal_b}'"
    ),
    configuration(
        "encoder twice",
        r"encoder: every encoder may appear once",
        "'encoder=[{name: numbers}, {name: numbers}]'",
    ),
    configuration(
        "no split column", r"splits\.column: .*no 'split' column", "'splits={name: column}'"
    ),
    configuration(
        "nothing to choose by",
        r"splits: no comparison is left for 'validation'",
        "'splits={name: random, validation: 0}'",
    ),
    configuration(
        "nothing to learn from",
        r"splits: no comparison is left for 'train'",
        "'splits={name: random, unseen_users: 0.99}'",
    ),
    configuration(
        "column that we do not have",
        r"columns: 'user' .*did you mean 'user_id'",
        "data.columns.user=x",
    ),
    configuration(
        "column that the file does not have",
        r"votes\.jsonl: no column 'worker' for user_id: choose one of",
        "data.columns.user_id=worker",
    ),
    configuration(
        "too many planted prototypes",
        r"num_prototypes 9 .*latent_width",
        "'data={name: synthetic, latent_width: 4, num_prototypes: 9, num_users: 9}'",
    ),
    configuration(
        "identity of unequal widths",
        r"latent_width equal to width, got 4 and 16",
        "'data={name: synthetic, latent_width: 4, projector: identity}'",
    ),
    data(
        "numbers of text", r"encoder: 'numbers' needs .*lists of numbers, these are text", texts()
    ),
    data(
        "numbers of text prompts",
        r"prompt_encoder: 'numbers' needs .*text \('hi'\)",
        texts(prompt="hi"),
        "'model={name: pal_b}' 'encoder=[{name: item_id}]'",
    ),
    data("one user of two comparisons", r"no comparison is left for 'validation'", votes(1, 2)),
    data("ties only", r"splits: every comparison for 'validation' is a tie", votes(tie=True)),
    data("no weight", r"splits: every comparison for 'train' has weight 0", votes(weight=0.0)),
    data(
        "ties for test",
        r"splits: every comparison for 'test' is a tie",
        [
            row | {"split": part, "tie": part == "test"}
            for row, part in zip(votes(), ["train", "validation", "test"] * 32, strict=True)
        ],
        "'splits={name: column}'",
    ),
    data(
        "support only",
        r"no comparison is left for 'train'",
        votes(split="support"),
        "'splits={name: column}'",
    ),
    data(
        "user trains and joins",
        r"user 'u0' has rows in 'support' and in 'train'",
        votes(split="support") + votes(split="train"),
        "'splits={name: column}'",
    ),
]

FILES = [
    configuration(
        "no such data file", r"none\.jsonl: cannot be read: No such file", "data.path=none.jsonl"
    ),
    configuration("data file is a folder", r"run: is a directory, wanted a file", "data.path=run"),
    data(
        "unknown suffix",
        r"d\.json: unknown suffix '\.json': choose one of '\.jsonl'",
        votes(),
        name="d.json",
    ),
    data("empty file", r"d\.jsonl: has no rows", ""),
    data("not gzip", r"d\.jsonl\.gz: damaged gzip", b"not gzip", name="d.jsonl.gz"),
    data(
        "truncated gzip",
        r"d\.jsonl\.gz: damaged gzip",
        half(gzip.compress(jsonl(votes()))),
        name="d.jsonl.gz",
    ),
    data(
        "truncated Parquet",
        r"d\.parquet: damaged Parquet",
        half(parquet(user_id=["a"])),
        name="d.parquet",
    ),
    data(
        "open quote in CSV",
        r"d\.csv: broken CSV: row 1",
        'user_id,chosen,rejected\n"a,b,c\n',
        name="d.csv",
    ),
    data(
        "short row in CSV",
        r"d\.csv: row 1: 2 cells, where the header has 3",
        "user_id,chosen,rejected\na,b\n",
        name="d.csv",
    ),
    data(
        "column twice",
        r"d\.csv: column 'chosen' is there 2 times",
        "user_id,chosen,chosen,rejected\na,b,c,d\n",
        name="d.csv",
    ),
    data("line not JSON", r"d\.jsonl: row 97: '\{oops' is not JSON", jsonl(votes()) + b"{oops\n"),
    data("line not an object", r"row 97: \[1\] is not a JSON object", jsonl(votes()) + b"[1]\n"),
    data("line not UTF-8", r"row 1: byte 14 of the line is not UTF-8", b'{"user_id": "\xff"}\n'),
    data(
        "JSON key twice",
        r"row 1: the key 'user_id' is there twice",
        b'{"user_id": "a", "user_id": "b"}\n',
    ),
    data(
        "column missing",
        r"no column 'rejected' .*did you mean 'reject'",
        [{"user_id": "a", "chosen": "b", "reject": "c"}],
    ),
    data("no user", r"row 5, column 'user_id': is missing", with_row(user_id=None)),
    data("blank user", r"row 5, column 'user_id': ' ': is empty", with_row(user_id=" ")),
    data(
        "user is a list",
        r"column 'user_id': \['a'\]: must be text or a whole",
        with_row(user_id=["a"]),
    ),
    data(
        "NaN",
        r"row 5, column 'chosen': .*NaN or infinite",
        with_row(chosen=[1.0, float("nan"), 2.0]),
    ),
    data(
        "beyond float32",
        r"row 5, column 'chosen': .*infinite in float32",
        with_row(chosen=[1.0, 1e300, 2.0]),
    ),
    data(
        "wrong width",
        r"row 5, column 'rejected': .*2 numbers, where most items are 3",
        with_row(rejected=[1.0, 2.0]),
    ),
    data(
        "text among numbers",
        r"row 5, column 'rejected': .*is text, where most",
        with_row(rejected="text"),
    ),
    data(
        "truth values as an item",
        r"column 'rejected': .*must be text, a list of numbers",
        with_row(rejected=[True, False, True]),
    ),
    data("empty item", r"column 'rejected': \[\]: is an empty list", with_row(rejected=[])),
    data(
        "item against itself",
        r"column 'chosen': .*chosen and rejected at once",
        with_row(chosen=[1, 2, 3], rejected=[1, 2, 3]),
    ),
    data("negative weight", r"row 5, column 'weight': -1: must be 0 or more", with_row(weight=-1)),
    data("weight is text", r"column 'weight': '1': must be a number", with_row(weight="1")),
    data(
        "tie is no truth value",
        r"column 'tie': 'maybe': must be true or false",
        with_row(tie="maybe"),
    ),
    data(
        "unknown split", r"column 'split': 'dev': .*choose one of 'train'", votes(2, 4, split="dev")
    ),
    data(
        "bad timestamp",
        r"column 'timestamp': 'yesterday': .*ISO 8601",
        votes(2, 4, timestamp="yesterday"),
    ),
    data(
        "two bad rows",
        r"row 5, column 'weight': .*2 of 16 rows are bad",
        with_row(weight=-1) + with_row(tie=3),
    ),
    data(
        "every row skipped",
        r"8 of 8 rows are bad: 8 negative weight",
        votes(2, 4, weight=-1),
        "data.on_bad_row=skip",
    ),
    data(
        "task in two splits",
        r"task_id '1' of user_id 'u0' .*'train' and 'test'",
        [
            row | {"split": part}
            for row, part in zip(votes(1, 2, task_id=1), ["train", "test"], strict=True)
        ],
    ),
]

INTO = "train --config config.yaml --run-dir"
RUN_DIRS = [
    Case(
        "run directory is a file",
        f"{INTO} votes.jsonl",
        r"votes\.jsonl: is a file, wanted a run dir",
    ),
    Case(
        "folder of something else",
        f"{INTO} other",
        r"other: is not empty and holds no run",
        {"other/x": "1"},
    ),
    Case(
        "run of another configuration",
        f"{INTO} run seed=3",
        r"run: holds a run with seed=0, this one has 3",
    ),
    Case("resume never", f"{INTO} run --resume never", r"run: holds a run; .*--resume auto"),
    Case(
        "file above the run directory",
        f"{INTO} votes.jsonl/new",
        r"votes\.jsonl/new: can't make the run",
    ),
    Case(
        "folder that can't be made", f"{INTO} /proc/new", r"/proc/new: can't make the run directory"
    ),
    Case(
        "run's configuration damaged",
        f"{INTO} run",
        r"run/config\.yaml: not YAML",
        {"run/config.yaml": lambda text: text + b"model: ["},
    ),
    Case(
        "run of a newer paljax",
        f"{INTO} run",
        r"run/config\.yaml: unknown key 'newer'",
        {"run/config.yaml": lambda text: text + b"newer: 1\n"},
    ),
    Case("name too long", f"{INTO} {'x' * 300}", r"can't be read \(File name too long\)"),
]

COMMANDS = {
    "adapt": "adapt --run run --comparisons votes.jsonl --out out.parquet",
    "evaluate": "evaluate --run run --comparisons votes.jsonl --out out.json",
    "score": "score --run run --input items.jsonl --out out.parquet",
    "report": "report run --out out.html",
}
FINAL = "run/checkpoints/final"


def damaged(kind: str, commands: str, line: str, files: Mapping[str, Content]) -> list[Case]:
    """The same damage to a run for several commands."""
    return [Case(f"{kind} ({name})", COMMANDS[name], line, files) for name in commands.split()]


ALL = "adapt evaluate score report"
RUNS = [
    *damaged("no run", ALL, r"run: .*no such", {"run": None}),
    *damaged("run is a file", ALL, r"run: .*no such", {"run/": None, "run": "x"}),
    *damaged(
        "no configuration",
        ALL,
        r"run.*config\.yaml.*(missing|No such file)",
        {"run/config.yaml": None},
    ),
    *damaged(
        "configuration damaged", ALL, r"run/config\.yaml: not YAML", {"run/config.yaml": "a: [1"}
    ),
    *damaged(
        "no model",
        "adapt evaluate score",
        r"run/model\.json: no such file; is the run finished",
        {"run/model.json": None},
    ),
    *damaged("model truncated", "adapt", r"run/model\.json: damaged: ", {"run/model.json": half}),
    *damaged(
        "model not UTF-8", "score", r"run/model\.json: damaged: ", {"run/model.json": b"\xff"}
    ),
    *damaged(
        "model without a key",
        "evaluate",
        r"run/model\.json: damaged: key 'item_encoder' is missing",
        {"run/model.json": without("item_encoder")},
    ),
    *damaged(
        "model is a list", "score", r"run/model\.json: damaged: list", {"run/model.json": "[]"}
    ),
    *damaged(
        "model's K is text",
        "adapt",
        r"run/model\.json: damaged: ",
        {"run/model.json": record(lambda held: held | {"num_prototypes": "2"})},
    ),
    *damaged("no users", "adapt", r"run/users\.parquet: no such file", {"run/users.parquet": None}),
    *damaged(
        "users truncated",
        ALL,
        r"run/users\.parquet: (damaged|cannot be read): .*Parquet",
        {"run/users.parquet": half},
    ),
    *damaged(
        "users without weights",
        "score report",
        r"run/users\.parquet: .*no column '(weights|role)'",
        {"run/users.parquet": parquet(user_id=["a"])},
    ),
    *damaged(
        "users of another K",
        "evaluate report",
        r"user 'u0' has not 2 weights|population has 2 weights, users\.parquet has 3",
        {
            "run/users.parquet": parquet(
                user_id=["u0"], role=["seen"], accuracy=[None], weights=[[0.5, 0.25, 0.25]]
            )
        },
    ),
    *damaged(
        "no checkpoint",
        "adapt",
        r"checkpoints/final: no such checkpoint; is the run finished",
        {FINAL: None},
    ),
    *damaged(
        "unfinished checkpoint",
        "evaluate",
        r"checkpoints/final: holds no whole checkpoint",
        {f"{FINAL}/0": None},
    ),
    *damaged(
        "checkpoint's index truncated",
        "score",
        r"checkpoints/final/0: can't be read",
        {f"{FINAL}/0/default/_METADATA": half},
    ),
    *damaged(
        "checkpoint's manifest truncated",
        "adapt",
        r"checkpoints/final/0: can't be read: ",
        {f"{FINAL}/0/default/manifest.ocdbt": half},
    ),
    *damaged(
        "checkpoint of another K",
        "evaluate",
        r"(checkpoints/final|users\.parquet): ",
        {"run/model.json": record(lambda held: held | {"num_prototypes": 3})},
    ),
    *damaged(
        "no metrics",
        "report",
        r"run: not a finished run .*no metrics\.json",
        {"run/metrics.json": None},
    ),
    *damaged(
        "metrics not JSON", "report", r"run/metrics\.json: Invalid JSON", {"run/metrics.json": half}
    ),
    *damaged(
        "metrics without test",
        "report",
        r"run/metrics\.json: test: Field required",
        {"run/metrics.json": without("test")},
    ),
    *damaged(
        "analysis not JSON",
        "report",
        r"run/analysis\.json: Invalid JSON",
        {"run/analysis.json": half},
    ),
    *damaged(
        "log not JSON",
        "report",
        r"run/metrics\.jsonl: line \d+: Invalid JSON",
        {"run/metrics.jsonl": half},
    ),
    *damaged(
        "splits truncated",
        "report",
        r"run/splits\.parquet: cannot be read",
        {"run/splits.parquet": half},
    ),
]

WIDE, TEXT = {"d.jsonl": votes(2, 3, width=4)}, {"d.jsonl": texts()}
NEW = {"n.jsonl": votes(user_id="new")}
ADAPT = "adapt --run run --comparisons"
EVALUATE = "evaluate --run run --comparisons"
SCORE = "score --run run --input"
INPUTS = [
    Case(
        "bad row to adapt to",
        f"{ADAPT} d.jsonl --out o.parquet",
        r"d\.jsonl: row 5, column 'weight'",
        {"d.jsonl": with_row(weight=-1)},
    ),
    Case(
        "unknown kind of table",
        f"{ADAPT} votes.jsonl --out o.csv",
        r"o\.csv: unknown kind of table '\.csv'; .*'\.parquet'",
    ),
    Case(
        "folder missing (adapt)",
        f"{ADAPT} votes.jsonl --out none/o.parquet",
        r"none/o\.parquet: the folder none does not exist",
    ),
    Case(
        "table is a folder",
        f"{ADAPT} votes.jsonl --out f.parquet",
        r"f\.parquet: can't be written \(Is a directory\)",
        {"f.parquet/": ""},
    ),
    Case(
        "other width (adapt)",
        f"{ADAPT} d.jsonl --out o.parquet",
        r"d\.jsonl: items have 4 numbers, the model was trained on 3",
        WIDE,
    ),
    Case(
        "text (adapt)",
        f"{ADAPT} d.jsonl --out o.parquet",
        r"d\.jsonl: items are text \('yes 0'\), the model was trained on 3",
        TEXT,
    ),
    Case(
        "column without =",
        f"{ADAPT} votes.jsonl --out o.parquet --column user_id",
        r"--column user_id: wanted OURS=THEIRS",
    ),
    Case(
        "column of ours unknown",
        f"{ADAPT} votes.jsonl --out o.parquet --column user=x",
        r"'user' .*did you mean 'user_id'",
    ),
    Case(
        "column of theirs unknown",
        f"{ADAPT} votes.jsonl --out o.parquet --column user_id=worker",
        r"votes\.jsonl: no column 'worker' for user_id",
    ),
    Case(
        "column mapped twice",
        f"{ADAPT} votes.jsonl --out o.parquet --column user_id=a --column user_id=b",
        r"--column user_id=b: 'user_id' is already 'a'",
    ),
    Case("other width (evaluate)", f"{EVALUATE} d.jsonl", r"d\.jsonl: items have 4 numbers", WIDE),
    Case(
        "ties only (evaluate)",
        f"{EVALUATE} d.jsonl",
        r"d\.jsonl: holds ties only",
        {"d.jsonl": votes(tie=True, user_id="new")},
    ),
    Case(
        "overlap",
        f"{EVALUATE} n.jsonl --adapt n.jsonl",
        r"n\.jsonl: 96 of its comparisons are also in n\.jsonl",
        NEW,
    ),
    Case(
        "trained on",
        f"{EVALUATE} votes.jsonl --out o.json",
        r"votes\.jsonl: \d+ of its 96 comparisons were trained on .*run has learned from can't",
    ),
    Case(
        "nothing says what was trained on",
        f"{EVALUATE} n.jsonl --out o.json",
        r"run/splits\.parquet: has no column 'comparison'; train again",
        NEW | {"run/splits.parquet": parquet(split=["train"])},
    ),
    Case(
        "other width of support",
        f"{EVALUATE} n.jsonl --adapt d.jsonl",
        r"d\.jsonl: items have 4 numbers",
        WIDE | NEW,
    ),
    Case(
        "folder missing (evaluate)",
        f"{EVALUATE} n.jsonl --out none/x.json",
        r"none/x\.json: can't be written \(No such file",
        NEW,
    ),
    Case(
        "no suffix",
        f"{SCORE} items.jsonl --out o",
        r"o: unknown kind of table ''; choose one of '\.parquet', '\.jsonl'",
    ),
    Case(
        "no responses", f"{SCORE} votes.jsonl --out o.jsonl", r"votes\.jsonl: no column 'response'"
    ),
    Case(
        "other width (score)",
        f"{SCORE} d.jsonl --out o.jsonl",
        r"d\.jsonl: items have 2 numbers",
        {"d.jsonl": [{"user_id": "a", "response": [1, 2]}]},
    ),
    Case(
        "can't be written (score)",
        f"{SCORE} items.jsonl --out /proc/o.jsonl",
        r"/proc/o\.jsonl: can't be written",
    ),
    Case(
        "folder missing (report)",
        "report run --out none/x.html",
        r"none/x\.html: can't be written \(No such file",
    ),
    Case("page is a folder", "report run --out run", r"run: can't be written \(Is a directory\)"),
    Case("second run missing", "report run none --out x.html", r"none: not a run directory"),
]
CASES = [*CONFIGURATIONS, *MISFITS, *FILES, *RUN_DIRS, *RUNS, *INPUTS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_compilation):
    """A folder as every case finds it."""
    folder = tmp_path_factory.mktemp("finished")
    put(folder, {"votes.jsonl": votes(), "config.yaml": CONFIG})
    put(folder, {"items.jsonl": [{"user_id": "u1", "response": [1.0, 2.0, 3.0]}]})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("train --config config.yaml --run-dir run") == 0
        yield folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    # Of the checkpoints, commands read the final model's only.
    fits = shutil.ignore_patterns("pal_a*", "bradley_terry*")
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True, ignore=fits)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALJAX_DATA_DIR", str(tmp_path / "prepared"))
    return tmp_path


def put(folder: Path, files: Mapping[str, Content]) -> None:
    """Write, change and remove files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif name.endswith("/"):
            path.mkdir()
        else:
            if isinstance(content, list):
                content = jsonl(content)
            elif isinstance(content, str):
                content = content.encode()
            path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))


def run(command: str) -> int:
    """Run a command line of paljax in this process."""
    name, *arguments = shlex.split(command)
    status: int = importlib.import_module(f"paljax.{name}").main(arguments)
    return status


def held(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def refused(command: str, folder: Path, capsys: Any) -> str:
    """The line that a command answers with, when it leaves everything as it was."""
    before = held(folder)
    capsys.readouterr()
    status = run(command)
    out, line = capsys.readouterr()
    assert status == 2, out + line
    after = held(folder)
    names = before.keys() | after.keys()
    assert [name for name in sorted(names) if before.get(name) != after.get(name)] == []
    assert "Traceback" not in out
    assert line.count("\n") == 1, line
    assert line.endswith("\n")
    return line


def test_there_are_many_kinds():
    kinds = [case.kind for case in CASES]
    assert len(set(kinds)) == len(kinds) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_one_line_and_nothing_changed(case, folder, capsys):
    put(folder, case.files)
    line = refused(case.command, folder, capsys)
    name = case.command.split()[0]
    assert re.match(rf"paljax\.{name}: .*({case.line})", line), line


@pytest.mark.parametrize(
    ("name", "reason"),
    [("evaluate", errno.ENOSPC), ("report", errno.EDQUOT)],
    ids=["full", "quota"],
)
def test_a_disk_that_takes_no_more(name, reason, folder, capsys, monkeypatch):
    def fail(descriptor):
        raise OSError(reason, os.strerror(reason))

    put(folder, NEW)
    monkeypatch.setattr(os, "fsync", fail)
    line = refused(COMMANDS[name].replace("votes.jsonl", "n.jsonl"), folder, capsys)
    assert re.search(rf"out\.\w+: can't be written \({os.strerror(reason)}\)", line), line


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_disk_that_takes_half_a_table(suffix, folder, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
    try:
        line = refused(f"{SCORE} items.jsonl --out out.{suffix}", folder, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.search(rf"out\.{suffix}: can't be written \(.*File too large", line), line


def test_no_permission(folder, capsys, monkeypatch):
    opened = Path.open

    def refuse(path, mode="r", **options):
        if "w" in mode:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    line = refused(COMMANDS["report"], folder, capsys)
    assert "out.html: can't be written (Permission denied)" in line
