"""Shards of comparisons on disk, read a group of rows at a time.

A shard is a Parquet file, whose groups are its row groups, or an ArrayRecord file, each record of
which is an Arrow stream with a group of rows. Columns are row numbers: `user`, `chosen` and
`rejected`, and where there are any `prompt`, `tie` and `weight`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from paljax.data.dataset import Comparisons
from paljax.errors import UserError, nearest

REQUIRED = ("user", "chosen", "rejected")
OPTIONAL = ("prompt", "tie", "weight")
MOST_ROWS = 2**31  # of a table: rows are numbered in 32 bits


class Shards(NamedTuple):
    """Where G groups of rows are."""

    names: tuple[str, ...]  # [G] for messages
    sizes: NDArray[np.int64]  # [G] rows of each
    readers: tuple[Callable[[], pa.Table], ...]  # [G]

    @property
    def num_rows(self) -> int:
        """Rows of all groups."""
        return int(self.sizes.sum())

    def read(self, group: int) -> Comparisons:
        """The rows of a group; `task` is all zeros, since shards know no choice tasks.

        Raises:
            UserError: If the group can't be read, or is not what it was when it was opened.
        """
        try:
            table = self.readers[group]()
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.names[group]}: can't be read: {reason}") from None
        if len(table) != self.sizes[group]:
            raise UserError(
                f"{self.names[group]}: has {len(table)} rows, wanted {self.sizes[group]}; every "
                "record of a shard but its last has as many rows as its first"
            )
        return self._comparisons(table, self.names[group])

    def _comparisons(self, table: pa.Table, name: str) -> Comparisons:
        num_rows = len(table)

        def column(key: str, dtype: Any, default: Any) -> NDArray[Any]:
            if key not in table.column_names:
                return np.full(num_rows, default, dtype)
            values = table[key]
            if values.null_count:
                raise UserError(f"{name}: column {key!r} has {values.null_count} empty cells")
            found: NDArray[Any] = values.to_numpy()
            if found.dtype.kind not in "iub" + ("f" if dtype is np.float32 else ""):
                raise UserError(f"{name}: column {key!r} holds {values.type}, wanted row numbers")
            if dtype is np.int32 and num_rows and not -1 <= found.min() <= found.max() < MOST_ROWS:
                raise UserError(f"{name}: column {key!r} holds a number that is no row number")
            converted: NDArray[Any] = found.astype(dtype)
            return converted

        return Comparisons(
            user=column("user", np.int32, 0),
            prompt=column("prompt", np.int32, -1),
            chosen=column("chosen", np.int32, 0),
            rejected=column("rejected", np.int32, 0),
            weight=column("weight", np.float32, 1),
            tie=column("tie", np.bool_, False),
            task=np.zeros(num_rows, np.int32),
        )


def open_shards(folder: Path) -> Shards:
    """Find the shards of a folder, in the order of their names, and learn how long they are.

    Args:
        folder: Holds .parquet or .array_record files.

    Returns:
        The shards; groups without rows are left out.

    Raises:
        UserError: If there are none, or one can't be read or lacks a column.
    """
    if not folder.is_dir():
        raise UserError(f"data.comparisons: {str(folder)!r} is no folder")
    names: list[str] = []
    sizes: list[int] = []
    readers: list[Callable[[], pa.Table]] = []
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _OPENERS]
    if not files:
        raise UserError(
            f"data.comparisons: {str(folder)!r} holds no shard; wanted files that end in "
            + " or ".join(_OPENERS)
        )
    for path in files:
        try:
            groups = _OPENERS[path.suffix](path)
        except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
            raise UserError(
                f"{path}: can't be read: {' '.join(str(error).split())[:200]}"
            ) from None
        for place, (size, reader) in enumerate(groups):
            if size:
                names.append(f"{path}, group {place}")
                sizes.append(size)
                readers.append(reader)
    if not sizes:
        raise UserError(f"data.comparisons: the shards of {str(folder)!r} have no rows")
    return Shards(tuple(names), np.array(sizes, np.int64), tuple(readers))


Groups = Sequence[tuple[int, Callable[[], pa.Table]]]


def _open_parquet(path: Path) -> Groups:
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        columns = _columns(path, file.schema_arrow.names)
    return [
        (metadata.row_group(group).num_rows, partial(_read_parquet, path, metadata, group, columns))
        for group in range(metadata.num_row_groups)
    ]


def _read_parquet(path: Path, metadata: Any, group: int, columns: list[str]) -> pa.Table:
    # A file of one's own: open ones can't be shared by threads, and the metadata are known.
    with pq.ParquetFile(path, metadata=metadata) as file:
        return file.read_row_group(group, columns=columns, use_threads=False)


def _open_array_record(path: Path) -> Groups:
    # Grain is slow to import, and Parquet does without.
    from grain.sources import ArrayRecordDataSource

    source = ArrayRecordDataSource([str(path)])
    count = len(source)
    if not count:
        return []
    first = _read_array_record(source, 0)
    _columns(path, first.column_names)
    sizes = [len(first)] * (count - 1) + [len(_read_array_record(source, count - 1))]
    return [(size, partial(_read_array_record, source, place)) for place, size in enumerate(sizes)]


def _read_array_record(source: Any, place: int) -> pa.Table:
    with pa.ipc.open_stream(source[place]) as stream:
        table = stream.read_all()
    return table.select(_columns(Path(), table.column_names))


_OPENERS: dict[str, Callable[[Path], Groups]] = {
    ".parquet": _open_parquet,
    ".array_record": _open_array_record,
}


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    for name in REQUIRED:
        if name not in names:
            raise UserError(f"{path}: has no column {name!r}; {nearest(name, names)}")
    return [name for name in (*REQUIRED, *OPTIONAL) if name in names]
