"""`python -m paljax.score`: rewards of responses for the users who would read them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from paljax.commands import cache_compilations, column_mapping, run_command, say, say_counts


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m paljax.score",
        description="Reward of every (user, prompt, response) of a file, in nats. Users whom the "
        "run does not know have the population's weights.",
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run directory")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, help="a .parquet or .jsonl file")
    parser.add_argument(
        "--column", action="append", default=[], metavar="OURS=THEIRS", help="rename a column"
    )
    return parser


def score(options: argparse.Namespace) -> None:
    """Run the command."""
    import numpy as np
    import pyarrow as pa

    from paljax import storage
    from paljax.data import files
    from paljax.errors import about
    from paljax.reward.trained_model import item_rewards, load_model, weights_for

    cache_compilations()
    storage.require_table_suffix(options.out)
    model = load_model(options.run)
    responses = files.read_responses(options.input, columns=column_mapping(options.column))
    weights, sources = weights_for(model, responses.user_id, {})
    with about(options.input):
        rewards = item_rewards(model, responses, weights)
    say_counts(model.item_encoder.remarks(responses.response))
    known = [user in model.user_weights for user in responses.user_id]
    table = storage.Table(
        columns={
            "row": np.arange(1, len(rewards) + 1),
            "user_id": responses.user_id,
            "reward": rewards,
            "known_user": known,
        },
        types={
            "row": pa.int64(),
            "user_id": pa.string(),
            "reward": pa.float32(),
            "known_user": pa.bool_(),
        },
    )
    storage.write_table(options.out, table)
    say(f"{len(rewards)} rewards; weights from {sources}")
    say(f"written: {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return run_command(parser(), score, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
