"""`python -m paljax.adapt`: weights of new users from a few of their comparisons."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from paljax.commands import cache_compilations, column_mapping, run_command, say, say_counts


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m paljax.adapt",
        description="Fit new users' weights to their comparisons; the model stays as it is.",
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run directory")
    parser.add_argument("--comparisons", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, help="a .parquet or .jsonl file")
    parser.add_argument(
        "--column", action="append", default=[], metavar="OURS=THEIRS", help="rename a column"
    )
    return parser


def adapt(options: argparse.Namespace) -> None:
    """Run the command."""
    import numpy as np
    import pyarrow as pa

    from paljax import storage
    from paljax.data import files
    from paljax.data.dataset import weighed_by_levels
    from paljax.errors import about
    from paljax.reward.predictors import join
    from paljax.reward.trained_model import load_model

    cache_compilations()
    storage.require_table_suffix(options.out)
    model = load_model(options.run)
    dataset = files.read_comparisons(options.comparisons, columns=column_mapping(options.column))
    num_users = len(dataset.users)
    with about(options.comparisons):
        tables = model.encode(dataset)
    say_counts(model.remarks(dataset))
    support = weighed_by_levels(dataset, model.item_encoder.levels).comparisons
    joined = join(model.trained, tables, support, num_users)
    covariance = np.asarray(joined.covariance, np.float64)
    deviations = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0))
    counts = np.bincount(dataset.comparisons.user, minlength=num_users)
    table = storage.Table(
        columns={
            "user_id": dataset.users,
            "n_comparisons": counts,
            "weights": np.asarray(joined.weights).tolist(),
            "standard_deviation": deviations.tolist(),
            "covariance": covariance.tolist(),
            "gap": np.asarray(joined.gap),
            "gap_is_certificate": [joined.certified] * num_users,
        },
        types={
            "user_id": pa.string(),
            "n_comparisons": pa.int32(),
            "weights": pa.list_(pa.float32()),
            "standard_deviation": pa.list_(pa.float32()),
            "covariance": pa.list_(pa.list_(pa.float32())),
            "gap": pa.float32(),
            "gap_is_certificate": pa.bool_(),
        },
    )
    storage.write_table(options.out, table)
    known = sum(user in model.user_weights for user in dataset.users)
    if known:
        say(f"{known} of these users are already in the run; their weights here are from this file")
    kind = "distance to the optimum at most" if joined.certified else "largest local gap"
    say(f"{num_users} users, {counts.sum()} comparisons, {kind} {float(joined.gap.max()):.1e} nats")
    say(f"written: {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return run_command(parser(), adapt, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
