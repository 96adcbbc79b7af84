"""Comparison files: what their rows must hold, and how they become a dataset.

Whatever the format, a file arrives here as columns of plain Python values. Each value goes through
its column's converter, then come the rules that look at several values. A row that breaks a rule is
bad and keeps its first fault; every row is checked before any is used.

The reasons, as `Dataset.dropped` counts them: "unreadable line", "duplicate key", "not UTF-8",
"missing", "empty", "unknown type", "not finite", "mixed kinds", "wrong width", "chosen equals
rejected", "negative weight", "not boolean", "unknown split", "bad timestamp".
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import compress
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.bad_rows import BadRows
from paljax.data.dataset import Dataset, Table, assemble
from paljax.data.formats import RowError, Sheet, read_sheet, typed_cells
from paljax.data.messages import is_messages, written
from paljax.errors import UserError, nearest

SPLITS = ("train", "validation", "test", "support")


class Responses(NamedTuple):
    """n responses to be scored, one entry each."""

    user_id: tuple[str, ...]
    prompt: Table | None  # n texts or numbers [n, any width]; None: the file has no prompts
    response: Table  # n texts or numbers [n, D]


def read_comparisons(
    path: str | PathLike[str],
    *more: str | PathLike[str],
    columns: Mapping[str, str] = {},
    on_bad_row: Literal["error", "skip"] = "error",
) -> Dataset:
    """Read comparisons from a file and check every row.

    `user_id`, `chosen` and `rejected` must be there. `prompt`, `group`, `topic`, `split` and
    `timestamp` may be, and are then filled in every row. So may `tie`, `weight` and `task_id`; a
    row without a value is no tie, has weight 1 and is a task of its own. An optional column without
    any value counts as absent, and other columns are not read.

    Items are text, chat messages (kept as JSON text with sorted keys and no spaces) or lists of
    numbers. All items of a file have one kind and one width, which are those of most items; prompts
    have theirs. Two equal items (numbers: in float32) are a bad row, also in a tie.

    In CSV an empty cell is an absent value. Whether items are lists is decided on `chosen` and
    `rejected` as a whole (on `prompt` by itself): lists when more than half of the filled cells are
    JSON lists of numbers or of objects, otherwise every cell is text, also one like "[1]".

    Args:
        path: A file that ends in .jsonl, .csv or .parquet, or in one of these and .gz.
        more: Files whose rows follow, as if all were in one. A column that some lack is absent in
            their rows, and some may have no rows; lists in CSV are decided on file by file.
        columns: The file's name for each of our columns that it names otherwise.
        on_bad_row: "error" refuses a file with a bad row, "skip" leaves bad rows out.

    Returns:
        The comparisons; `dropped` counts the rows left out by reason. Timestamps are seconds: a
        number as it is, ISO 8601 since 1970 (in UTC when it names no offset).

    Raises:
        UserError: The file or a row of it is unusable, or a choice task has rows in two splits.
    """
    if on_bad_row not in ("error", "skip"):
        choices = nearest(on_bad_row, ("error", "skip"))
        raise UserError(f"on_bad_row: {on_bad_row!r} is not known: {choices}")
    paths = [Path(path), *map(Path, more)]
    fields, faults = _read_fields(paths, columns, _COMPARISON)
    _settle_items(fields, ("chosen", "rejected"), faults)
    _settle_items(fields, ("prompt",), faults)
    _refuse_equal_items(fields["chosen"], fields["rejected"], faults)
    good = faults.good_rows(on_bad_row)
    fields = {name: _at_rows(column, good) for name, column in fields.items()}
    _refuse_straddling_tasks(fields, _named(paths))
    return assemble(**fields, dropped=faults.counts())


def read_responses(path: str | PathLike[str], *, columns: Mapping[str, str] = {}) -> Responses:
    """Read what is to be scored: `user_id`, `response` and, where there is one, `prompt`.

    Args:
        path: As in `read_comparisons`, whose rules hold here too.
        columns: The file's name for each of our columns that it names otherwise.

    Returns:
        The rows in the order of the file.

    Raises:
        UserError: The file or a row of it is unusable.
    """
    fields, faults = _read_fields([Path(path)], columns, _RESPONSE)
    _settle_items(fields, ("response",), faults)
    _settle_items(fields, ("prompt",), faults)
    faults.good_rows("error")
    return Responses(
        user_id=tuple(fields["user_id"]),
        prompt=_as_table(fields["prompt"]) if "prompt" in fields else None,
        response=_as_table(fields["response"]),
    )


# ---- From columns of plain values to checked fields


class _Field(NamedTuple):
    """A column of ours: how a value is checked and converted, and what an absent value means."""

    convert: Callable[[Any], Any]
    required: bool = False
    absent: Any = ...  # ...: an absent value is a fault


def _read_fields(
    paths: Sequence[Path], columns: Mapping[str, str], table: Mapping[str, _Field]
) -> tuple[dict[str, Any], BadRows]:
    """Read the columns of `table` that files have, each value converted; None where it is bad."""
    for ours in columns:
        if ours not in table:
            raise UserError(f"columns: {ours!r} is not a column of ours: {nearest(ours, table)}")
    names = {ours: columns.get(ours, ours) for ours in table}
    sheets = [_read_sheet(path, names) for path in paths]
    faults = BadRows(paths, [sheet.rows for sheet in sheets], names)
    if faults.rows == 0:
        raise UserError(f"{_named(paths)}: has no rows")
    start = 0
    for sheet in sheets:
        for row, bad in sheet.broken.items():
            faults.add(start + row, bad)
        start += sheet.rows
    if sum(len(sheet.broken) for sheet in sheets) == faults.rows:
        faults.good_rows("error")

    values: dict[str, list[Any]] = {}
    for ours, theirs in names.items():
        if any(ours in sheet.columns for sheet in sheets):
            values[ours] = [
                value for sheet in sheets for value in sheet.columns.get(ours, [None] * sheet.rows)
            ]
        elif ours in columns or table[ours].required:
            known = list(dict.fromkeys(name for sheet in sheets for name in sheet.names))
            there = ", ".join(map(repr, known))
            hint = nearest(theirs, known)
            raise UserError(
                f"{_named(paths)}: no column {theirs!r} for {ours}: "
                + (hint if there in hint else f"{hint} (the columns are {there})")
            )
    fields = {
        ours: _converted(ours, table[ours], column, faults)
        for ours, column in values.items()
        if table[ours].required or any(value is not None for value in column)
    }
    return fields, faults


def _read_sheet(path: Path, names: Mapping[str, str]) -> Sheet:
    """Read a file's columns by our names, each value as JSON would hold it."""
    sheet = read_sheet(path, set(names.values()))
    for name, count in Counter(sheet.names).items():
        if count > 1:
            raise UserError(f"{path}: column {name!r} is there {count} times")
    values = {
        ours: sheet.columns[theirs] for ours, theirs in names.items() if theirs in sheet.columns
    }
    return sheet._replace(columns=typed_cells(values) if sheet.is_text else values)


