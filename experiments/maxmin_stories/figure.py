"""Draw results.json of this folder: what the minority gains against what the majority gains.

python experiments/maxmin_stories/figure.py [RESULTS] [FIGURE]
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from experiments.maxmin_stories.comparisons import MAJORITY, MINORITY
from paljax.reporting.drawing import SERIES

HERE = Path(__file__).parent
STYLES = {
    "maxmin": ("MaxMin on two learned rewards", SERIES[0], "o"),
    "utilitarian": ("utilitarian on two learned rewards", SERIES[2], "^"),
    "single": ("single reward of all people", SERIES[1], "s"),
}


def gain(row: dict[str, Any], group: str) -> tuple[float, float]:
    """Gain over the reference by what a group truly wants and its error, in deviations."""
    found = row["true"][group]
    return found["gain_in_deviations"], found["gain_error_in_deviations"]


def draw(axes: Any, rows: list[dict[str, Any]], title: str) -> None:
    """One split: a point a policy, with its KL beside it."""
    for policy, (label, color, marker) in STYLES.items():
        for place, row in enumerate([row for row in rows if row["policy"] == policy]):
            (x, x_error), (y, y_error) = gain(row, MAJORITY), gain(row, MINORITY)
            axes.errorbar(
                x, y, xerr=1.96 * x_error, yerr=1.96 * y_error, color=color, marker=marker,
                capsize=2, label=label if place == 0 else None,
            )  # fmt: skip
            axes.annotate(
                f"KL {row['kl']:.1f}", (x, y), textcoords="offset points", xytext=(7, 5),
                fontsize=8, color=color,
            )  # fmt: skip
    axes.plot(0, 0, "+", color="black", markersize=9, label="reference")
    for line in (axes.axhline, axes.axvline):
        line(0, color="0.8", linewidth=0.8, zorder=0)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("majority's gain: positive sentiment (deviations)")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw a panel for each split."""
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.json"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "figure.png"
    settings = json.loads(results.read_text(encoding="utf-8"))["settings"]
    splits = list(dict.fromkeys(found["split"] for found in settings))
    figure, panels = plt.subplots(
        1, len(splits), figsize=(5.2 * len(splits), 4.2), sharey=True, squeeze=False
    )
    for axes, split in zip(panels[0], splits, strict=True):
        rows = [row for found in settings if found["split"] == split for row in found["policies"]]
        draw(axes, rows, f"majority {split} of the people")
    panels[0][0].set_ylabel("minority's gain: conciseness (deviations)")
    panels[0][0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
