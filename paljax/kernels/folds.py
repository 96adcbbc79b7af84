"""Reductions over a leading axis, written out operation by operation."""

import functools
from collections.abc import Callable
from typing import Any

from jax import lax
from jaxtyping import Array

# XLA's own reductions over a leading axis are five times slower on a CPU; writing out more rows
# than these only costs compile time.
ROWS_WRITTEN_OUT = 32


def fold(operation: Callable[[Array, Array], Array], values: Array) -> Array:
    """Folds the leading axis, which is as long as there are prototypes."""
    total: Array = functools.reduce(operation, list(values))
    return total


def fold_rows(operation: Callable[..., Any], start: Any, *values: Array) -> Any:
    """The same for an axis as long as the data: written out a few rows at a time."""
    total, _ = lax.scan(
        lambda total, row: (operation(total, *row), None), start, values, unroll=ROWS_WRITTEN_OUT
    )
    return total
