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
from experiments.maxmin_stories.run import CONFLICTS
from paljax.reporting.drawing import SERIES

HERE = Path(__file__).parent
# Of each policy: what it is called, its color and marker, and where its labels stand.
STYLES = {
    "maxmin": ("MaxMin on two learned rewards", SERIES[0], "o", (6, 7)),
    "known": ("MaxMin on the two true rewards", SERIES[4], "D", (6, 7)),
    "single": ("single reward of all people", SERIES[1], "s", (7, 4)),
    "utilitarian": ("average of two learned rewards", SERIES[2], "^", (-6, -14)),
    "majority": ("the majority's learned reward", SERIES[3], "v", (-6, -14)),
}


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """One panel: a line a policy, from the reference on towards smaller β.

    Faint points are runs, strong ones means over seeds with their standard errors.
    """
    majority, minority = rows[0]["people"]
    for policy, (label, color, marker, place) in STYLES.items():
        found = [row for row in rows if row["policy"] == policy]
        if not found:
            continue
        path = [(0.0, 0.0)]
        for number, beta in enumerate(sorted({row["beta"] for row in found}, reverse=True)):
            same = [row for row in found if row["beta"] == beta]
            gains = [[row["true"][group]["gain"] for row in same] for group in (majority, minority)]
            x, y = (summary(values) for values in gains)
            path.append((x["mean"], y["mean"]))
            axes.plot(*gains, marker, color=color, alpha=0.25, markersize=4, linestyle="none")
            axes.errorbar(
                *path[-1], xerr=x["standard_error"], yerr=y["standard_error"], color=color,
                marker=marker, capsize=2, linestyle="none",
            )  # fmt: skip
            kl = summary([row["kl"] for row in same])["mean"]
            rise = -7 - place[1] if number % 2 else place[1]  # every other label stands below
            axes.annotate(
                f"{kl:.1f} ({len(same)})", path[-1], xytext=(place[0], rise),
                textcoords="offset points", fontsize=7.5, color=color,
                ha="left" if place[0] > 0 else "right",
            )  # fmt: skip
        axes.plot(*zip(*path, strict=True), color=color, linewidth=1, alpha=0.6, zorder=1)
        axes.plot([], [], marker, color=color, label=label)
    axes.plot(0, 0, "+", color="black", markersize=9, label="reference")
    for line in (axes.axhline, axes.axvline):
        line(0, color="0.8", linewidth=0.8, zorder=0)
    axes.margins(0.09)
    axes.set_title(f"{rows[0]['split']}: {majority} against {minority}", fontsize=10)
    axes.set_xlabel(f"majority's gain: {majority} (deviations)")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw a panel for each kind of people."""
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.json"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "figure.png"
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    kinds = list(dict.fromkeys((row["conflict"], row["split"]) for row in rows))
    conflicts = list(dict.fromkeys(conflict for conflict, _ in kinds))
    splits = list(dict.fromkeys(split for _, split in kinds))
    figure, panels = plt.subplots(
        len(conflicts), len(splits), figsize=(5.2 * len(splits), 4.1 * len(conflicts)),
        sharex="row", sharey="row", squeeze=False,
    )  # fmt: skip
    for across, conflict in zip(panels, conflicts, strict=True):
        for axes, split in zip(across, splits, strict=True):
            found = [row for row in rows if (row["conflict"], row["split"]) == (conflict, split)]
            axes.set_visible(bool(found))
            if found:
                draw(axes, found)
        minority = CONFLICTS[conflict][1]
        across[0].set_ylabel(f"minority's gain: {minority} (deviations)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, fontsize=8, frameon=False, ncols=3, loc="lower center",
        title="numbers: KL to the reference in nats (seeds)", title_fontsize=8,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.17 / len(conflicts), 1, 1))
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
