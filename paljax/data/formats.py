"""File formats of comparisons: JSON Lines, CSV and Parquet, plain or gzipped, as columns of values.

A reader turns a file into columns of plain Python values; CSV cells become what JSON would hold.
What the values must be is the caller's affair; a row that holds no values at all is a `RowError`.
"""

import codecs
import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from paljax.errors import UserError


class RowError(Exception):
    """A rule that a row breaks: the short name of the reason, and the sentence for the user."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Sheet(NamedTuple):
    """What a file holds, before any rule about its values."""

    names: list[str]  # of all columns, repeated where the file repeats them
    columns: dict[str, list[Any]]  # the wanted ones that are there, None for an absent value
    rows: int
    broken: dict[int, RowError]  # rows that hold no values at all, and why
    is_text: bool = False  # every value is a cell's text


def shortened(value: object) -> str:
    """Show a value in at most one short line."""
    text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def read_sheet(path: Path, wanted: Collection[str]) -> Sheet:
    """Read the wanted columns of a file of any known format."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    open_file: Callable[..., Any] = gzip.open if name.endswith(".gz") else open
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a directory, wanted a file")
        if suffix not in _READERS:
            known = ", ".join(repr(known) for known in _READERS)
            raise UserError(
                f"{path}: unknown suffix {suffix!r}: choose one of {known} (or + '.gz')"
            )
        with open_file(path, "rb") as stream:
            return _READERS[suffix](stream, wanted)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error})") from error
    except pa.ArrowException as error:
        raise UserError(f"{path}: damaged Parquet file ({str(error).splitlines()[0]})") from error
    except csv.Error as error:
        raise UserError(f"{path}: broken CSV: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_jsonl(stream: IO[bytes], wanted: Collection[str]) -> Sheet:
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    names: dict[str, None] = {}
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    broken: dict[int, RowError] = {}
    rows = 0
    for row, line in enumerate(stream):
        try:
            record = _record(line.removeprefix(codecs.BOM_UTF8) if row == 0 else line, decoder)
        except RowError as bad:
            broken[row], record = bad, {}
        names.update(dict.fromkeys(record))
        for name, column in columns.items():
            column.append(record.get(name))
        if line.strip():
            rows = row + 1  # what follows the last of these is blank
    return Sheet(
        names=list(names),
        columns={name: column[:rows] for name, column in columns.items() if name in names},
        rows=rows,
        broken={row: bad for row, bad in broken.items() if row < rows},
    )


def _record(line: bytes, decoder: json.JSONDecoder) -> dict[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise RowError("not UTF-8", f"byte {error.start + 1} of the line is not UTF-8") from None
    try:
        record = decoder.decode(text)
    except json.JSONDecodeError as error:
        problem = f"{shortened(text.strip())} is not JSON ({error.msg}, character {error.pos + 1})"
        raise RowError("unreadable line", problem) from None
    except (ValueError, RecursionError) as error:  # endless digits, endless brackets
        problem = f"{shortened(text.strip())} cannot be read ({error})"
        raise RowError("unreadable line", problem) from None
    if type(record) is not dict:
        raise RowError("unreadable line", f"{shortened(record)} is not a JSON object")
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise RowError("duplicate key", f"the key {key!r} is there twice in one object")
    return record


def _read_csv(stream: IO[bytes], wanted: Collection[str]) -> Sheet:
    rows: list[list[str]] = []  # the header first
    broken: dict[int, RowError] = {}

    def lines() -> Iterator[str]:
        for line in stream:
            try:
                yield line.decode("utf-8" if rows else "utf-8-sig")
            except UnicodeDecodeError:
                broken[len(rows) - 1] = RowError("not UTF-8", "the row is not UTF-8")
                yield line.decode(errors="replace")

    limit = csv.field_size_limit(2**31 - 1)  # the default refuses texts of 128 KiB
    try:
        for row in csv.reader(lines(), strict=True):
            rows.append(row)
    except csv.Error as error:  # where quotes are broken nobody knows where the next row starts
        raise csv.Error(f"{f'row {len(rows)}' if rows else 'the header'}: {error}") from None
    finally:
        csv.field_size_limit(limit)
    if -1 in broken:
        raise csv.Error("the header is not UTF-8")
    while rows and not rows[-1]:
        rows.pop()
    header, body = (rows[0], rows[1:]) if rows else ([], [])
    for number, row in enumerate(body):
        if len(row) != len(header):
            sentence = f"{len(row)} cells, where the header has {len(header)}"
            broken.setdefault(number, RowError("unreadable line", sentence))
            body[number] = [""] * len(header)
    columns = {
        name: [row[index] or None for row in body]
        for index, name in enumerate(header)
        if name in wanted
    }
    return Sheet(header, columns, len(body), broken, is_text=True)


def typed_cells(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Turn the cells of a CSV into what JSON would hold; a cell that cannot be stays text."""
    typed = dict(columns)
    for name, from_cell in (
        ("tie", _boolean_cell),
        ("weight", _number_cell),
        ("timestamp", _number_cell),
    ):
        if name in columns:
            typed[name] = [cell and from_cell(cell) for cell in columns[name]]
    for names in (("chosen", "rejected"), ("prompt",), ("response",)):
        present = [name for name in names if name in columns]
        cells = [cell for name in present for cell in columns[name] if cell is not None]
        lists = {cell: parsed for cell in set(cells) if (parsed := _list_cell(cell)) is not None}
        if 2 * sum(cell in lists for cell in cells) > len(cells):
            for name in present:
                typed[name] = [lists.get(cell, cell) for cell in columns[name]]
    return typed


def _boolean_cell(cell: str) -> bool | str:
    return {"true": True, "1": True, "false": False, "0": False}.get(cell.strip().lower(), cell)


def _number_cell(cell: str) -> float | str:
    try:
        return cell if "_" in cell else float(cell)  # Python alone reads 1_000
    except ValueError:
        return cell


def _list_cell(cell: str) -> list[Any] | None:
    """Parse a JSON list of numbers or of objects; None for any other cell."""
    if not cell.lstrip().startswith("["):
        return None
    try:
        parsed = json.loads(cell, object_pairs_hook=_object)
    except (ValueError, RecursionError, RowError):
        return None
    types = set(map(type, parsed))
    return parsed if types and (types <= {int, float} or types == {dict}) else None


def _read_parquet(stream: IO[bytes], wanted: Collection[str]) -> Sheet:
    content = stream.read()
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        names = file.schema_arrow.names
        table = file.read(columns=[name for name in names if name in wanted])
    except (OSError, UnicodeDecodeError) as error:  # damaged pages, damaged names
        raise pa.ArrowInvalid(str(error)) from error
    columns = {
        name: _plain(column) for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return Sheet(names, columns, table.num_rows, broken={})


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Return Python values: rows of numbers as NumPy arrays, times as seconds since 1970."""
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        column = column.cast(pa.list_(kind.value_type))
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        numbers = column.type.value_type
        if pa.types.is_floating(numbers) or pa.types.is_integer(numbers):
            return [row for chunk in column.chunks for row in _rows_of_numbers(chunk)]
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        ticks = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist()
        return [None if tick is None else tick / 1e6 for tick in ticks]
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_python_value(scalar) for scalar in column]


def _rows_of_numbers(chunk: pa.Array) -> list[NDArray[Any] | None]:
    numbers = chunk.values.to_numpy(zero_copy_only=False)  # null becomes NaN
    offsets = chunk.offsets.to_pylist()
    present = chunk.is_valid().to_pylist()
    bounds = zip(present, offsets[:-1], offsets[1:], strict=True)
    return [numbers[start:end] if there else None for there, start, end in bounds]


def _python_value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return "\udcff"  # a text that cannot be UTF-8 either, for the caller to refuse


_READERS: dict[str, Callable[[IO[bytes], Collection[str]], Sheet]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
