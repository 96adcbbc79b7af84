"""The part `item_id`: a learned vector for every item that training sees, text or numbers."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Table
from paljax.data.encoders.part import Kind, PartConfig, content
from paljax.models import Inputs, VectorInputs
from paljax.ranges import PositiveInt


class ItemId(PartConfig):
    """A learned vector for every item that training sees; zero for any other."""

    name: Literal["item_id"] = "item_id"
    width: PositiveInt = 16


class KnownItems(NamedTuple):
    """What `item_id` learned: which items there are. Their vectors are the model's parameters."""

    known: tuple[str, ...]  # as `content` writes them
    width: int  # of a learned vector

    def encode(self, table: Table) -> Inputs:
        """The row of every item's learned vector, -1 for an item that training never saw."""
        place = {item: row for row, item in enumerate(self.known)}
        ids = np.array([place.get(item, -1) for item in content(table)], np.int32)
        return VectorInputs(np.zeros((len(table), 0), np.float32), ids)

    def blank(self) -> Inputs:
        """The first item."""
        return VectorInputs(np.zeros((1, 0), np.float32), np.zeros(1, np.int32))

    def learned_vectors(self) -> tuple[int, int]:
        """Number and width of the learned vectors."""
        return len(self.known), self.width

    def remarks(self, table: Table) -> dict[str, int]:
        """An unknown item is nothing unusual: whole parts of the data may be new items."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """What `_from_json` reads back."""
        return {"known": list(self.known), "width": self.width}


def _fit(config: ItemId, table: Table, training_rows: NDArray[np.int32], key: str) -> KnownItems:
    written = content(table)
    return KnownItems(tuple(written[row] for row in np.unique(training_rows)), config.width)


def _from_json(record: dict[str, Any]) -> KnownItems:
    return KnownItems(tuple(record["known"]), record["width"])


ITEM_ID = Kind(ItemId, _fit, _from_json)
