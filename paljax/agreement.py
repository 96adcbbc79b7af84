"""How far two descriptions of the same things agree: partitions, and points up to an affine map."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def adjusted_rand_index(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Agreement of two partitions, whatever their labels are called.

    Args:
        left: Label of every thing, shape [n], n >= 1.
        right: Its label in the other partition, shape [n].

    Returns:
        1 for equal partitions, 0 on average for independent ones; it can be negative.

    Source:
        Hubert and Arabie (1985), equation 5.
    """
    _, rows = np.unique(left, return_inverse=True)
    _, columns = np.unique(right, return_inverse=True)
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    in_left, in_right = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    highest = (in_left + in_right) / 2
    expected = in_left * in_right / max(pairs(np.array([table.sum()])), 1.0)
    return 1.0 if highest == expected else (pairs(table) - expected) / (highest - expected)


def affine_r_squared(learned: NDArray[Any], planted: NDArray[Any]) -> float:
    """Share of the planted points' variance that an affine map of the learned ones explains.

    Args:
        learned: Points, shape [n, d].
        planted: The points that they should be, shape [n, e].

    Returns:
        R² over all coordinates together, at most 1.
    """
    design = np.column_stack([learned, np.ones(len(learned))])
    solution = np.linalg.lstsq(design, planted, rcond=None)[0]
    residual = ((planted - design @ solution) ** 2).sum()
    return float(1 - residual / ((planted - planted.mean(axis=0)) ** 2).sum())
