"""Figures on groups of people: gains of groups and of users, and what prototypes agree on."""

import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from paljax.reporting.drawing import (
    GRID,
    INK,
    MUTED,
    NEGATIVE,
    POSITIVE,
    SERIES,
    Estimate,
    new_figure,
    shorten,
    signed,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTERS_A_LINE = 58  # of an item beside its dots


class Stance(NamedTuple):
    """An item and the reward that each prototype gives it, in nats from its mean item."""

    item: str
    rewards: Sequence[float]


@styled
def gains(
    groups: Sequence[tuple[str, Estimate]], edges: Sequence[float], users: Sequence[int]
) -> "Figure":
    """Draw gains over the shared reward in points: of groups with intervals, and of people."""
    figure = new_figure(max(3.2, 0.95 + 0.38 * len(groups)))
    if not groups:
        _user_gains(figure.add_subplot(), edges, users)
        return figure
    left, right = figure.subplots(1, 2)
    _group_gains(left, groups)
    _user_gains(right, edges, users)
    return figure


def _group_gains(axes: "Axes", groups: Sequence[tuple[str, Estimate]]) -> None:
    axes.axvline(0, color=MUTED, linewidth=1.2)
    for row, (_, gain) in enumerate(groups):
        color = POSITIVE if gain.value >= 0 else NEGATIVE
        if gain.low is not None and gain.high is not None:
            ends = [100 * gain.low, 100 * gain.high]
            axes.plot(ends, [row, row], color=color, linewidth=3, alpha=0.45)
        axes.plot([100 * gain.value], [row], "o", color=color, markersize=7.5, markeredgewidth=0)
        axes.text(
            1.02, row, signed(100 * gain.value, 1), va="center", color=INK,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.set_yticks(range(len(groups)), [shorten(name, 24) for name, _ in groups], color=INK)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x")
    axes.set_title("Groups")
    axes.set_xlabel("gain, points")


def _user_gains(axes: "Axes", edges: Sequence[float], users: Sequence[int]) -> None:
    """A histogram; the bin around no gain is grey."""
    bins = list(itertools.pairwise(edges))
    middles = [50 * (low + high) for low, high in bins]
    colors = [
        SERIES[7] if low < 0 < high else POSITIVE if low >= 0 else NEGATIVE for low, high in bins
    ]
    axes.bar(middles, users, width=[90 * (high - low) for low, high in bins], color=colors)
    held = [abs(middle) for middle, count in zip(middles, users, strict=True) if count]
    reach = max(held, default=10.0) + 10
    axes.set_xlim(-reach, reach)
    axes.set_title("People")
    axes.set_xlabel("gain, points")
    axes.set_ylabel("people")
    axes.grid(axis="y")


@styled
def common_ground(kinds: Sequence[tuple[str, Sequence[Stance]]]) -> "Figure":
    """Draw every prototype's reward of items as dots on a line, kind by kind."""
    kinds = [(title, stances) for title, stances in kinds if stances]
    sizes = [len(stances) for _, stances in kinds]
    figure = new_figure(0.5 + 0.5 * sum(sizes) + 0.4 * len(kinds))
    panels = figure.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=sizes)
    for axes, (title, stances) in zip(panels[:, 0], kinds, strict=True):
        axes.axvline(0, color=MUTED, linewidth=1.2)
        for row, stance in enumerate(stances):
            ends = [min(stance.rewards), max(stance.rewards)]
            axes.plot(ends, [row, row], color=GRID, linewidth=3, zorder=1)
            for k, reward in enumerate(stance.rewards):
                axes.plot(
                    [reward], [row], "o", color=SERIES[k % len(SERIES)], markersize=7.5,
                    alpha=0.9, label=f"P{k + 1}" if not row else None,
                )  # fmt: skip
        labels = [
            "\n".join(textwrap.wrap(stance.item, LETTERS_A_LINE, max_lines=2, placeholder="…"))
            for stance in stances
        ]
        axes.set_yticks(range(len(stances)), labels, color=INK, fontsize=8.5)
        axes.set_ylim(len(stances) - 0.4, -0.6)
        axes.set_title(title)
        axes.grid(axis="x")
    panels[-1, 0].set_xlabel("reward in nats, from each prototype's mean item")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower right", ncols=8)
    return figure
