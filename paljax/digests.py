"""Digests of what a run reads: another for another content, the same one on any machine."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def of_record(record: Any) -> str:
    """Digest of what JSON can write; the order of keys and of lists counts."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def of_arrays(arrays: Iterable[ArrayLike]) -> str:
    """Digest of arrays in their order: their types, shapes and numbers."""
    combined = hashlib.sha256()
    for array in map(np.asarray, arrays):
        combined.update(f"{array.dtype} {array.shape} ".encode())
        combined.update(array.tobytes())
    return combined.hexdigest()
