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

from experiments.maxmin_stories.matched import summary
from paljax.reporting.drawing import SERIES

HERE = Path(__file__).parent
STYLES = {
    "maxmin": ("MaxMin on two learned rewards", SERIES[0], "o"),
    "single": ("single reward of all people", SERIES[1], "s"),
    "utilitarian": ("average of two learned rewards", SERIES[2], "^"),
    "majority": ("the majority's learned reward", SERIES[3], "v"),
}


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """One panel: faint points are runs, strong ones means over seeds with their standard errors."""
    majority, minority = rows[0]["people"]
    for policy, (label, color, marker) in STYLES.items():
        found = [row for row in rows if row["policy"] == policy]
        for place, beta in enumerate(sorted({row["beta"] for row in found})):
            same = [row for row in found if row["beta"] == beta]
            gains = [[row["true"][group]["gain"] for row in same] for group in (majority, minority)]
            x, y = (summary(values) for values in gains)
            axes.plot(*gains, marker, color=color, alpha=0.25, markersize=4, linestyle="none")
            axes.errorbar(
                x["mean"], y["mean"], xerr=x["standard_error"],
                yerr=y["standard_error"], color=color, marker=marker, capsize=2,
                label=label if place == 0 else None,
            )  # fmt: skip
            kl = summary([row["kl"] for row in same])["mean"]
            axes.annotate(
                f"KL {kl:.1f}, n {len(same)}", (x["mean"], y["mean"]), xytext=(7, 5),
                textcoords="offset points", fontsize=8, color=color,
            )  # fmt: skip
    axes.plot(0, 0, "+", color="black", markersize=9, label="reference")
    for line in (axes.axhline, axes.axvline):
        line(0, color="0.8", linewidth=0.8, zorder=0)
    axes.set_title(f"{rows[0]['split']}: {majority} against {minority}", fontsize=10)
    axes.set_xlabel(f"majority's gain: {majority} (deviations)")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw a panel for each kind of people."""
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.json"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "figure.png"
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    kinds = list(dict.fromkeys((row["conflict"], row["split"]) for row in rows))
    figure, panels = plt.subplots(
        1, len(kinds), figsize=(5.2 * len(kinds), 4.2), sharey=True, squeeze=False
    )
    for axes, kind in zip(panels[0], kinds, strict=True):
        draw(axes, [row for row in rows if (row["conflict"], row["split"]) == kind])
    panels[0][0].set_ylabel("minority's gain (deviations)")
    panels[0][0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
