"""What an encoder is made of: parts that turn items into vectors, each of its own kind.

N items, D numbers.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from paljax.data.dataset import Table
from paljax.models import Inputs


class PartConfig(BaseModel):
    """What a part is asked for; each has a `name` of its own."""

    model_config = ConfigDict(extra="forbid")


class Part(Protocol):
    """A fitted part: a NamedTuple of what it learned, and these functions of it."""

    def encode(self, table: Table) -> Inputs:
        """Inputs of these items: an array [N, D], or `VectorInputs` of items with learned vectors.

        Raises:
            UserError: If the items are of another kind or width than those that it was fitted on.
        """

    def blank(self) -> Inputs:
        """Inputs of one item that is all zeros, to know widths by."""

    def learned_vectors(self) -> tuple[int, int] | None:
        """Number and width of the learned vectors, None without."""

    def remarks(self, table: Table) -> dict[str, int]:
        """How many of these items it could not read as they are, by reason."""

    def to_json(self) -> dict[str, Any]:
        """What `Kind.from_json` reads back."""


class Kind(NamedTuple):
    """How parts of one kind come about."""

    config: type[PartConfig]
    # (config, all distinct items, rows: one for every time that an item appears in training,
    # the key of the configuration to name in errors) -> the fitted part
    fit: Callable[[Any, Table, NDArray[np.int32], str], Part]
    from_json: Callable[[dict[str, Any]], Part]  # of what `Part.to_json` wrote


def content(table: Table) -> Sequence[str]:
    """Every item as text that identifies it."""
    if isinstance(table, tuple):
        return table
    return [json.dumps(numbers) for numbers in table.tolist()]
