"""How well does a run on the synthetic data recover what was planted?

    python experiments/synthetic/recover.py RUN

Prints the adjusted Rand index of the users' strongest prototypes against the planted ones, and the
R² of an affine map from the users' learned points to the planted ones. Weights themselves are not
identified (a larger simplex holds the same users), points are up to an affine map.
"""

import argparse
from pathlib import Path

import numpy as np

from paljax.agreement import adjusted_rand_index, affine_r_squared
from paljax.data.builders import load_synthetic_truth
from paljax.reward.trained_model import load_model
from paljax.runs import USERS, read_config
from paljax.storage import read_table


def recovered(run: Path) -> dict[str, float]:
    """Agreement of a finished run with what was planted in its data."""
    options = read_config(run).data.model_dump(exclude={"name"})
    truth = load_synthetic_truth(**options)
    weights = np.array(read_table(run / USERS)["weights"])
    points = weights @ np.asarray(load_model(run).trained.params["prototypes"])
    strongest = truth.user_weights.argmax(axis=1)
    return {
        "adjusted Rand index": adjusted_rand_index(weights.argmax(axis=1), strongest),
        "R² of user points": affine_r_squared(points, truth.user_points),
    }


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    for name, value in recovered(parser.parse_args().run).items():
        print(f"{name:<20} {value:.3f}")


if __name__ == "__main__":
    main()
