"""Figures of people in weight space: numbers in, a matplotlib figure out.

`P1` is the first prototype; K prototypes, U users.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from paljax.reporting.drawing import GRID, INK, MUTED, PAPER, SERIES, new_figure, spread, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 2000  # users drawn; more would make a page of many megabytes and show nothing new


@styled
def users(
    weights: Float[np.ndarray, "U K"],
    unseen: Bool[np.ndarray, " U"],
    population: Float[np.ndarray, " K"],
) -> "Figure":
    """Draw users in weight space: a histogram for K = 2, a triangle for K = 3, else a projection.

    Args:
        weights: The users' weights on the prototypes; rows sum to one.
        unseen: Which users were not trained on.
        population: The population's weights, what a user without comparisons gets.

    Returns:
        The figure; at most MAX_POINTS users are drawn, taken at equal steps.
    """
    kept = np.unique(np.linspace(0, len(weights) - 1, min(len(weights), MAX_POINTS)).astype(int))
    figure = new_figure(3.0 if weights.shape[1] == 2 else 5.0)
    axes = figure.add_subplot()
    if weights.shape[1] == 2:
        _histogram(axes, weights, unseen, population)
    elif weights.shape[1] == 3:
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
        _triangle(axes, corners)
        _cloud(axes, weights[kept], unseen[kept], population, corners)
    else:
        corners = principal_plane(weights)
        _corner_rays(axes, corners, population @ corners)
        _cloud(axes, weights[kept], unseen[kept], population, corners)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), handletextpad=0.4, labelspacing=0.7)
    return figure


def principal_plane(weights: Float[np.ndarray, "U K"]) -> Float[np.ndarray, "K 2"]:
    """Find where the prototypes' corners fall in the plane in which people differ most."""
    _, _, directions = np.linalg.svd(weights - weights.mean(axis=0), full_matrices=False)
    plane = np.zeros((2, weights.shape[1]))
    plane[: min(2, len(directions))] = directions[:2]
    largest = np.abs(plane).argmax(axis=1)[:, None]
    # A singular vector's sign is arbitrary: make the largest entry positive, so pictures repeat.
    return (plane * np.where(np.take_along_axis(plane, largest, axis=1) < 0, -1, 1)).T


def _cloud(
    axes: "Axes",
    weights: Float[np.ndarray, "U K"],
    unseen: Bool[np.ndarray, " U"],
    population: Float[np.ndarray, " K"],
    corners: Float[np.ndarray, "K 2"],
) -> None:
    points = weights @ corners
    strongest = weights.argmax(axis=1)
    for k in range(weights.shape[1]):
        color = SERIES[k % len(SERIES)]
        for new, marker, face, edge in ((False, "o", color, PAPER), (True, "^", PAPER, color)):
            x, y = points[(strongest == k) & (unseen == new)].T
            if len(x):
                axes.scatter(
                    x, y, s=30, marker=marker, fc=face, ec=edge, lw=1.3 if new else 0.6, alpha=0.85,
                    zorder=3,
                )  # fmt: skip
    for k in range(weights.shape[1]):
        axes.scatter([], [], s=50, marker="s", fc=SERIES[k % len(SERIES)], label=f"mostly P{k + 1}")
    axes.scatter([], [], s=30, fc=MUTED, label="known person")
    if unseen.any():
        axes.scatter([], [], s=30, marker="^", fc=PAPER, ec=MUTED, lw=1.3, label="new person")
    x, y = population @ corners
    axes.scatter(
        [x], [y], s=190, marker="*", fc=INK, ec=PAPER, lw=1, zorder=5,
        label="no data: the\npopulation's weights",
    )  # fmt: skip
    axes.set_aspect("equal")
    axes.set_axis_off()


def _triangle(axes: "Axes", corners: Float[np.ndarray, "3 2"]) -> None:
    outline = np.vstack([corners, corners[:1]])
    axes.plot(*outline.T, color=MUTED, linewidth=1)
    for k in range(3):
        others = np.delete(np.eye(3), k, axis=0)
        for level in (0.25, 0.5, 0.75):
            ends = (level * np.eye(3)[k] + (1 - level) * others) @ corners
            axes.plot(*ends.T, color=GRID, linewidth=0.8, zorder=1)
    for k, (x, y) in enumerate(corners):
        axes.text(
            x + (-0.03, 0.03, 0)[k], y + (-0.015, -0.015, 0.03)[k], f"P{k + 1}", weight="bold",
            color=SERIES[k], ha=("right", "left", "center")[k], va=("top", "top", "bottom")[k],
            fontsize=11,
        )  # fmt: skip


def _corner_rays(
    axes: "Axes", corners: Float[np.ndarray, "K 2"], center: Float[np.ndarray, " 2"]
) -> None:
    from matplotlib.patheffects import withStroke

    extent = float(np.ptp(corners, axis=0).max()) or 1.0
    side = np.where(corners[:, 0] >= center[0], 1, -1)
    heights = np.zeros(len(corners))
    for direction in (-1, 1):
        heights[side == direction] = spread(corners[side == direction, 1], 0.055 * extent)
    for k, (x, y) in enumerate(corners):
        color = SERIES[k % len(SERIES)]
        axes.plot([center[0], x], [center[1], y], color=GRID, linewidth=1, zorder=1)
        label = x + side[k] * 0.05 * extent
        axes.plot([x, label], [y, heights[k]], color=color, linewidth=1.2, zorder=4)
        axes.scatter([x], [y], s=64, marker="s", fc=color, ec=PAPER, lw=1, zorder=5)
        axes.text(
            label + side[k] * 0.008 * extent, heights[k], f"P{k + 1}", color=color, weight="bold",
            ha="left" if side[k] > 0 else "right", va="center", fontsize=11, zorder=6,
            path_effects=[withStroke(linewidth=3, foreground=PAPER)],
        )  # fmt: skip


def _histogram(
    axes: "Axes",
    weights: Float[np.ndarray, "U 2"],
    unseen: Bool[np.ndarray, " U"],
    population: Float[np.ndarray, " 2"],
) -> None:
    edges = np.linspace(0, 1, 41)
    seen, new = (np.histogram(weights[unseen == flag, 1], edges)[0] for flag in (False, True))
    colors = [SERIES[int(left >= 0.5)] for left in edges[:-1]]
    axes.bar(edges[:-1], seen, width=0.021, align="edge", color=colors)
    axes.bar(edges[:-1], new, width=0.021, align="edge", bottom=seen, color=colors, alpha=0.45)
    axes.axvline(population[1], color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.plot([], [], "s", color=SERIES[0], label="mostly P1")
    axes.plot([], [], "s", color=SERIES[1], label="mostly P2")
    if unseen.any():
        axes.plot([], [], "s", color=MUTED, alpha=0.45, label="paler: new people")
    axes.plot([], [], color=INK, linestyle=(0, (4, 3)), label="no data: the\npopulation's weights")
    axes.set(xlim=(0, 1), xlabel="weight on P2 (the rest is on P1)", ylabel="people")
    axes.grid(axis="y")
