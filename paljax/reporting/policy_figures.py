"""The figures of a policy run: numbers in, a matplotlib figure out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from paljax.reporting.drawing import (
    INK,
    MARKERS,
    MUTED,
    PAPER,
    SERIES,
    new_figure,
    shorten,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Groups that have a colour of their own; of more, the quantiles are drawn.
MOST_GROUPS = 8
QUANTILES = (("least", 0.0), ("lower quarter", 0.25), ("median", 0.5), ("most", 1.0))


class Row(NamedTuple):
    """A policy in the figure of utilities."""

    name: str
    utilities: Sequence[float]  # by group
    errors: Sequence[float] | None  # standard errors, by group
    bold: bool


@styled
def learning(
    steps: Sequence[int],
    utilities: Sequence[Sequence[float]],
    weights: Sequence[Sequence[float]],
    kl: Sequence[float],
    names: Sequence[str],
) -> "Figure":
    """Draw utilities, group weights and KL against the step; dots mark each curve's end."""
    figure = new_figure(3.4)
    panels = figure.subplots(1, 3)
    shown = _lines(np.array(utilities, float), names)
    for name, color, values in shown:
        panels[0].plot(steps, values, color=color, linewidth=1.8, label=shorten(name, 26))
    for _, color, values in _lines(np.array(weights, float), names):
        panels[1].plot(steps, values, color=color, linewidth=1.8)
    panels[2].plot(steps, kl, color=INK, linewidth=1.8)
    for axes, title in zip(
        panels, ("Utility by group", "Group weights q", "KL, nats"), strict=True
    ):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.margins(x=0.02)
        axes.locator_params(axis="x", nbins=4)
    panels[1].set_ylim(-0.02, 1.02)
    figure.legend(loc="outside lower left", ncols=4, columnspacing=1.4)
    return figure


@styled
def utilities(rows: Sequence[Row], names: Sequence[str]) -> "Figure":
    """Draw every policy's utilities as dots on a line, the worst-off group's with its number."""
    figure = new_figure(1.25 + 0.42 * len(rows))
    axes = figure.add_subplot()
    for height, row in enumerate(rows):
        values = np.array(row.utilities, float)
        axes.plot(
            [values.min(), values.max()], [height, height], color=MUTED, linewidth=1.2, alpha=0.5
        )
        _groups(axes, row, height, names, labelled=height == 0)
        weight = "bold" if row.bold else "normal"
        axes.text(
            1.02, height, f"{values.min():.3f}", va="center", color=INK, fontweight=weight,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.text(
        1.02, -0.85, "worst off", va="center", color=MUTED, transform=axes.get_yaxis_transform()
    )
    axes.set_yticks(range(len(rows)), [shorten(row.name, 38) for row in rows], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_xlabel("expected utility")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def _groups(axes: "Axes", row: Row, height: int, names: Sequence[str], *, labelled: bool) -> None:
    if len(names) > MOST_GROUPS:
        axes.plot(
            row.utilities, np.full(len(names), height), "|", color=SERIES[0], markersize=11,
            alpha=0.6, label="a group" if labelled else None,
        )  # fmt: skip
        return
    for place, (name, value) in enumerate(zip(names, row.utilities, strict=True)):
        color = SERIES[place % len(SERIES)]
        if row.errors is not None:
            reach = 1.96 * row.errors[place]
            axes.plot(
                [value - reach, value + reach], [height, height], color=color, linewidth=3.5,
                alpha=0.45,
            )  # fmt: skip
        axes.plot(
            [value], [height], MARKERS[place % len(MARKERS)], color=color, markersize=8,
            markeredgecolor=PAPER, markeredgewidth=0.8,
            label=shorten(name, 26) if labelled else None,
        )  # fmt: skip


def _lines(values: np.ndarray, names: Sequence[str]) -> list[tuple[str, str, np.ndarray]]:
    if len(names) <= MOST_GROUPS:
        return [(name, SERIES[g % len(SERIES)], values[:, g]) for g, name in enumerate(names)]
    return [
        (f"{name} of {len(names)} groups", SERIES[place], np.quantile(values, share, axis=1))
        for place, (name, share) in enumerate(QUANTILES)
    ]
