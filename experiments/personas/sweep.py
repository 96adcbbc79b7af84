"""Accuracy against the number of prototypes, for users of two to six personas.

    python experiments/personas/sweep.py [--planted 2 3 ...] [--seeds 1] [--numbers 1 2 ...]

Runs config.yaml for K* = 2..6 personas and K = 1..8 prototypes; puts the rows into results.json
beside it, those of other K* and K stay, each with its own seeds, and draws the figure from that.
Finished runs under runs/ are taken up.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq

from paljax import train
from paljax.agreement import adjusted_rand_index
from paljax.runs import METRICS, USERS, versions

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PERSONAS = (
    "interest-in-art",
    "interest-in-math",
    "interest-in-sports",
    "politically-conservative",
    "believes-in-gun-rights",
    "machiavellianism",
)
PLANTED = (2, 3, 4, 5, 6)
COLORS = ("#1f5f8b", "#4f9d8d", "#8a8d3f", "#b3541e", "#7a2f5d")
NUMBERS = tuple(range(1, 9))


def _known() -> list[dict[str, Any]]:
    """Rows of earlier sweeps."""
    if not RESULTS.exists():
        return []
    return list(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"])


def run(planted: int, number: int, seed: int) -> dict[str, float]:
    """Train one model, or take up the run that is there; its scores."""
    run_dir = Path("runs") / f"personas-{planted}-of-{number}-seed-{seed}"
    overrides = [
        f"data.personas=[{', '.join(PERSONAS[:planted])}]",
        f"model.num_prototypes={number}",
        f"seed={seed}",
        f"splits.seed={seed}",
        f"data.seed={seed}",
    ]
    config = HERE / "config.yaml"
    if train.main(["--config", str(config), "--run-dir", str(run_dir), *overrides]):
        raise SystemExit(1)
    metrics: dict[str, Any] = json.loads((run_dir / METRICS).read_text(encoding="utf-8"))
    users = pq.read_table(run_dir / USERS).to_pydict()
    strongest = np.argmax(np.array(users["weights"]), axis=1)
    return {
        "test": metrics["test"]["accuracy"],
        "unseen_20": metrics["unseen"]["20"]["accuracy"],
        "adjusted_rand": adjusted_rand_index(np.array(users["group"]), strongest),
        "bradley_terry_test": metrics["baselines"]["bradley_terry"]["test"]["accuracy"],
        "personal": float(metrics["selection"]["personal"]),
    }


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """Mean accuracy on test comparisons against K; a line for each K*."""
    figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for planted, color in zip(PLANTED, COLORS, strict=True):
        there = [row for row in rows if row["personas"] == planted]
        means = [100 * row["mean"]["test"] for row in there]
        if not there:
            continue
        label = f"{planted} personas"
        axes.plot([row["prototypes"] for row in there], means, "o-", color=color, label=label)
        axes.axvline(planted, color=color, linestyle=":", linewidth=1)
    axes.set_xlabel("prototypes K")
    axes.set_ylabel("test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(out, dpi=160)


def main() -> None:
    """Run the sweep, write the results and draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--planted", type=int, nargs="+", default=PLANTED, choices=PLANTED)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--numbers", type=int, nargs="+", default=NUMBERS, metavar="K")
    parser.add_argument("--out", type=Path, default=Path("docs/personas.png"))
    options = parser.parse_args()
    asked = {(planted, number) for planted in options.planted for number in options.numbers}
    rows = [row for row in _known() if (row["personas"], row["prototypes"]) not in asked]
    for planted in options.planted:
        for number in options.numbers:
            scores = [run(planted, number, seed) for seed in range(options.seeds)]
            mean = {key: statistics.mean(s[key] for s in scores) for key in scores[0]}
            rows.append(
                {"personas": planted, "prototypes": number, "mean": mean, "by_seed": scores}
            )
            print(f"K* = {planted}, K = {number}: {mean}", flush=True)
    rows.sort(key=lambda row: (row["personas"], row["prototypes"]))
    record = {"versions": versions(), "rows": rows}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    draw(rows, options.out)


if __name__ == "__main__":
    main()
