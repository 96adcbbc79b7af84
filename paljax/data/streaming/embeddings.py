"""Embeddings in a memory map, of which only the rows that a batch needs are read."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paljax import digests
from paljax.errors import UserError

_DIGESTED = 1024  # rows: each may be a page to fetch from a disk


class Embeddings:
    """N rows of D numbers in an .npy file.

    Args:
        path: The file; float16, float32 or float64.
        key: Of the configuration, for messages.

    Raises:
        UserError: If it can't be read as that.
    """

    def __init__(self, path: Path, *, key: str) -> None:
        self._name = f"{key}: {str(path)!r}"
        try:
            # `np.load` takes other kinds of files, too.
            mapped: Any = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self._name} can't be read as an .npy file: {reason}") from None
        if mapped.ndim != 2 or mapped.dtype.kind != "f" or not mapped.size:
            raise UserError(
                f"{self._name} holds {mapped.dtype} of shape {mapped.shape}, wanted rows "
                "of floating-point numbers, [N, D]"
            )
        self._rows: NDArray[Any] = np.asarray(mapped)
        self._map: mmap.mmap = mapped._mmap
        # Rows are wanted here and there: what lies behind one is not worth reading ahead.
        self._map.madvise(mmap.MADV_RANDOM)

    @property
    def count(self) -> int:
        """N."""
        return int(self._rows.shape[0])

    @property
    def width(self) -> int:
        """D."""
        return int(self._rows.shape[1])

    def digest(self) -> str:
        """Digest of the shape, and of rows at equal distances from the first to the last.

        Another file is noticed, and one that was computed anew; a change of a few rows among
        millions may not be. Reading them all would take as long as an epoch.
        """
        count = self.count
        numbers = np.unique(np.linspace(0, count - 1, min(count, _DIGESTED)).astype(np.int64))
        return digests.of_arrays([np.array(self._rows.shape), self.read(numbers)])

    def read(self, numbers: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Copy rows, [..., D], as the file has them (float64 as float32).

        The pages that held them are given back at once: they stay in the system's cache and are
        none of this process's memory, which would else grow to the size of the file.

        Raises:
            UserError: If a row holds a number that is not finite.
        """
        dtype = np.float16 if self._rows.dtype == np.float16 else np.float32
        # `take` copies whole rows, in half the time that indexing takes.
        with np.errstate(over="ignore"):  # told below
            found = np.take(self._rows, numbers, axis=0).astype(dtype, copy=False)
        self._map.madvise(mmap.MADV_DONTNEED)
        if not np.isfinite(found).all():
            broken = np.asarray(numbers)[~np.isfinite(found).all(axis=-1)]
            raise UserError(
                f"{self._name}, row {broken.min()}: holds a number that is not finite as "
                f"{np.dtype(dtype).name}"
            )
        return found
