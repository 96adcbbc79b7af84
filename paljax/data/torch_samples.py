"""Samples that joblib wrote with torch tensors in them, read without torch and without trust.

A pickle can run any code, and these come from a hub. So only what builds a tensor is known here, as
functions on NumPy arrays, and any other name in a file is an error.
"""

import io
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.errors import UserError

_STORAGES = {"FloatStorage": np.float32, "HalfStorage": np.float16, "DoubleStorage": np.float64}


class _Global(NamedTuple):
    """A class that a file names where it says of what type a storage is."""

    name: str


def read_sample(content: bytes, where: Path | str) -> Any:
    """The object of a joblib or pickle file, with NumPy arrays for tensors.

    Args:
        content: Of the file.
        where: Its name, for errors.

    Returns:
        Lists, tuples, dicts, texts, numbers and arrays.

    Raises:
        UserError: If the file is damaged or holds anything else.
    """
    try:
        return _Tensors(io.BytesIO(content)).load()
    except (
        pickle.UnpicklingError, EOFError, struct.error, ValueError, KeyError, IndexError,
        TypeError, AttributeError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise UserError(f"{where}: is no sample of torch tensors ({error})") from None


class _Tensors(pickle.Unpickler):
    """Knows what builds a tensor and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The NumPy counterpart of a torch function."""
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch.storage", "_load_from_bytes"): _load_storage,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return known[module, name]


class _Storage(pickle.Unpickler):
    """The description of one storage in torch's older file format."""

    def find_class(self, module: str, name: str) -> Any:
        """Storage types by name."""
        if module != "torch" or name not in _STORAGES:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return _Global(name)

    def persistent_load(self, saved: Any) -> Any:
        """('storage', type, key, device, numbers, view); there is one storage and no view."""
        return saved


def _load_storage(content: bytes) -> NDArray[Any]:
    """All numbers of a storage: magic number, version, system, description, keys, then the data."""
    stream = io.BytesIO(content)
    for _ in range(3):
        _plain_values(stream)
    _, kind, _, _, count, _ = _Storage(stream).load()
    _plain_values(stream)
    (written,) = struct.unpack("<q", stream.read(8))
    numbers = np.frombuffer(stream.read(), _STORAGES[kind.name])
    if not len(numbers) == written == count:
        raise ValueError(f"{len(numbers)} numbers where it says {count}")
    return numbers


def _plain_values(stream: io.BytesIO) -> Any:
    """The next pickle of a stream, which may name nothing."""
    return _Storage(stream).load()


def _rebuild_tensor(
    storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> NDArray[Any]:
    reach = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset < 0 or min(stride, default=0) < 0 or reach > len(storage):
        raise ValueError(f"a tensor of {reach} numbers in a storage of {len(storage)}")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False).copy()
