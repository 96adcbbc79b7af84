"""HTML of a report: escaping, tables, figures, sections, and the page with its style sheet."""

import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from paljax.reporting.drawing import PALETTE, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Html(str):
    """Text that is HTML already; any other text is escaped on its way into the page."""


def text(content: str) -> Html:
    """Return the content as HTML; escaped, unless it is HTML already."""
    if isinstance(content, Html):
        return content
    return Html(re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", escape(content)))


def join(parts: Sequence[Html]) -> Html:
    """Put parts of a page one after the other."""
    return Html("\n".join(parts))


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """Return a table whose first column names the rows; wide tables scroll by themselves."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    body = "\n".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return Html(
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption><span>{text(caption)}</span></caption>{head}"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def picture(figure: "Figure", *, name: str, title: str, description: str, how: str = "") -> Html:
    """Return a figure with the line below it that says how to read it."""
    drawing = svg(figure, name=name, title=title, description=description)
    size = f"--natural: {figure.get_size_inches()[0]:.2f}in"
    caption = f"<figcaption>{text(how)}</figcaption>" if how else ""
    return Html(
        f'<figure style="{size}"><div class="wide" tabindex="0" role="group" '
        f'aria-label="{escape(title)}">{drawing}</div>{caption}</figure>'
    )


def section(title: str, *parts: Html, half: bool = False) -> Html:
    """Return a card of the page; two half cards share a row where there is room."""
    kind = ' class="half"' if half else ""
    return Html(f"<section{kind}>\n<h2>{text(title)}</h2>\n{join(parts)}\n</section>")


def details(summary: str, content: Html) -> Html:
    """Return content that opens on a click; no script needed."""
    return Html(f"<details><summary>{text(summary)}</summary>\n{content}\n</details>")


def paragraph(content: str, kind: str = "how") -> Html:
    """Return a paragraph of one of the style sheet's kinds."""
    return Html(f'<p class="{kind}">{text(content)}</p>')


def header(kicker: str, title: str, lead: str, anchor: str) -> Html:
    """Return what a run's part of the page opens with."""
    return Html(
        f'<header id="{escape(anchor)}"><p class="kicker">{text(kicker)}</p>'
        f'<h1>{text(title)}</h1><p class="lead">{text(lead)}</p></header>'
    )


def tiles(facts: Sequence[tuple[str, str, str]]) -> Html:
    """Return large numbers, each (number, what it is, small print)."""
    cells = "".join(
        f"<div><dt>{text(label)}</dt><dd><b>{text(value)}</b><small>{text(note)}</small></dd></div>"
        for value, label, note in facts
    )
    return Html(f'<dl class="tiles">{cells}</dl>')


def whole_page(title: str, content: Html) -> str:
    """Return the page: one file that refers to nothing outside itself."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{_style_sheet()}</style>\n</head>\n"
        f"<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"
    )


def _style_sheet() -> str:
    light, dark = (
        "".join(f"--{name}: {colors[mode]}; " for name, colors in PALETTE.items())
        for mode in (0, 1)
    )
    return (
        f":root {{ color-scheme: light dark; {light}--desk: #f3f5f9; }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark}--desk: #0e1117; }} }}\n"
        + _STYLE
    )


_STYLE = """\
* { box-sizing: border-box; }
body { margin: 0; background: var(--desk); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
article { display: grid; grid-template-columns: 1fr 1fr; gap: 1.25rem; }
article > * { grid-column: 1 / -1; min-width: 0; }
article + article { margin-top: 4rem; border-top: 2px solid var(--grid); padding-top: 2.5rem; }
.kicker { margin: 0; color: var(--series_0); font-weight: 600; font-size: .875rem; }
h1 { margin: .1rem 0 .7rem; font-size: clamp(1.7rem, 4vw, 2.4rem); line-height: 1.15;
  letter-spacing: -.02em; overflow-wrap: anywhere; }
.lead { margin: 0; font-size: 1.125rem; max-width: 46rem; text-wrap: pretty; }
h2 { margin: 0 0 .9rem; font-size: 1.2rem; letter-spacing: -.01em; }
section { background: var(--paper); border: 1px solid var(--grid); border-radius: 12px;
  padding: 1.4rem 1.5rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1.25rem;
  margin: 0; }
.tiles div { background: var(--paper); border: 1px solid var(--grid); border-radius: 12px;
  padding: 1rem 1.2rem; }
.tiles dt { color: var(--muted); font-size: .875rem; }
.tiles dd { margin: 0; }
.tiles b { display: block; font-size: 1.9rem; line-height: 1.3; letter-spacing: -.02em; }
small { color: var(--muted); font-size: .8125rem; font-weight: 400; white-space: nowrap; }
td small, .tiles small { display: block; }
figure { margin: 0; }
svg { display: block; width: 100%; max-width: var(--natural); min-width: 34rem; height: auto; }
.half svg { min-width: 22rem; }
figcaption, .how { margin: .8rem 0 0; color: var(--muted); font-size: .9375rem; max-width: 46rem; }
.wide { overflow-x: auto; }
.wide:focus-visible { outline: 2px solid var(--series_0); outline-offset: 3px; }
section > * + .wide, section > .wide + .wide, figure + .wide, details { margin-top: 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); font-size: .875rem; padding-bottom: .4rem; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--grid); vertical-align: top;
  text-align: right; line-height: 1.35; }
