"""From items as they are written to the vectors that a model reads.

An encoder learns what it must from the training comparisons alone: `numbers` the mean and spread of
every column and the levels of those that have few, `item_id` which items there are. N items, D
numbers, I indicators, F = D + I features.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from paljax.data.dataset import Table
from paljax.errors import UserError
from paljax.models import Inputs, VectorInputs
from paljax.ranges import Count, PositiveInt


class Numbers(BaseModel):
    """The item's own numbers, standardised by training statistics.

    A number that stands for a few levels (a contract of 0, 1 or 5 years) need not act along a
    straight line. `levels: L` gives every column with at most L distinct values in training an
    indicator for each value but its smallest and largest: with the number beside them, a linear
    model can fit any function of the levels, and none of the columns is redundant. A value that
    training never saw has no indicator and lies on the line.
    """

    model_config = ConfigDict(extra="forbid")
    name: Literal["numbers"] = "numbers"
    levels: Count = 0  # most levels of a column with indicators; 0: no column has any


class ItemId(BaseModel):
    """A learned vector for every item that training sees; zero for any other."""

    model_config = ConfigDict(extra="forbid")
    name: Literal["item_id"] = "item_id"
    width: PositiveInt = 16


EncoderConfig = Numbers | ItemId


class Indicators(NamedTuple):
    """Features that are 1 where a number has one value, and 0 elsewhere."""

    column: NDArray[np.int32]  # [I] which number
    value: NDArray[np.float32]  # [I] as the items have it, not standardised
    slope: NDArray[np.float32]  # [I] mean change when the number rises by a standard deviation


class Encoder(NamedTuple):
    """A fitted encoder: a concatenation of standardised numbers, indicators, a learned vector."""

    mean: NDArray[np.float32]  # [D], empty without `numbers`
    scale: NDArray[np.float32]  # [D], one where a column is constant
    indicators: Indicators
    known: tuple[str, ...]  # items with a learned vector, as `content` writes them
    width: int  # of the learned vector, 0 without `item_id`

    def encode(self, table: Table) -> Inputs:
        """Inputs of these items for a model.

        Args:
            table: Items of the kind that the encoder was fitted on.

        Returns:
            [N, D] array, or `VectorInputs` where items have a learned vector.

        Raises:
            UserError: If the items are of another kind or width.
        """
        features = np.zeros((len(table), 0), np.float32)
        if len(self.mean):
            if isinstance(table, tuple):
                raise UserError(
                    f"items are text ({table[0][:40]!r}), "
                    f"the model was trained on {len(self.mean)} numbers"
                )
            numbers = table
            if numbers.shape[1] != len(self.mean):
                raise UserError(
                    f"items have {numbers.shape[1]} numbers, "
                    f"the model was trained on {len(self.mean)}"
                )
            standardised = (numbers - self.mean) / self.scale
            indicated = numbers[:, self.indicators.column] == self.indicators.value
            features = np.concatenate([standardised, indicated.astype(np.float32)], axis=1)
        if not self.width:
            return features
        place = {item: row for row, item in enumerate(self.known)}
        ids = np.array([place.get(item, -1) for item in content(table)], np.int32)
        return VectorInputs(features, ids)

    def blank(self) -> Inputs:
        """Inputs of one item that is all zeros, to know widths by."""
        features = np.zeros((1, len(self.mean) + len(self.indicators.column)), np.float32)
        return VectorInputs(features, np.zeros(1, np.int32)) if self.width else features

    def rise(self, column: int) -> NDArray[np.float32]:
        """Mean change [F] of the features when a number rises by a standard deviation.

        The number itself moves by 1 and its indicators by their slope over the training items.
        """
        own = np.arange(len(self.mean)) == column
        slopes = np.where(self.indicators.column == column, self.indicators.slope, 0)
        return np.concatenate([own.astype(np.float32), slopes.astype(np.float32)])

    def learned_vectors(self) -> tuple[int, int] | None:
        """Number and width of the learned vectors, None without."""
        return (len(self.known), self.width) if self.width else None

    def to_json(self) -> dict[str, Any]:
        """What `encoder_from_json` reads back."""
        return {
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "indicators": {
                "column": self.indicators.column.tolist(),
                "value": self.indicators.value.tolist(),
                "slope": self.indicators.slope.tolist(),
            },
            "known": list(self.known),
            "width": self.width,
        }


def encoder_from_json(record: dict[str, Any]) -> Encoder:
    """The encoder that `Encoder.to_json` wrote."""
    indicators = record["indicators"]
    return Encoder(
        np.asarray(record["mean"], np.float32),
        np.asarray(record["scale"], np.float32),
        Indicators(
            np.asarray(indicators["column"], np.int32),
            np.asarray(indicators["value"], np.float32),
            np.asarray(indicators["slope"], np.float32),
        ),
        tuple(record["known"]),
        record["width"],
    )


def fit_encoder(
    configs: Sequence[EncoderConfig],
    table: Table,
    training_rows: NDArray[np.int32],
    *,
    key: str = "encoder",
) -> Encoder:
    """Learn an encoder from the items of the training comparisons.

    Args:
        configs: The encoders to concatenate, at most one of a kind.
        table: All distinct items.
        training_rows: Rows of the table, one for every time that an item appears in training.
        key: Of the configuration, to name in errors.

    Returns:
        The fitted encoder.

    Raises:
        UserError: If an encoder does not fit the items.
    """
    by_name = {config.name: config for config in configs}
    if len(by_name) < len(configs):
        raise UserError(f"{key}: every encoder may appear once in a concatenation")
    mean = scale = np.zeros(0, np.float32)
    indicators = _indicators(np.zeros((1, 0)), levels=0)
    if isinstance(numbers := by_name.get("numbers"), Numbers):
        appearing = _require_numbers(table, key)[training_rows].astype(np.float64)
        mean, spread = appearing.mean(0), appearing.std(0)
        mean = mean.astype(np.float32)
        # A constant column has the spread of its rounding error; leave it as it is.
        scale = np.where(spread > 1e-6 * (1 + np.abs(mean)), spread, 1).astype(np.float32)
        indicators = _indicators(appearing, levels=numbers.levels)
    known: tuple[str, ...] = ()
    width = 0
    if isinstance(item_id := by_name.get("item_id"), ItemId):
        written = content(table)
        known = tuple(written[row] for row in np.unique(training_rows))
        width = item_id.width
    return Encoder(mean, scale, indicators, known, width)


def content(table: Table) -> Sequence[str]:
    """Every item as text that identifies it."""
    if isinstance(table, tuple):
        return table
    return [json.dumps(numbers) for numbers in table.tolist()]


def _indicators(appearing: NDArray[np.float64], *, levels: int) -> Indicators:
    """Indicators of the inner values of every column that has few; one row an appearance."""
    column: list[int] = []
    value: list[float] = []
    slope: list[float] = []
    # Below three levels there is none between the smallest and the largest.
    for place, numbers in enumerate(appearing.T if levels > 2 else ()):
        values = np.unique(numbers)
        for inner in values[1:-1] if len(values) <= levels else ():
            standardised = (numbers - numbers.mean()) / numbers.std()
            column.append(place)
            value.append(inner)
            slope.append(np.mean(standardised * (numbers == inner)))
    return Indicators(
        np.array(column, np.int32), np.array(value, np.float32), np.array(slope, np.float32)
    )


def _require_numbers(table: Table, key: str) -> NDArray[np.float32]:
    if isinstance(table, tuple):
        raise UserError(
            f"{key}: 'numbers' needs items that are lists of numbers, these are text "
            f"({table[0][:40]!r}); use 'item_id'"
        )
    return table
