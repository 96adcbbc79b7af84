"""The figures of a report: numbers in, a matplotlib figure out.

Every function is pure: no file is read, no state is kept; `paljax.reporting.drawing.svg` makes
text of what it returns.
`P1` is the first prototype; K prototypes, U users, D attributes. Accuracies are fractions.
"""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from paljax.reporting.drawing import (
    GRID,
    HALF_WIDTH,
    INK,
    MARKERS,
    MUTED,
    NEGATIVE,
    PAPER,
    POSITIVE,
    SERIES,
    WIDTH,
    Estimate,
    new_figure,
    percent,
    shorten,
    signed,
    spread,
    styled,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTERS = 80  # that fit side by side above the heat map


class Mark(NamedTuple):
    """A dot of a dot plot: whose it is, its colour, its estimate (a fraction)."""

    name: str
    color: str
    estimate: Estimate


class Curve(NamedTuple):
    """A line with points (x, estimate)."""

    name: str
    color: str
    points: Sequence[tuple[float, Estimate]]


class Reliability(NamedTuple):
    """Bins of (mean confidence, accuracy, comparisons) of one model."""

    name: str
    color: str
    bins: Sequence[tuple[float, float, int]]


class Fit(NamedTuple):
    """What one fit logged: (epoch, loss) of training and of validation."""

    name: str
    color: str
    dashed: bool
    training: Sequence[tuple[float, float]]
    validation: Sequence[tuple[float, float]]


@styled
def dots(
    rows: Sequence[tuple[str, Sequence[Mark]]],
    *,
    label: str,
    width: float = WIDTH,
    first_bold: bool = False,
) -> "Figure":
    """Draw accuracies as dots with intervals, one row a label; one mark a row prints its number."""
    single = all(len(marks) == 1 for _, marks in rows)
    height = 0.85 + 0.38 * len(rows) if single else 1.15 + 0.46 * len(rows)
    figure = new_figure(height, width)
    axes = figure.add_subplot()
    names: list[str] = []
    for row, (_, marks) in enumerate(rows):
        for position, mark in enumerate(marks):
            shift = 0.0 if single else 0.14 * (2 * position / max(1, len(marks) - 1) - 1)
            _dot(axes, mark, row + shift, labelled=not single and mark.name not in names)
            names.append(mark.name)
        if single:
            weight = "bold" if first_bold and row == 0 else "normal"
            axes.text(
                1.02, row, percent(marks[0].estimate), va="center", color=INK, fontweight=weight,
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), [shorten(name, 34) for name, _ in rows], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _percent_axis(axes, "x")
    axes.locator_params(axis="x", nbins=8 if width > HALF_WIDTH else 4)
    axes.set_xlabel(label)
    if not single:
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _dot(axes: "Axes", mark: Mark, height: float, *, labelled: bool) -> None:
    value, low, high = mark.estimate
    if low is not None and high is not None:
        axes.plot([low, high], [height, height], color=mark.color, linewidth=3, alpha=0.45)
    axes.plot(
        [value], [height], "o", color=mark.color, markersize=7.5, markeredgewidth=0,
        label=mark.name if labelled else None,
    )  # fmt: skip


@styled
def n_shot(curves: Sequence[Curve]) -> "Figure":
    """Draw accuracy on new users against the comparisons they gave, intervals as bands."""
    figure = new_figure(3.7)
    axes = figure.add_subplot()
    shots = sorted({shot for curve in curves for shot, _ in curve.points})
    for number, curve in reversed(list(enumerate(curves))):  # the first lies on top
        marker = MARKERS[number % len(MARKERS)]
        x = np.log1p([shot for shot, _ in curve.points])
        estimates = [estimate for _, estimate in curve.points]
        low = [e.value if e.low is None else e.low for e in estimates]
        high = [e.value if e.high is None else e.high for e in estimates]
        axes.fill_between(x, low, high, color=curve.color, alpha=0.13, linewidth=0)
        axes.plot(
            x, [e.value for e in estimates], color=curve.color, marker=marker, linewidth=2,
            markersize=6, markeredgecolor=PAPER, markeredgewidth=0.8,
        )  # fmt: skip
    axes.set_xticks(np.log1p(shots), [f"{shot:g}" for shot in shots])
    axes.set_xlabel("comparisons a new person has given")
    axes.set_ylabel("accuracy on their other comparisons")
    _percent_axis(axes, "y")
    axes.margins(x=0.02)
    bottom, top = axes.get_ylim()
    ends = [curve.points[-1][1].value for curve in curves]
    for curve, height in zip(curves, spread(ends, 0.066 * (top - bottom)), strict=True):
        axes.text(
            1.02, height, shorten(curve.name, 30), color=curve.color, va="center",
            fontweight="bold", transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    return figure


@styled
def effects(
    attributes: Sequence[str],
    shares: Sequence[float],
    prototypes: Float[np.ndarray, "K D"],
    shared: Float[np.ndarray, " D"] | None,
) -> "Figure":
    """Draw what each prototype wants as a heat map, with its share and the shared reward below."""
    order = np.argsort(-np.asarray(shares), kind="stable")
    values = prototypes[order]
    labels = [f"P{k + 1}" for k in order]
    if shared is not None:
        values, labels = np.vstack([values, shared]), [*labels, "Shared\nreward"]
    heights = np.arange(len(values)) + np.where(np.arange(len(values)) >= len(order), 0.25, 0)
    figure = new_figure(0.9 + 0.42 * len(values))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 5.2])
    bars = np.asarray(shares)[order]
    colors = [SERIES[k % len(SERIES)] for k in order]
    left.barh(heights[: len(order)], bars, height=0.5, color=colors)
    for height, share in zip(heights, bars, strict=False):
        left.text(share + 0.03 * bars.max(), height, f"{100 * share:.0f} %", va="center")
    left.set(xlim=(0, 1.6 * bars.max()), xticks=[])
    left.set_title("share", fontsize=9.5, fontweight="normal", color=MUTED)
    left.set_yticks(heights, labels, color=INK)
    left.set_ylim(heights[-1] + 0.5, -0.5)
    _heat_map(right, attributes, values, heights)
    for axes in (left, right):
        axes.spines["bottom"].set_visible(False)
    return figure