th:first-child, td:first-child, .prose th, .prose td { text-align: left; }
th:first-child { padding-left: 0; }
caption span { display: block; max-width: calc(100vw - 3.75rem); }
thead th { color: var(--muted); font-weight: 500; font-size: .8125rem; vertical-align: bottom; }
tbody th { font-weight: 600; min-width: 9rem; }
.facts tbody th { min-width: 0; }
tbody tr:last-child > * { border-bottom: 0; }
.best { font-weight: 700; }
.chosen { font-weight: 700; color: var(--series_0); }
summary { cursor: pointer; color: var(--series_0); font-size: .9375rem; font-weight: 600; }
details[open] > summary { margin-bottom: .8rem; }
.facts td, .facts th { text-align: left; }
.facts th { font-weight: 500; color: var(--muted); white-space: nowrap; width: 1%; }
.long td { overflow-wrap: anywhere; }
.columns { display: flex; flex-wrap: wrap; gap: 1.2rem 2.5rem; }
.columns > * { flex: 1 1 auto; margin: 0 !important; }
.columns table { width: 100%; }
.columns tbody th { font-weight: 500; color: var(--muted); min-width: 0; }
.prototypes { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr));
  gap: 1.5rem 2rem; }
.prototypes h3 { margin: 0 0 .3rem; font-size: 1rem; }
.prototypes h4 { margin: .6rem 0 .1rem; font-size: .8125rem; font-weight: 500;
  color: var(--muted); }
.prototypes ol { margin: 0; padding: 0; list-style: none; font-size: .9375rem; }
.prototypes li { display: flex; gap: .75rem; padding: .15rem 0; overflow-wrap: anywhere; }
.prototypes li b { min-width: 3.4rem; text-align: right; font-variant-numeric: tabular-nums; }
nav ul { margin: 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .5rem; }
nav a { display: block; padding: .25rem .8rem; border: 1px solid var(--grid); border-radius: 99px;
  background: var(--paper); color: var(--series_0); text-decoration: none; font-size: .9375rem; }
@media (min-width: 56rem) { .half:has(+ .half), .half + .half { grid-column: span 1; } }
@media (max-width: 36rem) { main { padding: 1.5rem .75rem 3rem; }
  section { padding: 1.1rem 1rem; } }
@page { margin: 14mm; }
@media print { html { font-size: 11px; } body { background: none; font-size: 11px; }
  main { max-width: none; padding: 0; } article { display: block; }
  article > * { margin-bottom: 1rem; } section, .tiles div { border-radius: 0; }
  .tiles, figure, tr, .prototypes > div { break-inside: avoid; } h2 { break-after: avoid; }
  .wide { overflow: visible; } svg, .half svg { min-width: 0; max-height: 40vh; } }
"""
