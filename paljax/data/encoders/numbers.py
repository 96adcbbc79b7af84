"""The part `numbers`: an item's own numbers, standardised, with indicators where they are levels.

N items, D numbers, I indicators, F = D + I features.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Table
from paljax.data.encoders.part import Kind, PartConfig
from paljax.errors import UserError
from paljax.models import Inputs
from paljax.ranges import Count


class Numbers(PartConfig):
    """The item's own numbers, standardised by training statistics.

    A number that stands for a few levels (a contract of 0, 1 or 5 years) need not act along a
    straight line. `levels: L` gives every column with at most L distinct values in training an
    indicator for each value but its smallest and largest: with the number beside them, a linear
    model can fit any function of the levels. An indicator that is linear in the other columns is
    left out: it would say nothing new, and leave open which column an effect belongs to. A value
    that training never saw has no indicator and lies on the line.
    """

    name: Literal["numbers"] = "numbers"
    levels: Count = 0  # most levels of a column with indicators; 0: no column has any


class Indicators(NamedTuple):
    """Features that are 1 where a number has one value, and 0 elsewhere."""

    column: NDArray[np.int32]  # [I] which number
    value: NDArray[np.float32]  # [I] as the items have it, not standardised
    slope: NDArray[np.float32]  # [I] mean change when the number rises by a standard deviation


class StandardisedNumbers(NamedTuple):
    """What `numbers` learned."""

    mean: NDArray[np.float32]  # [D]
    scale: NDArray[np.float32]  # [D], one where a column is constant
    indicators: Indicators

    def encode(self, table: Table) -> Inputs:
        """Standardised numbers and their indicators, [N, F]."""
        if isinstance(table, tuple):
            raise UserError(
                f"items are text ({table[0][:40]!r}), "
                f"the model was trained on {len(self.mean)} numbers"
            )
        if table.shape[1] != len(self.mean):
            raise UserError(
                f"items have {table.shape[1]} numbers, the model was trained on {len(self.mean)}"
            )
        standardised = (table - self.mean) / self.scale
        indicated = table[:, self.indicators.column] == self.indicators.value
        return np.concatenate([standardised, indicated.astype(np.float32)], axis=1)

    def blank(self) -> Inputs:
        """The mean item, if it has none of the levels."""
        return np.zeros((1, len(self.mean) + len(self.indicators.column)), np.float32)

    def rise(self, column: int) -> NDArray[np.float32]:
        """Mean change [F] of the features when a number rises by a standard deviation.

        The number itself moves by 1 and its indicators by their slope over the training items.
        """
        own = np.arange(len(self.mean)) == column
        slopes = np.where(self.indicators.column == column, self.indicators.slope, 0)
        return np.concatenate([own.astype(np.float32), slopes.astype(np.float32)])

    def learned_vectors(self) -> None:
        """There are none."""

    def remarks(self, table: Table) -> dict[str, int]:
        """Every row of numbers is read as it is."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """What `_from_json` reads back."""
        return {
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "indicators": {
                name: values.tolist() for name, values in self.indicators._asdict().items()
            },
        }


def _fit(
    config: Numbers, table: Table, training_rows: NDArray[np.int32], key: str
) -> StandardisedNumbers:
    if isinstance(table, tuple):
        raise UserError(
            f"{key}: 'numbers' needs items that are lists of numbers, these are text "
            f"({table[0][:40]!r}); use 'minilm' or 'item_id'"
        )
    appearing = table[training_rows].astype(np.float64)
    mean, spread = appearing.mean(0), appearing.std(0)
    mean = mean.astype(np.float32)
    # A constant column has the spread of its rounding error; leave it as it is.
    scale = np.where(spread > 1e-6 * (1 + np.abs(mean)), spread, 1).astype(np.float32)
    return StandardisedNumbers(mean, scale, _indicators(appearing, levels=config.levels))


def _indicators(appearing: NDArray[np.float64], *, levels: int) -> Indicators:
    """Indicators of the inner values of every column that has few; one row an appearance."""
    column: list[int] = []
    value: list[float] = []
    slope: list[float] = []
    standardised = (appearing - appearing.mean(0)) / np.maximum(appearing.std(0), 1e-12)
    design = np.concatenate([np.ones((len(appearing), 1)), standardised], axis=1)
    # Below three levels there is none between the smallest and the largest.
    for place, numbers in enumerate(appearing.T if levels > 2 else ()):
        values = np.unique(numbers)
        for inner in values[1:-1] if len(values) <= levels else ():
            indicated = numbers == inner
            widened = np.concatenate([design, indicated[:, None]], axis=1)
            if np.linalg.matrix_rank(widened) == np.linalg.matrix_rank(design):
                continue
            design = widened
            column.append(place)
            value.append(inner)
            slope.append(np.mean(standardised[:, place] * indicated))
    return _indicators_from({"column": column, "value": value, "slope": slope})


def _indicators_from(record: dict[str, Any]) -> Indicators:
    return Indicators(
        np.asarray(record["column"], np.int32),
        np.asarray(record["value"], np.float32),
        np.asarray(record["slope"], np.float32),
    )


def _from_json(record: dict[str, Any]) -> StandardisedNumbers:
    return StandardisedNumbers(
        np.asarray(record["mean"], np.float32),
        np.asarray(record["scale"], np.float32),
        _indicators_from(record["indicators"]),
    )


NUMBERS = Kind(Numbers, _fit, _from_json)
