"""The figure of results.json: for every conversation and rule, how many of each group agree.

python -m experiments.polis_consensus.figure
"""

import json
from pathlib import Path
from typing import Any

from paljax.reporting.drawing import GRID, INK, MUTED, SERIES, new_figure, styled

COLUMNS = 2
TITLES = {
    "american-assembly.bowling-green": "Bowling Green: improving the town",
    "scoop-hivemind.biodiversity": "New Zealand: biodiversity",
    "scoop-hivemind.taxes": "New Zealand: taxes",
    "scoop-hivemind.affordable-housing": "New Zealand: affordable housing",
    "brexit-consensus": "Britain: Brexit",
    "15-per-hour-seattle": "Seattle: 15 dollars an hour",
}
OWN = "MaxMin, learned rewards"


def draw(results: dict[str, Any], file: Path) -> None:
    """Draw the results into a file."""
    _figure(results).savefig(file, dpi=120, facecolor="white")


@styled
def _figure(results: dict[str, Any]) -> Any:
    talks = results["conversations"]
    size = f"{results['settings']['main']:g}"
    lines = -(-len(talks) // COLUMNS)
    drawn = new_figure(1.2 + 2.4 * lines, 11.0)
    panels = drawn.subplots(
        lines, COLUMNS, sharex=True, sharey=True, squeeze=False, gridspec_kw={"wspace": 0.08}
    ).ravel()
    for axes in panels[len(talks) :]:
        axes.set_axis_off()
    for axes, (name, talk) in zip(panels, talks.items(), strict=False):
        _panel(axes, name, talk, talk["shortlists"][size])
    for axes in panels[max(0, len(talks) - COLUMNS) : len(talks)]:
        axes.set_xlabel("held-out people who agree with what was chosen")
    worst = panels[0].plot([], [], "-o", color=INK, markersize=8, linewidth=1)[0]
    found = {"large dot and number: the group that agrees less, with its 95 % interval": worst}
    for place, label in enumerate(("larger group", "smaller group")):
        found[label] = panels[0].plot([], [], "o", color=SERIES[place], markersize=6)[0]
    drawn.legend(found.values(), found, loc="outside lower left", ncols=3)
    drawn.suptitle(
        "How many people of each group agree with the statements that a rule chooses?",
        x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold",
    )  # fmt: skip
    return drawn


def _panel(axes: Any, name: str, talk: dict[str, Any], rows: dict[str, Any]) -> None:
    # The group with the most people first, so that colours say large and small everywhere.
    groups = sorted(talk["people"], key=lambda group: -talk["people"][group])
    for height, (rule, row) in enumerate(rows.items()):
        values = [row["groups"][group] for group in groups]
        axes.plot([min(values), max(values)], [height] * 2, color=GRID, linewidth=3, zorder=1)
        low, high = row["worst_interval"]
        axes.plot([low, high], [height] * 2, color=INK, linewidth=1, alpha=0.6, zorder=2)
        for place, (group, value) in enumerate(zip(groups, values, strict=True)):
            worst = group == row["worst_group"]
            axes.plot(
                [value], [height], "o", color=SERIES[place], markersize=8 if worst else 6,
                alpha=1 if worst else 0.45, zorder=3,
            )  # fmt: skip
        axes.text(
            1.01, height, f"{100 * row['worst']:.1f} %", va="center", color=INK,
            fontweight="bold" if rule == OWN else "normal", transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.axvline(rows[OWN]["worst"], color=MUTED, linewidth=1, linestyle=":", zorder=0)
    axes.set_yticks(range(len(rows)), list(rows), color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.xaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:g} %")
    axes.grid(axis="x")
    people = " + ".join(f"{talk['people'][group]:,}" for group in groups)
    axes.set_title(f"{TITLES.get(name, name)} ({people} people)")


if __name__ == "__main__":
    here = Path(__file__).parent
    draw(json.loads((here / "results.json").read_text(encoding="utf-8")), here / "figure.png")