def _heat_map(
    axes: "Axes",
    attributes: Sequence[str],
    values: Float[np.ndarray, "rows D"],
    heights: Float[np.ndarray, " rows"],
) -> None:
    from matplotlib.patches import Rectangle

    largest = max(float(np.abs(values).max()), 1e-12)
    decimals = 2 if largest < 10 else 1 if largest < 100 else 0
    size = 9.5 if values.shape[1] <= 10 else 7.5
    for height, row in zip(heights, values, strict=True):
        for column, value in enumerate(row):
            # Opacity, not a paler colour: zero then is the page's own background, light or dark.
            strength = 0.85 * abs(float(value)) / largest
            color = POSITIVE if value > 0 else NEGATIVE
            cell = Rectangle((column - 0.47, height - 0.45), 0.94, 0.9, alpha=strength, fc=color)
            axes.add_patch(cell)
            text = signed(float(value), decimals)
            axes.text(column, height, text, ha="center", va="center", fontsize=size)
    columns = range(len(attributes))
    room = max(6, LETTERS // len(attributes))
    lines = [textwrap.wrap(shorten(name, 26), room) for name in attributes]
    crowded = any(len(name) > 2 for name in lines)
    labels = [" ".join(name) if crowded else "\n".join(name) for name in lines]
    axes.xaxis.tick_top()
    axes.set_xticks(
        columns, labels, color=INK,
        rotation=35 if crowded else 0, ha="left" if crowded else "center",
    )  # fmt: skip
    axes.tick_params(axis="y", labelleft=False)
    axes.set_xlim(-0.5, len(attributes) - 0.5)


@styled
def learning(fits: Sequence[Fit]) -> "Figure":
    """Draw training and validation loss against the epoch; grey fits have no label."""
    figure = new_figure(3.2)
    panels = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.06})
    for axes, title, part in zip(panels, ("Training loss", "Validation loss"), (3, 4), strict=True):
        for fit in reversed(fits):  # the first lies on top
            points = np.array(fit[part], dtype=float).reshape(-1, 2)
            label = None if fit.color == GRID else shorten(fit.name, 30)
            style = (0, (4, 2)) if fit.dashed else "solid"
            axes.plot(*points.T, color=fit.color, linewidth=1.8, linestyle=style, label=label)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(axis="y")
        axes.margins(x=0.01)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", ncols=4, columnspacing=1.4)
    return figure


@styled
def reliability(models: Sequence[Reliability]) -> "Figure":
    """Draw accuracy against confidence, with the number of comparisons in each bin below."""
    figure = new_figure(4.6, HALF_WIDTH)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    confidences = [confidence for model in models for confidence, _, _ in model.bins]
    start = 0.5 if min(confidences, default=0.5) >= 0.5 else 0.0
    upper.plot([start, 1], [start, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    bar = 0.035 * (1 - start) * 2 / max(1, len(models))
    for number, model in enumerate(models):
        bins = np.array(model.bins, dtype=float).reshape(-1, 3)
        upper.plot(
            bins[:, 0], bins[:, 1], color=model.color, marker=MARKERS[number % len(MARKERS)],
            linewidth=2, markersize=6.5, markeredgecolor=PAPER, label=model.name,
        )  # fmt: skip
        shift = bar * (number - (len(models) - 1) / 2)
        lower.bar(bins[:, 0] + shift, bins[:, 2], width=0.9 * bar, color=model.color)
    _percent_axis(upper, "y")
    _percent_axis(lower, "x")
    lower.grid(axis="x", visible=False)
    lower.grid(axis="y")
    lower.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    upper.set(ylabel="how often right", xlim=(start - 0.02, 1.02))
    lower.set(ylabel="comparisons", xlabel="confidence in the predicted choice")
    figure.align_ylabels()
    upper.legend(loc="upper left")
    return figure


def _percent_axis(axes: "Axes", which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda fraction, _: f"{100 * fraction:g} %")
    axes.grid(axis="x" if which == "x" else "y")