def _named(paths: Sequence[Path]) -> str:
    others = len(paths) - 1
    return f"{paths[0]} and {others} more" if others else str(paths[0])


def _converted(ours: str, field: _Field, values: list[Any], faults: BadRows) -> list[Any]:
    converted = []
    for row, value in enumerate(values):
        try:
            if value is not None:
                converted.append(field.convert(value))
            elif field.absent is not ...:
                converted.append(field.absent)
            else:
                raise RowError("missing", "is missing, empty or null")
        except RowError as bad:
            faults.add(row, bad, ours, value)
            converted.append(None)
    return converted


class _Messages(str):
    """Chat messages as JSON text: a text to every rule but that of kinds."""


def _kind(item: str | list[float] | NDArray[Any]) -> str:
    if isinstance(item, str):
        return "messages" if isinstance(item, _Messages) else "text"
    return f"{len(item)} numbers"


def _settle_items(fields: dict[str, Any], names: tuple[str, ...], faults: BadRows) -> None:
    """Hold the items of these columns to the kind that most have; texts or float32 [n, D] then."""
    present = [name for name in names if name in fields]
    kinds = Counter(_kind(item) for name in present for item in fields[name] if item is not None)
    if not kinds:
        return
    usual = kinds.most_common(1)[0][0]
    for name in present:
        items: list[Any] = fields[name]
        for row, item in enumerate(items):
            if item is not None and (kind := _kind(item)) != usual:
                both_numbers = kind.endswith("numbers") and usual.endswith("numbers")
                reason = "wrong width" if both_numbers else "mixed kinds"
                bad = RowError(reason, f"is {kind}, where most items are {usual}")
                faults.add(row, bad, name, item)
                items[row] = None
        if usual.endswith("numbers"):
            fields[name] = _stacked(items, int(usual.split()[0]), name, faults)


