"""How well does a run on the synthetic data recover what was planted?

    python experiments/synthetic/recover.py RUN

Prints the adjusted Rand index of the users' strongest prototypes against the planted ones, and the
R² of an affine map from the users' learned points to the planted ones. Weights themselves are not
identified (a larger simplex holds the same users), points are up to an affine map.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paljax.data.builders import load_synthetic_truth
from paljax.reward.trained_model import load_model
from paljax.runs import USERS, read_config
from paljax.storage import read_table


def adjusted_rand_index(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Agreement of two partitions, 1 for equal ones and 0 for chance.

    Source:
        Hubert and Arabie (1985), equation 5.
    """
    table = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(table, (left, right), 1)

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    rows, columns = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected = rows * columns / pairs(np.array([table.sum()]))
    highest = (rows + columns) / 2
    return 1.0 if highest == expected else (pairs(table) - expected) / (highest - expected)


def affine_r_squared(learned: NDArray[np.float64], planted: NDArray[np.float64]) -> float:
    """Share of the planted points' variance that an affine map of the learned ones explains."""
    design = np.column_stack([learned, np.ones(len(learned))])
    solution = np.linalg.lstsq(design, planted, rcond=None)[0]
    residual = ((planted - design @ solution) ** 2).sum()
    return float(1 - residual / ((planted - planted.mean(axis=0)) ** 2).sum())


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    options = read_config(run).data.model_dump(exclude={"name"})
    truth = load_synthetic_truth(**options)
    weights = np.array(read_table(run / USERS)["weights"])
    points = weights @ np.asarray(load_model(run).trained.params["prototypes"])
    strongest = truth.user_weights.argmax(axis=1)
    print(f"adjusted Rand index {adjusted_rand_index(weights.argmax(axis=1), strongest):.3f}")
    print(f"R² of user points   {affine_r_squared(points, truth.user_points):.3f}")


if __name__ == "__main__":
    main()
