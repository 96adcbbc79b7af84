"""The section of a report on groups: how well each is served, the gap, and who gains or loses."""

import numpy as np

from paljax import figures
from paljax.evaluation import FEWEST_USERS
from paljax.reporting import group_figures, page
from paljax.reporting.drawing import HALF_WIDTH, SERIES, Estimate, percent, signed
from paljax.reporting.page import Html
from paljax.reporting.results import SHARED_REWARD, Run
from paljax.reporting.wording import color, display_name, estimate

RESAMPLES = 1000
Rows = list[tuple[str, list[figures.Mark]]]


def by_group(run: Run, prefix: str) -> Html:
    rows, how = _group_rows(run)
    kind = grouping(run)
    parts = []
    if rows:
        parts.append(
            page.picture(
                figures.dots(rows, label="accuracy", width=HALF_WIDTH),
                name=f"{prefix}groups",
                title=f"Accuracy by {kind}",
                description="; ".join(
                    f"{label}: " + ", ".join(f"{m.name} {percent(m.estimate)}" for m in marks)
                    for label, marks in rows
                ),
                how=how,
            )
        )
    parts += [page.paragraph(sentence) for sentence in (_worst(run), _gaps(run)) if sentence]
    parts.append(_worst_served(run))
    title = f"By {kind}" if rows or _worst(run) else "Person by person"
    served = page.section(title, *parts, half=True) if any(parts) else Html("")
    return page.join([part for part in (served, _gains(run, prefix)) if part])


def grouping(run: Run) -> str:
    """Return what groups are: the data's own, or people by their strongest prototype."""
    return "strongest prototype" if run.metrics.groups == "prototype" else run.metrics.groups


def is_grouped(run: Run) -> bool:
    """Tell whether there is more than one group: a single prototype groups nobody."""
    return run.metrics.groups != "prototype" or run.users.weights.shape[1] > 1


def _worst(run: Run) -> str:
    """Say how accurate the model and the shared reward are on their worst groups."""
    blocks = {run.metrics.model: run.metrics.test}
    if SHARED_REWARD in run.metrics.baselines:
        blocks.setdefault(SHARED_REWARD, run.metrics.baselines[SHARED_REWARD].test)
    told = "; ".join(
        f"{display_name(name)} {percent(found)}"
        for name, scores in blocks.items()
        if is_grouped(run) and (found := estimate(scores, "accuracy_worst_group")) is not None
    )
    return f"Accuracy on the worst group: {told}." if told else ""


def _gaps(run: Run) -> str:
    """Say how far the worst group is behind the best, for the model and the shared reward."""
    told = "; ".join(
        f"{display_name(name)} {_points(gap.gap, *(gap.interval or ()))} "
        f"({gap.best} ahead of {gap.worst})"
        for name, gap in run.analysis.gaps.items()
    )
    return f"Gap between the best and the worst group, in points: {told}." if told else ""


def _gains(run: Run, prefix: str) -> Html:
    """Who gains from a reward of their own, group by group and person by person."""
    people = run.analysis.user_gains
    alone = run.metrics.selection is not None and not run.metrics.selection.personal
    if people is None or not people.users or alone:
        return Html("")
    groups = [
        (group.group, Estimate(group.gain.accuracy, *(group.gain.interval or ())))
        for group in run.analysis.groups
        if group.gain is not None
    ]
    told = [f"{name} {_points(*gain)}" for name, gain in groups]
    told += [f"quantile {level} {signed(100 * g, 1)}" for level, g in people.quantiles.items()]
    bars = "A bar that crosses the line leaves open whether the group gains. " if groups else ""
    return page.section(
        "Who gains and who loses",
        page.picture(
            group_figures.gains(groups, people.histogram.edges, people.histogram.users),
            name=f"{prefix}gains",
            title="Gain over the shared reward, by group and by person",
            description="; ".join(told),
            how="The accuracy of the model less that of the shared reward on the same held-out "
            f"choices. {bars}Few choices of each person are scored, so most of one person's gain "
            "is chance.",
        ),
        page.paragraph(_people(run)),
    )


def _people(run: Run) -> str:
    people = run.analysis.user_gains
    assert people is not None
    shares = ", ".join(
        f"{percent(Estimate(block.share, *(block.interval or ())))} {verb}"
        for block, verb in (
            (people.better, "are predicted better than by the shared reward"),
            (people.worse, "worse"),
            (people.same, "alike"),
        )
    )
    return (
        f"Of {people.users:,} people {shares}. By their own choices alone (sign test, 5 %) "
        f"{people.clearly_better:,} are clearly better off and {people.clearly_worse:,} clearly "
        "worse; if nobody differed and choices were independent, up to "
        f"{0.025 * people.users:.0f} would seem so on each side."
    )


def _points(value: float, low: float | None = None, high: float | None = None) -> str:
    """Write fractions as points with their interval, where there is one."""
    written = f"{100 * value:.1f}"
    if low is not None and high is not None:
        written += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return written.replace("-", "\N{MINUS SIGN}")


def _group_rows(run: Run) -> tuple[Rows, str]:
    if run.analysis.groups:
        rows: Rows = []
        for group in run.analysis.groups:
            marks = []
            for model, accuracy in group.accuracy.items():
                if accuracy is not None:
                    found = Estimate(accuracy, *(group.intervals.get(model) or ()))
                    marks.append(figures.Mark(display_name(model), color(model), found))
            rows.append((f"{group.group} (n = {group.n:,})", marks))
        return rows, "A model is fair to these groups when its dots are level."
    if run.metrics.groups != "prototype" or not is_grouped(run):
        return [], ""
    strongest = run.users.weights.argmax(axis=1)
    tested = ~run.users.unseen & np.isfinite(run.users.accuracy)
    rows = []
    for k in range(run.users.weights.shape[1]):
        accuracies = run.users.accuracy[tested & (strongest == k)]
        if len(accuracies):
            name = display_name(run.metrics.model)
            dot = figures.Mark(name, SERIES[k % len(SERIES)], _mean(accuracies))
            rows.append((f"P{k + 1} ({len(accuracies)} people)", [dot]))
    return rows, (
        "Known people by the prototype that is strongest in them: the mean of their own "
        "accuracies. A model is fair to these groups when the dots are level."
    )


def _mean(values: np.ndarray) -> Estimate:
    """Return a mean over users with its 95 % percentile bootstrap interval; one has none."""
    if len(values) < FEWEST_USERS:
        return Estimate(float(values.mean()))
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def _worst_served(run: Run, count: int = 8) -> Html:
    users = run.users
    order = np.argsort(users.accuracy, kind="stable")  # NaN last
    rows = [
        [users.user_id[u], f"{100 * users.accuracy[u]:.1f} %", f"P{users.weights[u].argmax() + 1}",
         f"{users.weights[u].max():.2f}"]
        for u in order[:count] if np.isfinite(users.accuracy[u])
    ]  # fmt: skip
    header = ["Person", "Accuracy", "Strongest", "Its weight"]
    caption = "The people whose choices are predicted worst"
    if not rows:
        return Html("")
    table = page.table(caption, header, rows)
    return page.details(caption, table) if is_grouped(run) else table