def _stacked(items: list[Any], width: int, name: str, faults: BadRows) -> NDArray[np.float32]:
    """Stack rows of numbers to [n, width], with zeros for the bad ones."""
    zeros = [0.0] * width
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is refused as such
        block = np.array([zeros if row is None else row for row in items], np.float32)
    for row in np.flatnonzero(~np.isfinite(block).all(axis=1)):
        sentence = "holds a number that is NaN or infinite in float32"
        faults.add(int(row), RowError("not finite", sentence), name, items[row])
    return block


def _refuse_equal_items(chosen: Any, rejected: Any, faults: BadRows) -> None:
    if isinstance(chosen, np.ndarray):
        equal = (chosen == rejected).all(axis=1)
    else:
        equal = [a == b for a, b in zip(chosen, rejected, strict=True)]
    for row in np.flatnonzero(equal):
        bad = RowError("chosen equals rejected", "is chosen and rejected at once")
        faults.add(int(row), bad, "chosen", chosen[row])


def _refuse_straddling_tasks(fields: Mapping[str, Any], where: str) -> None:
    if "task_id" not in fields or "split" not in fields:
        return
    splits: dict[tuple[str, str], str] = {}
    for user, task, split in zip(
        fields["user_id"], fields["task_id"], fields["split"], strict=True
    ):
        if task is not None and splits.setdefault((user, task), split) != split:
            raise UserError(
                f"{where}: task_id {task!r} of user_id {user!r} has rows in the splits "
                f"{splits[user, task]!r} and {split!r}: one choice task belongs to one split"
            )


def _as_table(column: Any) -> Table:
    return column if isinstance(column, np.ndarray) else tuple(map(str, column))


def _at_rows(column: Any, rows: NDArray[np.bool_]) -> Any:
    return column[rows] if isinstance(column, np.ndarray) else list(compress(column, rows))


# ---- Converters: a plain value in, the checked value out, `RowError` where it breaks a rule


def _text(value: Any) -> str:
    if type(value) is not str:
        raise RowError("unknown type", "must be text")
    if not value or value.isspace():
        raise RowError("empty", "is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RowError("not UTF-8", "cannot be written as UTF-8") from None
    return value


def _label(value: Any) -> str:
    if type(value) not in (str, int):
        raise RowError("unknown type", "must be text or a whole number")
    return _text(str(value))


def _item(value: Any) -> str | list[float] | NDArray[Any]:
    if type(value) is str:
        return _text(value)
    if isinstance(value, list | np.ndarray) and len(value) == 0:
        raise RowError("empty", "is an empty list")
    if isinstance(value, np.ndarray):
        return value
    types = set(map(type, value)) if type(value) is list else set()
    if types and types <= {int, float}:
        try:
            return [float(number) for number in value]
        except OverflowError:
            raise RowError("not finite", "holds a number beyond float32") from None
    if is_messages(value):
        if all(not message["content"].strip() for message in value):
            raise RowError("empty", "has messages without content only")
        return _Messages(_text(written(value)))
    raise RowError(
        "unknown type",
        "must be text, a list of numbers or a list of messages {'role': text, 'content': text}",
    )


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise RowError("not boolean", "must be true or false")
    return value


_FLOAT32_MAX = float(np.finfo(np.float32).max)


def _finite(value: Any) -> float:
    if type(value) not in (int, float):
        raise RowError("unknown type", "must be a number")
    if not abs(value) <= _FLOAT32_MAX:
        raise RowError("not finite", "must be a finite number")
    return float(value)


def _weight(value: Any) -> float:
    weight = _finite(value)
    if weight < 0:
        raise RowError("negative weight", "must be 0 or more")
    return weight


def _split(value: Any) -> str:
    if type(value) is not str or value not in SPLITS:
        raise RowError("unknown split", f"is not a split: {nearest(value, SPLITS)}")
    return value


def _seconds(value: Any) -> float:
    if type(value) is not str:
        return _finite(value)
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise RowError(
            "bad timestamp", "must be a number or a time as ISO 8601 writes it"
        ) from None


# ---- Our columns

_COMPARISON = {
    "user_id": _Field(_label, required=True),
    "chosen": _Field(_item, required=True),
    "rejected": _Field(_item, required=True),
    "prompt": _Field(_item),
    "tie": _Field(_boolean, absent=False),
    "weight": _Field(_weight, absent=1.0),
    "group": _Field(_label),
    "topic": _Field(_label),
    "split": _Field(_split),
    "task_id": _Field(_label, absent=None),
    "timestamp": _Field(_seconds),
}
_RESPONSE = {
    "user_id": _Field(_label, required=True),
    "response": _Field(_item, required=True),
    "prompt": _Field(_item),
}
