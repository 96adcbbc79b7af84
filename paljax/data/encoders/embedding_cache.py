"""Embeddings on disk: what a text model made of a text is computed once, on this machine.

A folder holds the vectors of one model: `vectors.f32`, row after row, and `index`, one record a row
with the digest of the text. Both only grow. Vectors reach the disk before the records that name
them, so an interrupted process leaves at most a tail that no record names; the next one writes over
it. Processes that share a folder take turns, by a lock, in appending. N texts, D numbers.
"""

import contextlib
import fcntl
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paljax.errors import UserError

# The checksum is of the vector's bytes: a disk that lost a page is told, not trained on.
_RECORD = np.dtype([("key", "u1", (32,)), ("checksum", "<u4"), ("cut", "<u4")])
_VECTOR = np.dtype("<f4")


def key_of(text: str) -> bytes:
    """Digest that stands for a text, 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


class EmbeddingCache:
    """The embeddings of one model.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: Path, width: int) -> None:
        """Open a cache, or begin one.

        Args:
            folder: Of one model; made when the first embedding is kept.
            width: D.

        Raises:
            UserError: If it can't be read.
        """
        self.folder = folder
        self._row_bytes = width * _VECTOR.itemsize
        self._shape = (-1, width)
        self._row_of: dict[bytes, int] = {}
        self._records = np.zeros(0, _RECORD)
        self._refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._row_of

    def cut(self, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        """Which of these texts were longer than the model reads, [N]; all of them are here."""
        return self._records["cut"][self._rows(keys)].astype(bool)

    def read(self, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """Embeddings of texts that are all here, [N, D].

        Raises:
            UserError: If the file is damaged or can't be read.
        """
        path = self.folder / "vectors.f32"
        if not keys:
            return np.zeros((0, self._shape[1]), np.float32)
        rows = self._rows(keys)
        try:
            stored = np.memmap(path, _VECTOR, mode="r", shape=(len(self._records), self._shape[1]))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: can't be read ({error})") from None
        vectors = stored[rows]
        for vector, checksum in zip(vectors, self._records["checksum"][rows], strict=True):
            if zlib.crc32(vector) != checksum:
                raise UserError(
                    f"{path}: damaged; remove {self.folder} and its texts are embedded again"
                )
        return vectors.astype(np.float32, copy=False)

    def append(
        self,
        keys: Sequence[bytes],
        vectors: NDArray[np.float32],
        cut: NDArray[np.bool_],
    ) -> None:
        """Keep embeddings; those that another process kept meanwhile stay as they are.

        Args:
            keys: Of distinct texts.
            vectors: Their embeddings, [N, D].
            cut: Whether the model read less than the whole text, [N].

        Raises:
            UserError: If the disk is full or the folder can't be written; what was there stays.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / "lock"):
                self._refresh()
                new = [place for place, key in enumerate(keys) if key not in self._row_of]
                records = np.zeros(len(new), _RECORD)
                block = np.ascontiguousarray(vectors[new], _VECTOR)
                for record, vector, place in zip(records, block, new, strict=True):
                    record["key"] = np.frombuffer(keys[place], np.uint8)
                    record["checksum"] = zlib.crc32(vector)
                    record["cut"] = cut[place]
                start = len(self._records)
                _write(self.folder / "vectors.f32", block.tobytes(), start * self._row_bytes)
                _write(self.folder / "index", records.tobytes(), start * _RECORD.itemsize)
                self._refresh()
        except OSError as error:
            raise UserError(
                f"{self.folder}: embeddings can't be written ({error.strerror or error}); "
                f"{len(self._records)} texts are kept there, and the next run goes on from them"
            ) from None

    def _rows(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        return np.array([self._row_of[key] for key in keys], np.int64)

    def _refresh(self) -> None:
        """Take note of what the folder holds more than before; a torn tail is not there."""
        path = self.folder / "index"
        known = len(self._records)
        try:
            num_vectors = (self.folder / "vectors.f32").stat().st_size // self._row_bytes
            with path.open("rb") as file:
                file.seek(known * _RECORD.itemsize)
                added = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
        count = max(0, min(len(added) // _RECORD.itemsize, num_vectors - known))
        records = np.frombuffer(added[: count * _RECORD.itemsize], _RECORD)
        for place, key in enumerate(records["key"]):
            self._row_of[key.tobytes()] = known + place
        self._records = np.concatenate([self._records, records])


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in here; the lock of a process that died is free."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: bytes, start: int) -> None:
    """Put bytes at a place, end the file after them, and see them on the disk."""
    with path.open("ab"):  # make the file where there is none
        pass
    with path.open("r+b", buffering=0) as file:
        file.seek(start)
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]
        file.truncate()
        os.fsync(file.fileno())
