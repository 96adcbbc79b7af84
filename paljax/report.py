"""The report of finished runs: one self-contained HTML page with figures.

    python -m paljax.report RUN [RUN ...] [--out FILE]

The page loads nothing from elsewhere, follows the reader's light or dark mode, and prints. The same
results give the same bytes. All numbers come from the files of the run directories.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from paljax import figures
from paljax.commands import run_command, say
from paljax.errors import UserError
from paljax.reporting import page
from paljax.reporting.drawing import SERIES, percent
from paljax.reporting.page import Html
from paljax.reporting.policy_results import PolicyRun, is_policy_run, read_policy_run
from paljax.reporting.policy_sections import policy_part
from paljax.reporting.results import SHARED_REWARD, Run, read_run
from paljax.reporting.sections import mark, run_part, score_cell, shots
from paljax.reporting.wording import distinguishable, estimate, headline, subject
from paljax.storage import write_text

__all__ = ["headline", "main", "render", "write_report"]


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Write the report of one or several run directories.

    Args:
        runs: Directories of finished runs.
        out: The HTML file; it is replaced in one step or not touched at all.

    Raises:
        UserError: A run cannot be read, or the file cannot be written.
    """
    folders = [Path(run) for run in runs]
    of_policies = [is_policy_run(folder) for folder in folders]
    if all(of_policies):
        write_text(out, render_policies([read_policy_run(folder) for folder in folders]))
    elif any(of_policies):
        raise UserError(
            f"{folders[of_policies.index(True)]}: is a run of stage 'policy' and "
            f"{folders[of_policies.index(False)]} is not; report the stages one by one"
        )
    else:
        write_text(out, render([read_run(folder) for folder in folders]))


def render_policies(runs: Sequence[PolicyRun]) -> str:
    """Return the page of policy runs, one after the other."""
    names = _run_names([run.folder for run in runs])
    parts = [
        policy_part(run, name, f"run{number}-" if len(runs) > 1 else "")
        for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
    ]
    title = names[0] if len(runs) == 1 else f"{len(runs)} policies"
    return page.whole_page(title, page.join(parts))


def render(runs: Sequence[Run]) -> str:
    """Return the page: one run in full, or a comparison of several followed by each in full."""
    names = _run_names([run.folder for run in runs])
    if len(runs) == 1:
        return page.whole_page(
            f"{runs[0].dataset}: {names[0]}",
            run_part(runs[0], runs[0].dataset, f"run {names[0]}", ""),
        )
    parts = [
        run_part(run, name, run.dataset, f"run{number}-")
        for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
    ]
    title = f"{len(runs)} runs compared"
    return page.whole_page(title, page.join([_comparison(runs, names, title), *parts]))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m paljax.report",
        description="Write one self-contained HTML page with the results of finished runs.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run directory")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the page to write (default: RUN/report.html for one run, ./report.html for several)",
    )
    return parser


def report(options: argparse.Namespace) -> None:
    """Run the command."""
    runs: list[Path] = options.runs
    out = options.out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    write_report(runs, out)
    say(f"report: {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return run_command(parser(), report, arguments)


def _run_names(folders: Sequence[Path]) -> list[str]:
    """Name each run by its folder, with as many parent folders as make the names differ."""
    paths = [folder.resolve().parts for folder in folders]
    names = ["/".join(parts[-1:]) for parts in paths]
    for depth in range(2, max(map(len, paths)) + 1):
        if len(set(names)) == len(set(paths)):
            break
        names = ["/".join(parts[-depth:]) for parts in paths]
    return names


def _comparison(runs: Sequence[Run], names: Sequence[str], title: str) -> Html:
    parts = [
        page.header("paljax report", title, _comparison_lead(runs, names), "top"),
        _links(names),
        page.section("Known people", *_dots(runs, names), _run_table(runs, names)),
    ]
    curves = [
        figures.Curve(name, SERIES[number % len(SERIES)], points)
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
        if (points := shots(run.metrics.unseen))
    ]
    if curves:
        picture = page.picture(
            figures.n_shot(curves),
            name="runs-new-users",
            title="Accuracy on new people, by run",
            description="; ".join(
                f"{curve.name} reaches {percent(curve.points[-1][1])}" for curve in curves
            ),
            how="People whom training never saw, by the number of comparisons that they gave.",
        )
        parts.append(page.section("New people", picture))
    return Html(f"<article>\n{page.join(parts)}\n</article>")


def _comparison_lead(runs: Sequence[Run], names: Sequence[str]) -> str:
    datasets = sorted({run.dataset for run in runs})
    if len(datasets) > 1:
        return f"The runs are on different data ({', '.join(datasets)}): do not rank them."
    scores = {
        name: found
        for name, run in zip(names, runs, strict=True)
        if (found := estimate(run.metrics.test)) is not None
    }
    if not scores:
        return "No run has held-out comparisons to test."
    best = max(scores, key=lambda name: scores[name].value)
    rivals = [
        name
        for name, score in scores.items()
        if name != best and not distinguishable(score, scores[best])
    ]
    known = all(None not in scores[name] for name in (best, *rivals))
    why = "intervals overlap" if known else "not all have intervals"
    doubt = f", not distinguishable from {', '.join(rivals)}: {why}" if rivals else ""
    return f"{best} has the highest accuracy, {percent(scores[best])}{doubt}."


def _links(names: Sequence[str]) -> Html:
    items = "".join(
        f'<li><a href="#run{number}-top">{page.text(name)}</a></li>'
        for number, name in enumerate(names, start=1)
    )
    return Html(f'<nav aria-label="Runs"><ul>{items}</ul></nav>')


def _dots(runs: Sequence[Run], names: Sequence[str]) -> list[Html]:
    rows = []
    for run, name in zip(runs, names, strict=True):
        shared = run.metrics.shared
        marks = [mark(run.metrics.model, run.metrics.test)]
        marks += [mark(SHARED_REWARD, shared.test)] if shared else []
        rows.append((name, [found for found in marks if found is not None]))
    rows = [row for row in rows if row[1]]
    if not rows:
        return []
    picture = page.picture(
        figures.dots(rows, label="accuracy on held-out choices"),
        name="runs-known",
        title="Accuracy on held-out choices, by run",
        description="; ".join(
            f"{name}: " + ", ".join(f"{m.name} {percent(m.estimate)}" for m in marks)
            for name, marks in rows
        ),
        how="Each bar is the range in which an accuracy would fall for other people like these "
        "(95 %). Where bars overlap, the data do not say which is better.",
    )
    return [picture]


def _run_table(runs: Sequence[Run], names: Sequence[str]) -> Html:
    rows = []
    for run, name in zip(runs, names, strict=True):
        metrics = run.metrics
        shared = metrics.shared
        most = metrics.unseen[max(metrics.unseen)] if metrics.unseen else None
        rows.append([
            name, run.dataset, subject(metrics), score_cell(metrics.test),
            score_cell(shared.test if shared else None), score_cell(metrics.test, "nll"),
            score_cell(most),
        ])  # fmt: skip
    header = ["Run", "Data", "Model", "Accuracy", "Shared reward", "Log loss", "New people"]
    return page.table("The runs, with 95 % intervals", header, rows)


if __name__ == "__main__":
    raise SystemExit(main())
