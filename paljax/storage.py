"""Files that appear whole or not at all: each is written beside its place and then moved there."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from paljax.errors import UserError, nearest

TABLE_SUFFIXES = (".parquet", ".jsonl")
_DRAFT = re.compile(r"\..+\.\d+")  # .NAME.PROCESS


class Table(NamedTuple):
    """Columns of a Parquet file, by name."""

    columns: Mapping[str, Sequence[Any] | NDArray[Any]]
    types: Mapping[str, pa.DataType]


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: If the disk is full or the folder can't be written.
    """

    def write(draft: Path) -> None:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    write_file(path, write)


def write_json(path: Path, record: Any) -> None:
    """Write JSON whole or not at all; a number that is not finite is a mistake of ours."""
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is the run finished?") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged: {error}") from None


def require_table_suffix(path: Path) -> None:
    """Refuse an output file of a kind that `write_table` does not know, before any work is done."""
    if path.suffix not in TABLE_SUFFIXES:
        raise UserError(
            f"{path}: unknown kind of table {path.suffix!r}; {nearest(path.suffix, TABLE_SUFFIXES)}"
        )
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist")


def write_table(path: Path, table: Table) -> None:
    """Write a Parquet file, or JSON lines where the path says so, whole or not at all."""
    arrays = pa.table(
        {name: pa.array(values, type=table.types[name]) for name, values in table.columns.items()}
    )
    if path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(row) + "\n" for row in arrays.to_pylist()))
        return
    write_file(path, lambda draft: pq.write_table(arrays, draft))


def read_table(path: Path) -> dict[str, list[Any]]:
    """Columns of a Parquet file.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is the run finished?") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())[:200]}") from None
    return columns


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a draft, then put the draft in the file's place.

    Raises:
        UserError: If the disk is full or the folder can't be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(draft)
        draft.replace(path)
    except OSError as error:
        # An error here would hide the one that is being told.
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise UserError(f"{path}: can't be written ({error.strerror or error})") from None


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a draft of a folder, then put the draft in the folder's place.

    Raises:
        UserError: If the disk is full or the folder can't be written.
    """
    draft, before = (
        path.with_name(f".{name}.{os.getpid()}") for name in (path.name, f"{path.name}.before")
    )
    try:
        draft.mkdir()
        write(draft)
        if path.exists():
            path.replace(before)
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error})") from None
    finally:
        for left in (draft, before):
            shutil.rmtree(left, ignore_errors=True)


def is_draft(path: Path) -> bool:
    """Whether a process that was killed while it wrote left this file or folder."""
    return _DRAFT.fullmatch(path.name) is not None


def remove_drafts(folder: Path) -> None:
    """Delete what killed processes left in a folder; one that can't be deleted does no harm."""
    for path in filter(is_draft, folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
            continue
        with contextlib.suppress(OSError):
            path.unlink()
