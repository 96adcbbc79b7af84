"""Draw results.json of this folder: people found against comparisons, hard beside soft.

python experiments/hard_against_soft/figure.py [RESULTS] [FIGURE]
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from paljax.reporting.drawing import SERIES

HERE = Path(__file__).parent
LINES = [
    (assignment, rewards, color, style)
    for rewards, style in (("learned, 8 starts", "-"), ("learned, 1 start", "--"), ("known", ":"))
    for assignment, color in (("soft", SERIES[0]), ("hard", SERIES[1]))
]


def points(rows: list[dict[str, Any]], **wanted: str) -> list[dict[str, Any]]:
    """The rows of one line, by rising number of comparisons."""
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return sorted(found, key=lambda row: row["comparisons"])


def main() -> None:
    """Draw a panel for each share of the majority."""
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.json"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "figure.png"
    rows = json.loads(results.read_text(encoding="utf-8"))["results"]
    shares = list(dict.fromkeys(row["majority"] for row in rows))
    figure, panels = plt.subplots(
        1, len(shares), figsize=(3.6 * len(shares), 3.4), sharey=True, squeeze=False
    )
    for axes, share in zip(panels[0], shares, strict=True):
        for assignment, rewards, color, style in LINES:
            line = points(rows, majority=share, assignment=assignment, rewards=rewards)
            axes.errorbar(
                [row["comparisons"] for row in line],
                [100 * row["mean"] for row in line],
                yerr=[100 * (row["standard_deviation"] or 0) for row in line],
                color=color,
                linestyle=style,
                marker="o",
                markersize=4,
                capsize=2,
                label=f"{assignment}, rewards {rewards}",
            )
        counts = sorted({row["comparisons"] for row in rows})
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_title(f"majority {share} of the people", fontsize=10)
        axes.set_xlabel("comparisons of a person")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("people whose group is found, %")
    panels[0][0].legend(fontsize=8, frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
