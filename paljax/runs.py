"""The run directory: what a run writes, and reading it back.

Files appear whole or not at all: each is written beside its place and then moved there.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import paljax
from paljax.config import Config, parse, read_yaml
from paljax.errors import UserError, nearest

CONFIG = "config.yaml"
METRICS = "metrics.json"
METRICS_LOG = "metrics.jsonl"
ANALYSIS = "analysis.json"
MODEL = "model.json"
USERS = "users.parquet"
SPLITS = "splits.parquet"
REPORT = "report.html"
CHECKPOINTS = "checkpoints"

TABLE_SUFFIXES = (".parquet", ".jsonl")

VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


class Table(NamedTuple):
    """Columns of a Parquet file, by name."""

    columns: Mapping[str, Sequence[Any]]
    types: Mapping[str, pa.DataType]


def versions() -> dict[str, str]:
    """Versions of paljax and of what it computes with."""
    return {"paljax": paljax.__version__} | {name: metadata.version(name) for name in VERSIONED}


def open_run(folder: Path, config: Config, *, resume: bool) -> None:
    """Make a run directory, or take up the run that it holds.

    Args:
        folder: The run directory.
        config: The run's configuration.
        resume: Whether a run may be continued.

    Raises:
        UserError: If the folder holds something else, another configuration, or a run that may not
            be continued, or can't be written.
    """
    record = config.model_dump(mode="json", exclude={"versions"})
    if not _is_empty(folder):
        if not (folder / CONFIG).exists():
            raise UserError(f"{folder}: is not empty and holds no run; choose another --run-dir")
        if not resume:
            raise UserError(f"{folder}: holds a run; choose another --run-dir or --resume auto")
        held = read_config(folder).model_dump(mode="json", exclude={"versions"})
        difference = first_difference(held, record)
        if difference is not None:
            key, before, now = difference
            raise UserError(
                f"{folder}: holds a run with {key}={before!r}, this one has {now!r}; "
                "choose another --run-dir"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't make the run directory ({error.strerror})") from None
    text = yaml.safe_dump(record | {"versions": versions()}, sort_keys=False, allow_unicode=True)
    write_text(folder / CONFIG, text)


def read_config(folder: Path) -> Config:
    """The configuration of a run.

    Raises:
        UserError: If the folder holds no run.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run directory")
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: is no run directory, {CONFIG} is missing")
    return parse(read_yaml(folder / CONFIG), where=str(folder / CONFIG))


def first_difference(left: Any, right: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """First key, with both values, in which two nested records differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in [*left, *(name for name in right if name not in left)]:
            inner = f"{key}.{name}" if key else str(name)
            found = first_difference(left.get(name), right.get(name), inner)
            if found:
                return found
        return None
    return None if left == right else (key, left, right)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: If the disk is full or the folder can't be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        _remove(draft)
        raise UserError(f"{path}: can't be written ({error.strerror})") from None


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
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(arrays, draft)
        draft.replace(path)
    except OSError as error:
        _remove(draft)
        raise UserError(f"{path}: can't be written ({error.strerror or error})") from None


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


class MetricsLog:
    """metrics.jsonl: a record an epoch, without the epochs that a killed run will repeat."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rewind(self, fit: str, epoch: int) -> None:
        """Forget the epochs of a fit after the one that its newest checkpoint holds."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _is_kept(line, fit, epoch)]
        if len(kept) < len(lines):
            write_text(self._path, "".join(kept))

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                for record in records:
                    file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"{self._path}: can't be written ({error.strerror})") from None


def _is_kept(line: str, fit: str, epoch: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False  # the run was killed while it wrote this line
    return bool(record["fit"] != fit or record["epoch"] <= epoch)


def _is_empty(folder: Path) -> bool:
    try:
        return not folder.exists() or not any(folder.iterdir())
    except NotADirectoryError:
        raise UserError(f"{folder}: is a file, wanted a run directory") from None
    except OSError as error:
        raise UserError(f"{folder}: can't be read ({error.strerror})") from None


def _remove(draft: Path) -> None:
    # An error here would hide the one that is being told.
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)
