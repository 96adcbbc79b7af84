"""Rows of `maxmin_stories`: what is kept of a finished run of either stage.

X held-out openings, n stories of each.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from paljax import runs, storage
from paljax.policy.text_results import win_rate

Row = dict[str, Any]
_EXAMPLES = 3


def policy_row(run_dir: Path) -> Row:
    """What is kept of a policy run: scores by learned and by true rewards, and some stories.

    Gains are in standard deviations of the reference's stories.
    """
    metrics = storage.read_json(run_dir / runs.METRICS)
    scores, groups = metrics["scores"], metrics["groups"]
    reference = metrics["comparisons"]["reference"]
    kept = {key: scores[key] for key in ("utilities", "minimum", "mean", "value", "kl",
            "kl_standard_error", "length", "at_full_length", "distinct", "win_rates")}  # fmt: skip
    return kept | {
        "group_weights": dict(zip(groups["names"], groups["weights"], strict=True)),
        "reference": {key: reference[key] for key in ("length", "at_full_length", "distinct")},
        "true": {
            group: found
            | {
                "gain": found["gain"] / found["reference_spread"],
                "gain_standard_error": found["gain_standard_error"] / found["reference_spread"],
            }
            for group, found in metrics["texts"]["functions"].items()
        },
        "examples": metrics["texts"]["examples"][:_EXAMPLES],
        "seconds": metrics["timing"]["fit_s"] + metrics["timing"]["evaluate_s"],
    }


def wins_against(left: Path, right: Path, groups: tuple[str, str]) -> Row:
    """How often each group truly prefers a story of one run to one of another, per opening."""
    mine, theirs = _true_values(left, groups), _true_values(right, groups)
    rates = {group: win_rate(mine[group], theirs[group]) for group in groups}
    return {
        group: {
            "win_rate": float(rate.mean()),
            "standard_error": float(rate.std(ddof=1) / np.sqrt(len(rate))),
        }
        for group, rate in rates.items()
    }


def reward_row(mixture: Path, single: Path, minority: str) -> Row:
    """How well stage 1 found the groups, and how well its rewards predict held-out choices."""
    users = pq.read_table(mixture / runs.USERS).to_pydict()
    strongest = np.argmax(np.array(users["weights"]), axis=1)
    same = float((strongest == (np.array(users["group"]) == minority)).mean())
    accuracy = {
        name: storage.read_json(run_dir / runs.METRICS)["test"]["accuracy"]
        for name, run_dir in (("mixture", mixture), ("single", single))
    }
    return {"users_in_their_group": max(same, 1 - same), "test_accuracy": accuracy}


def _true_values(run_dir: Path, groups: tuple[str, str]) -> dict[str, NDArray[np.float64]]:
    table = pq.read_table(run_dir / runs.SAMPLES).to_pydict()
    of_policy = np.array(table["policy"]) == "policy"
    num_prompts = len(set(np.array(table["prompt"], object)[of_policy]))
    return {group: np.array(table[group])[of_policy].reshape(num_prompts, -1) for group in groups}
