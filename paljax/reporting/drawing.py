"""How the report's figures look: palette, style, text of numbers, and SVG for inside a page.

Colours are fixed light-mode values; `svg` turns each of them into a CSS variable, so that a page
can show the same figure in light and in dark.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name: (light, dark). `series_*` follows Okabe and Ito's colour-blind safe palette, its yellow
# replaced by a violet that can be seen on white.
PALETTE = {
    "ink": ("#1c2333", "#e8ebf2"),
    "muted": ("#5f6b80", "#a0aabc"),
    "grid": ("#dfe4ec", "#343c4b"),
    "paper": ("#fefefe", "#171b23"),
    "positive": ("#3d8fd1", "#2a78b8"),
    "negative": ("#e07b3f", "#b8551c"),
    "series_0": ("#0b69a8", "#5ab0ee"),
    "series_1": ("#d1580b", "#f28d4a"),
    "series_2": ("#0e9270", "#3cc39b"),
    "series_3": ("#c0609a", "#e292c2"),
    "series_4": ("#d99a00", "#f2bf3f"),
    "series_5": ("#46a8e0", "#a5dafa"),
    "series_6": ("#7457b8", "#ab92ea"),
    "series_7": ("#7d8694", "#98a2b2"),
}
INK, MUTED, GRID, PAPER, POSITIVE, NEGATIVE, *SERIES = (light for light, _ in PALETTE.values())
MARKERS = "osD^vPX*"
# Inches: a card of the page and half a card, so that all figures share one size of type.
WIDTH = 9.4
HALF_WIDTH = 4.8

P = ParamSpec("P")


class Estimate(NamedTuple):
    """A number with its 95 % interval; `low` and `high` are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


def styled(draw: "Callable[P, Figure]") -> "Callable[P, Figure]":
    """Run `draw` under the report's style, whatever the machine's own matplotlib settings are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        with _style():
            return draw(*args, **kwargs)

    return drawn


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib.style

    with matplotlib.style.context(["default", _SETTINGS]), warnings.catch_warnings():
        # Names may use letters that the font lacks; the page's tables show them in full.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        yield


_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "paljax",
    "svg.fonttype": "path",  # text as outlines: the same on every machine
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 9.5,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.labelpad": 7,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "ytick.major.pad": 7,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "none",
    "lines.solid_capstyle": "round",
}


def new_figure(height: float, width: float = WIDTH) -> "Figure":
    """Make an empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: "Figure", *, name: str, title: str, description: str) -> str:
    """Write a figure as SVG to be placed inside a page.

    Args:
        figure: What a function of `paljax.figures` returned.
        name: Prefix of the ids inside, so that several figures can share a page.
        title: The figure's accessible name.
        description: What the figure shows, in words, for those who do not see it.

    Returns:
        An `<svg>` element without fixed size; its colours are CSS variables (`--ink`, ...) with the
        light-mode values as fallback. The same figure gives the same bytes.
    """
    text = io.StringIO()
    with _style():
        silent = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=silent)
    body = text.getvalue().split("<svg", 1)[1].split(">", 1)[1]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = _own_ids(body, name)
    for variable, (light, _) in PALETTE.items():
        body = body.replace(light, f"var(--{variable},{light})")
    width, height = figure.get_size_inches() * 72
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" stroke-linejoin="round" '
        f'aria-labelledby="{name}-title {name}-desc">\n <title id="{name}-title">{escape(title)}'
        f'</title>\n <desc id="{name}-desc">{escape(description)}</desc>{body}'
    )


def _own_ids(body: str, name: str) -> str:
    """Prefix the ids that something refers to, and drop the others: an id is unique in a page."""
    referenced = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    kept = re.sub(
        r' id="([^"]+)"',
        lambda found: f' id="{name}-{found[1]}"' if found[1] in referenced else "",
        body,
    )
    return re.sub(r'(href="|url\()#', rf"\1#{name}-", kept)


def spread(values: Sequence[float] | Float[np.ndarray, " n"], gap: float) -> list[float]:
    """Move numbers as little as possible (least squares) so that all are `gap` apart."""
    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(order))
    blocks: list[list[float]] = []
    for target in np.asarray(values, dtype=float)[order] - steps:
        blocks.append([float(target)])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    placed = np.empty(len(order))
    placed[order] = [float(np.mean(block)) for block in blocks for _ in block] + steps
    return [float(place) for place in placed]


def percent(estimate: Estimate) -> str:
    """Write a fraction and its interval as people read them: `86.4 % [85.1, 87.6]`."""
    text = f"{100 * estimate.value:.1f} %"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def signed(value: float, decimals: int = 2) -> str:
    """Write a number with its sign: `+1.20`, `−0.35`."""
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def shorten(text: str, length: int) -> str:
    """Cut a text to at most `length` characters, on one line, with an ellipsis where it was cut."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1].rstrip() + "…"
