"""Run a configuration over several seeds and write the mean and spread of its scores.

    python experiments/over_seeds.py CONFIG [--seeds 5] [--name NAME] [key.path=value ...]

A seed sets the split, the initial parameters and the order of the data. Results go beside the
configuration, as results.json or results-NAME.json; the runs themselves to runs/NAME-seed-S.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from paljax import train
from paljax.runs import METRICS, versions

SCORES = ("accuracy", "nll")


def run(name: str, config: Path, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Train with one seed, or take up the run that is there, and return its metrics.json."""
    run_dir = Path("runs") / f"{name}-seed-{seed}"
    arguments = ["--config", str(config), "--run-dir", str(run_dir)]
    seeds = [f"seed={seed}", f"splits.seed={seed}"]
    status = train.main([*arguments, *overrides, *seeds])
    if status:
        raise SystemExit(status)
    metrics: dict[str, Any] = json.loads((run_dir / METRICS).read_text(encoding="utf-8"))
    return metrics


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Scores of one run by a name such as `pal_a, 12 comparisons, accuracy`."""
    blocks = {metrics["model"]: metrics} | metrics["baselines"]
    blocks |= {f"{name}, training part only": b for name, b in metrics["before_refit"].items()}
    scores = {}
    for name, block in blocks.items():
        for score in SCORES:
            scores[f"{name}, seen users, {score}"] = block["test"][score]
            for shots, joined in block["unseen"].items():
                scores[f"{name}, unseen users with {shots} comparisons, {score}"] = joined[score]
    # What configurations are chosen by: the validation part, for the fit on the training part.
    selection = metrics["selection"]
    fits = [fit for fit in selection["candidates"] if fit["personal"] == selection["personal"]]
    chosen = min(fits, key=lambda fit: fit["validation_nll"])
    for score in SCORES:
        scores[f"{metrics['model']}, validation part, {score}"] = chosen[f"validation_{score}"]
    return scores


def counts(metrics: dict[str, Any]) -> dict[str, int]:
    """How many comparisons, of how many users, one run is scored on."""
    blocks = {"seen users": metrics["test"]}
    if metrics["unseen"]:  # the same comparisons whatever the number of shots
        blocks["unseen users"] = next(iter(metrics["unseen"].values()))
    return {
        f"{part} of {name}": block[key]
        for name, block in blocks.items()
        for part, key in (("comparisons", "n"), ("number", "n_users"))
    }


def intervals(metrics: dict[str, Any]) -> dict[str, list[float] | None]:
    """95 % intervals over users of one run, None of a single one: accuracies, and gains."""
    gain = metrics["gain"]
    found = {"seen users, accuracy": metrics["test"]["intervals"]["accuracy"],
             "seen users, gain": gain["test"]["interval"]}  # fmt: skip
    for shots, block in metrics["unseen"].items():
        where = f"unseen users with {shots} comparisons"
        found[f"{where}, accuracy"] = block["intervals"]["accuracy"]
        found[f"{where}, gain"] = gain["unseen"][shots]["interval"]
    return found


def main() -> None:
    """Run all seeds and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--name", help="of the runs and the results, where values are overridden")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    options = parser.parse_intermixed_args()
    name = options.name or options.config.parent.name
    runs = [run(name, options.config, seed, options.overrides) for seed in range(options.seeds)]
    by_seed = [flat(metrics) for metrics in runs]
    columns = {score: [scores[score] for scores in by_seed] for score in by_seed[0]}
    table = {
        score: {
            "mean": statistics.mean(values),
            "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
            "by_seed": values,
        }
        for score, values in columns.items()
    }
    for score, row in table.items():
        print(f"{score:<70} {row['mean']:.4f} ± {row['standard_deviation'] or 0:.4f}")
    record = {
        "seeds": options.seeds,
        "overrides": options.overrides,
        "scored_on": [counts(metrics) for metrics in runs],
        "personal": [metrics["selection"]["personal"] for metrics in runs],
        "intervals": [intervals(metrics) for metrics in runs],
        "versions": versions(),
        "scores": table,
    }
    out = options.config.with_name(
        f"results-{options.name}.json" if options.name else "results.json"
    )
    out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
