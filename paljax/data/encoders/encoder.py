"""An encoder: parts side by side, fitted to the items of the training comparisons.

N items, D numbers in all parts together.
"""

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from paljax.data.dataset import Table
from paljax.data.encoders.causal_lm import CAUSAL_LM
from paljax.data.encoders.format import FORMAT
from paljax.data.encoders.item_id import ITEM_ID
from paljax.data.encoders.minilm import MINILM
from paljax.data.encoders.numbers import NUMBERS, StandardisedNumbers
from paljax.data.encoders.part import Kind, Part
from paljax.data.encoders.transformers import TRANSFORMERS
from paljax.errors import UserError
from paljax.models import Inputs, VectorInputs

PARTS: dict[str, Kind] = {
    "numbers": NUMBERS,
    "item_id": ITEM_ID,
    "format": FORMAT,
    "minilm": MINILM,
    "transformers": TRANSFORMERS,
    "causal_lm": CAUSAL_LM,
}

LEVEL_WIDTH = 64  # numbers of levels, and most levels


if TYPE_CHECKING:
    EncoderConfig = Any  # made from the registry
else:
    EncoderConfig = Union[tuple(kind.config for kind in PARTS.values())]  # noqa: UP007  (of a tuple)


class Encoder(NamedTuple):
    """A fitted encoder."""

    parts: dict[str, Part]  # by name, in the order of their numbers
    # Texts that votes are compared with: they have numbers of their own behind those of the parts,
    # which are 0 for all items, and nothing of what they say.
    levels: tuple[str, ...] = ()

    def encode(self, table: Table) -> Inputs:
        """Inputs of these items for a model.

        Args:
            table: Items of the kind that the encoder was fitted on.

        Returns:
            [N, D] array, or `VectorInputs` where items have a learned vector.

        Raises:
            UserError: If the items are of another kind or width.
        """
        inputs = _side_by_side([part.encode(table) for part in self.parts.values()])
        return self._with_levels(inputs, table)

    def blank(self) -> Inputs:
        """Inputs of one item that is all zeros, to know widths by."""
        inputs = _side_by_side([part.blank() for part in self.parts.values()])
        return self._with_levels(inputs, ("",))

    @property
    def level_width(self) -> int:
        """How many numbers at the end are the levels'."""
        return LEVEL_WIDTH if self.levels else 0

    def learned_vectors(self) -> tuple[int, int] | None:
        """Number and width of the learned vectors, None without."""
        return next(filter(None, (part.learned_vectors() for part in self.parts.values())), None)

    def num_attributes(self) -> int:
        """How many numbers are the item's own; they come first, since text has none beside them."""
        owned = [part for part in self.parts.values() if isinstance(part, StandardisedNumbers)]
        return sum(len(part.mean) for part in owned)

    def rise(self, column: int) -> NDArray[np.float32]:
        """Mean change [D] of an item's inputs when one of its own numbers rises by a standard
        deviation.
        """
        changes = []
        for part in self.parts.values():
            if isinstance(part, StandardisedNumbers):
                changes.append(part.rise(column))
            else:
                blank = part.blank()
                features = blank.features if isinstance(blank, VectorInputs) else blank
                changes.append(np.zeros(features.shape[1], np.float32))
        return np.concatenate([*changes, np.zeros(self.level_width, np.float32)])

    def remarks(self, table: Table) -> dict[str, int]:
        """How many items could not be read as they are, by part and reason."""
        remarks = {
            f"{name}: {reason}": count
            for name, part in self.parts.items()
            for reason, count in part.remarks(table).items()
        }
        if self.levels:
            near = filter(None, (_nearly(text, self.levels) for text in table))
            for level, count in Counter(near).items():
                remarks[f"read as an item, almost the level {level!r}"] = count
        return remarks

    def _with_levels(self, inputs: Inputs, table: Table) -> Inputs:
        """Add numbers of the levels' own, which are 0 for every item.

        Those of a level are a row of a Hadamard matrix, as long as a standardised item's vector. A
        single number of that size would be learned slowly and held down by decay, since Adam steps
        by signs: what a step can move is the sum of an input's absolute numbers.
        """
        if not self.levels:
            return inputs
        features, ids = inputs if isinstance(inputs, VectorInputs) else (inputs, None)
        is_level = np.array(table, object)[:, None] == np.array(self.levels, object)
        any_level = is_level.any(axis=1)
        rows = scipy.linalg.hadamard(LEVEL_WIDTH)[: len(self.levels)]
        size = max(np.sqrt(features.shape[1] / LEVEL_WIDTH), 1.0)
        features = np.where(any_level[:, None], 0, features)
        features = np.concatenate([features, size * (is_level @ rows)], axis=1).astype(np.float32)
        return features if ids is None else VectorInputs(features, np.where(any_level, -1, ids))

    def to_json(self) -> dict[str, Any]:
        """What `encoder_from_json` reads back."""
        parts = {name: part.to_json() for name, part in self.parts.items()}
        return {"parts": parts, "levels": list(self.levels)}


def encoder_from_json(record: dict[str, Any]) -> Encoder:
    """The encoder that `Encoder.to_json` wrote."""
    parts = {name: PARTS[name].from_json(held) for name, held in record["parts"].items()}
    return Encoder(parts, tuple(record.get("levels", ())))


def fit_encoder(
    configs: Sequence[EncoderConfig],
    table: Table,
    training_rows: NDArray[np.int32],
    *,
    levels: tuple[str, ...] = (),
    key: str = "encoder",
) -> Encoder:
    """Learn an encoder from the items of the training comparisons.

    Args:
        configs: The encoders to concatenate, at most one of a kind.
        table: All distinct items.
        training_rows: Rows of the table, one for every time that an item appears in training.
        levels: Of the table's texts those that are no items but levels that votes are compared
            with; none is in `training_rows`.
        key: Of the configuration, to name in errors.

    Returns:
        The fitted encoder.

    Raises:
        UserError: If an encoder does not fit the items.
    """
    by_name = {config.name: config for config in configs}
    if len(by_name) < len(configs):
        raise UserError(f"{key}: every encoder may appear once in a concatenation")
    return Encoder(
        {
            name: PARTS[name].fit(config, table, training_rows, key)
            for name, config in by_name.items()
        },
        levels,
    )


def _side_by_side(inputs: Sequence[Inputs]) -> Inputs:
    """Concatenate what parts made of the same items; at most one part has learned vectors."""
    ids = None
    blocks = []
    for part in inputs:
        if isinstance(part, VectorInputs):
            ids = part.ids
            blocks.append(part.features)
        else:
            blocks.append(part)
    features = np.concatenate(blocks, axis=1)
    return features if ids is None else VectorInputs(features, ids)


def _nearly(text: str, levels: tuple[str, ...]) -> str | None:
    """The level that a text is but for a slip, as of a letter or in case."""
    longest = max(map(len, levels))
    if text in levels or len(text) > longest + 2:
        return None
    near = difflib.get_close_matches(text.casefold().strip(), levels, 1, cutoff=0.95)
    return near[0] if near else None
