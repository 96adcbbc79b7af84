"""`python -m paljax.evaluate`: score a trained model on comparisons of a file."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paljax.commands import cache_compilations, column_mapping, run_command, say

if TYPE_CHECKING:
    from paljax.data.dataset import Dataset
    from paljax.reward.trained_model import TrainedModel


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m paljax.evaluate",
        description="Score a trained model on comparisons. Users of the run have their own "
        "weights, users of --adapt are fitted to it, all others have the population's weights.",
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run directory")
    parser.add_argument("--comparisons", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--adapt", type=Path, metavar="FILE", help="support comparisons of new users"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the scores as JSON")
    parser.add_argument(
        "--column", action="append", default=[], metavar="OURS=THEIRS", help="rename a column"
    )
    return parser


def evaluate(options: argparse.Namespace) -> None:
    """Run the command."""
    import numpy as np

    from paljax import storage
    from paljax.data import files
    from paljax.errors import UserError, about
    from paljax.evaluation import score
    from paljax.predictions import encode
    from paljax.reward.groups import group_labels
    from paljax.reward.trained_model import weights_for

    cache_compilations()
    model, columns = _load(options.run), column_mapping(options.column)
    dataset = files.read_comparisons(options.comparisons, columns=columns)
    _refuse_learned(model, dataset, options)
    joined: dict[str, Any] = {}
    if options.adapt is not None:
        support = files.read_comparisons(options.adapt, columns=columns)
        _refuse_overlap(model, support, dataset, options)
        with about(options.adapt):
            joined = _joined_weights(model, support)
    weights, sources = weights_for(model, dataset.users, joined)
    rows = dataset.comparisons.select(~dataset.comparisons.tie)
    if not len(rows.user):
        raise UserError(f"{options.comparisons}: holds ties only; nothing can be scored")
    with about(options.comparisons):
        tables = model.encode(dataset)
    encoded = encode(model.trained.model, model.trained.params, tables)
    margins = model.trained.margins(encoded, rows, weights)
    labels = group_labels(dataset, np.asarray(weights))
    scores = score(
        margins,
        rows.user,
        labels.of_comparison[~dataset.comparisons.tie],
        resamples=model.config.evaluation.resamples,
        seed=model.config.seed,
    )
    scores |= {
        "grouped_by": labels.source,
        "weights_from": sources,
        "ties": int(dataset.comparisons.tie.sum()),
    }
    scores |= {"encoding": model.remarks(dataset)}
    if options.out is not None:
        storage.write_json(options.out, scores)
    say(json.dumps(scores, indent=2))


def _load(run: Path) -> "TrainedModel":
    from paljax.reward.trained_model import load_model

    return load_model(run)


def _joined_weights(model: "TrainedModel", support: "Dataset") -> dict[str, Any]:
    from paljax.data.dataset import weighed_by_levels
    from paljax.reward.predictors import join

    support = weighed_by_levels(support, model.item_encoder.levels)
    fitted = join(model.trained, model.encode(support), support.comparisons, len(support.users))
    return dict(zip(support.users, fitted.weights, strict=True))


def _refuse_learned(model: "TrainedModel", dataset: "Dataset", options: argparse.Namespace) -> None:
    """What a run has learned from can't score it."""
    from paljax.data.identities import comparison_ids, task_ids, vote_ids
    from paljax.errors import UserError
    from paljax.runs import SPLITS, read_learned

    with_prompts = model.trained.model.uses_prompts
    learned, rows = read_learned(options.run, with_prompts=with_prompts), dataset.comparisons
    asked = comparison_ids(dataset, with_prompts=with_prompts)
    known = [row for row, name in enumerate(asked) if name in learned.comparisons]
    what = "were trained on"
    if not known and learned.votes:
        votes = (vote_ids(dataset, rows.chosen), vote_ids(dataset, rows.rejected))
        sides = enumerate(zip(*votes, strict=True))
        known = [row for row, pair in sides if not learned.votes.isdisjoint(pair)]
        what = "are made of votes that were trained on"
    if not known:
        known = [row for row, name in enumerate(task_ids(dataset)) if name in learned.tasks]
        what = "belong to choice tasks that were trained on"
    if known:
        user = dataset.users[rows.user[known[0]]]
        raise UserError(
            f"{options.comparisons}: {len(known)} of its {len(rows.user)} comparisons {what} (one "
            f"of user {user!r} among them); what {options.run} has learned from can't score it, "
            f"and its {SPLITS} says what that is"
        )


def _refuse_overlap(
    model: "TrainedModel", support: "Dataset", query: "Dataset", options: argparse.Namespace
) -> None:
    """A comparison, a choice task or a vote that a user was fitted to can't score the fit."""
    from paljax.data.identities import comparison_ids, task_ids, votes_of
    from paljax.errors import UserError
    from paljax.runs import read_learned

    with_prompts = model.trained.model.uses_prompts

    def judged(dataset: "Dataset") -> dict[str, list[set[str]]]:
        found: dict[str, list[set[str]]] = {
            "are also": [{name} for name in comparison_ids(dataset, with_prompts=with_prompts)],
            "belong to choice tasks that are also": [
                set() if name is None else {name} for name in task_ids(dataset)
            ],
        }
        if read_learned(options.run, with_prompts=with_prompts).votes:
            found["are made of votes that are also"] = votes_of(dataset, model.item_encoder.levels)
        return found

    scored = judged(query)
    for what, names_of_rows in judged(support).items():
        asked = set[str]().union(*scored[what])
        shared = [row for row, names in enumerate(names_of_rows) if names & asked]
        if shared:
            user = support.users[support.comparisons.user[shared[0]]]
            raise UserError(
                f"{options.adapt}: {len(shared)} of its comparisons {what} in "
                f"{options.comparisons} (user {user!r} among others); what a user was fitted to "
                "can't be scored"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return run_command(parser(), evaluate, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
