"""The sections of a report on one run, from its results to HTML."""

from collections.abc import Mapping

from paljax import figures
from paljax.reporting import page
from paljax.reporting.audit import audit
from paljax.reporting.common_ground import common_ground
from paljax.reporting.drawing import GRID, SERIES, Estimate, percent
from paljax.reporting.groups import by_group, grouping, is_grouped
from paljax.reporting.page import Html
from paljax.reporting.prototypes import prototypes, weight_space
from paljax.reporting.results import SHARED_REWARD, Run, Scores
from paljax.reporting.run_table import run_table
from paljax.reporting.wording import color, display_name, estimate, headline, num_prototypes

SCORES = {  # name in metrics.json: (column title, as a percentage, higher is better)
    "accuracy": ("Accuracy", True, True),
    "accuracy_macro_user": ("Mean over people", True, True),
    "accuracy_worst_group": ("Worst group", True, True),
    "accuracy_p10_user": ("10th percentile", True, True),
    "nll": ("Log loss", False, False),
    "ece": ("Calibration error", False, False),
}


def run_part(run: Run, title: str, kicker: str, prefix: str) -> Html:
    """Return everything about one run; `prefix` keeps the ids of several runs apart."""
    sections = [
        page.header(f"paljax report · {kicker}", title, headline(run.metrics), f"{prefix}top"),
        page.tiles(_tiles(run)),
        _baselines(run, prefix),
        _new_users(run, prefix),
        prototypes(run, prefix),
        common_ground(run, prefix),
        weight_space(run, prefix),
        _learning(run, prefix),
        _calibration(run, prefix),
        by_group(run, prefix),
        audit(run),
        run_table(run),
    ]
    return Html(f"<article>\n{page.join([part for part in sections if part])}\n</article>")


def mark(model: str, scores: Scores) -> figures.Mark | None:
    """Return a model's dot, or None where it has no accuracy."""
    found = estimate(scores)
    return None if found is None else figures.Mark(display_name(model), color(model), found)


def shots(unseen: Mapping[int, Scores]) -> list[tuple[float, Estimate]]:
    """Return the points of a curve over the number of comparisons a new user gave."""
    return [(n, found) for n in sorted(unseen) if (found := estimate(unseen[n])) is not None]


def score_cell(scores: Scores | None, name: str = "accuracy") -> str:
    """Return a score with its interval in small print."""
    found = estimate(scores, name) if scores is not None else None
    if found is None:
        return "–"
    value, *bounds = percent(found).split(" [") if SCORES[name][1] else _decimals(found)
    return Html(f"{value}<small>[{bounds[0]}</small>" if bounds else value)


def _decimals(found: Estimate) -> list[str]:
    if found.low is None or found.high is None:
        return [f"{found.value:.3f}"]
    return [f"{found.value:.3f}", f"{found.low:.3f}, {found.high:.3f}]"]


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    metrics = run.metrics
    shared = metrics.shared
    facts = [(display_name(metrics.model), "held-out choices", estimate(metrics.test))]
    if shared:
        facts.append((display_name(SHARED_REWARD), "held-out choices", estimate(shared.test)))
    if metrics.unseen:
        most = max(metrics.unseen)
        given = metrics.unseen[most].support_per_user
        note = f"after {most} comparisons" if given is None else f"who gave {given:.1f} on average"
        facts.append(("New people", note, estimate(metrics.unseen[most])))
    if is_grouped(run):
        worst = estimate(metrics.test, "accuracy_worst_group")
        facts.append(("Worst group", f"by {grouping(run)}", worst))
    tiles: list[tuple[str, str, str]] = []
    for label, note, found in facts:
        if found is not None:
            value, *bounds = percent(found).split(" [")
            small = page.text(note) + (f"<br>[{bounds[0]}" if bounds else "")
            tiles.append((value, label, Html(small)))
    return tiles


def _models(run: Run) -> dict[str, tuple[Scores, dict[int, Scores]]]:
    """Return test and unseen scores by model: the run's own first, then baselines by accuracy."""
    metrics = run.metrics
    ranked = sorted(metrics.baselines.items(), key=lambda pair: -(pair[1].test.accuracy or 0))
    return {metrics.model: (metrics.test, metrics.unseen)} | {
        name: (baseline.test, baseline.unseen) for name, baseline in ranked if name != metrics.model
    }


def _baselines(run: Run, prefix: str) -> Html:
    models = _models(run)
    marks = [found for name, (test, _) in models.items() if (found := mark(name, test))]
    parts = []
    test = run.metrics.test
    label = f"accuracy on held-out choices (n = {test.n:,} of {test.n_users:,} people)"
    if marks:
        parts.append(
            page.picture(
                figures.dots(
                    [(m.name, [m]) for m in marks],
                    label=label,
                    first_bold=True,
                ),
                name=f"{prefix}baselines",
                title="Accuracy on held-out choices by model",
                description="; ".join(f"{m.name} {percent(m.estimate)}" for m in marks),
                how="Each dot is the share of held-out choices that a model predicts; the bar is "
                "the range in which it would fall for other people like these (95 %). Where bars "
                "overlap, the data do not say which model is better. 50 % is guessing.",
            )
        )
    parts.append(page.table(*_score_table(models)))
    return page.section(f"{display_name(run.metrics.model)} against baselines", *parts)


def _score_table(
    models: Mapping[str, tuple[Scores, dict[int, Scores]]],
) -> tuple[str, list[str], list[list[str]]]:
    rows = [[display_name(name)] for name in models]
    for score, (_, _, higher) in SCORES.items():
        values = [getattr(test, score) for test, _ in models.values()]
        known = [value for value in values if value is not None]
        best = (max if higher else min)(known, default=None)
        for row, value, (test, _) in zip(rows, values, models.values(), strict=True):
            cell = score_cell(test, score)
            row.append(
                Html(f'<span class="best">{cell}</span>') if value == best and known else cell
            )
    for row, (test, _) in zip(rows, models.values(), strict=True):
        row.append(Html(f"{test.n:,}<small>{test.n_users:,} people</small>"))
    titles = ["Model", *(title for title, _, _ in SCORES.values()), "n"]
    return "All scores on held-out choices of known people; the best in bold", titles, rows


def _new_users(run: Run, prefix: str) -> Html:
    curves = {
        name: figures.Curve(display_name(name), color(name), points)
        for name, (_, unseen) in _models(run).items()
        if (points := shots(unseen))
    }
    title = "New people"
    if not curves:
        return page.section(title, page.paragraph("No people were held out in this run."))
    counts = sorted({int(n) for curve in curves.values() for n, _ in curve.points})
    rows = [
        [display_name(name), *(score_cell(_models(run)[name][1].get(n)) for n in counts)]
        for name in curves
    ]
    sizes = [run.metrics.unseen.get(n) for n in counts]
    rows.append(["People tested", *(f"{s.n_users:,}" if s else "–" for s in sizes)])
    given = [s.support_per_user if s else None for s in sizes]
    if any(g is not None for g in given):
        rows.append(["Given, on average", *("–" if g is None else f"{g:.1f}" for g in given)])
    return page.section(
        title,
        page.picture(
            figures.n_shot(list(curves.values())),
            name=f"{prefix}new-users",
            title="Accuracy on new people by the number of comparisons they gave",
            description="; ".join(
                f"{c.name}: " + ", ".join(f"after {n:g} {percent(e)}" for n, e in c.points)
                for c in curves.values()
            ),
            how="People whom training never saw. With no comparisons everyone gets the "
            "population's weights; a few comparisons then say which prototypes to listen to. The "
            "line rises as fast as the model learns a person. People who gave fewer count with "
            "what they gave. Comparisons that are given are never the ones that are scored.",
        ),
        page.details(
            "The numbers",
            page.table(
                "Accuracy by comparisons given, 95 % intervals", ["Model", *map(str, counts)], rows
            ),
        ),
    )


def _learning(run: Run, prefix: str) -> Html:
    logged: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]] = {}
    for line in run.log:
        lists = logged.setdefault(line.fit, ([], []))
        when = line.epoch if line.epoch is not None else float(line.step)
        for values, loss in zip(lists, (line.loss, line.validation_loss), strict=True):
            if loss is not None:
                values.append((when, loss))
    if not logged:
        return Html("")
    fits = _fits(run, logged)
    hidden = sum(fit.color == GRID for fit in fits)
    last = ((fit, dict(fit.validation or fit.training)) for fit in fits)
    return page.section(
        "Learning curves",
        page.picture(
            figures.learning(fits),
            name=f"{prefix}learning",
            title="Training and validation loss by fit",
            description="Last loss: "
            + "; ".join(f"{fit.name} {list(v.values())[-1]:.3f}" for fit, v in last if v),
            how="Loss in nats a comparison: 0.693 is guessing, lower is better. Where the "
            "validation loss turns up while the training loss still falls, a fit has begun to "
            "memorise. A fit that may stop early keeps its best epoch, any other its last. "
            "Dashed: trained again on training and validation data together."
            + (f" {hidden} more fits of the search are grey." if hidden else ""),
        ),
    )


def _fits(
    run: Run, logged: Mapping[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]]
) -> list[figures.Fit]:
    """Order and colour the fits: the chosen one, the shared reward, then the rest of the search."""
    chosen = f"{run.metrics.model} K={num_prototypes(run.metrics)}"
    sources = {fit: fit.removesuffix(" refit") for fit in logged}
    sources = {fit: chosen if of == run.metrics.model else of for fit, of in sources.items()}
    colors = {chosen: SERIES[0], SHARED_REWARD: SERIES[1]}
    rest = iter(SERIES[2:])
    for source in sources.values():
        if source not in colors:
            colors[source] = next(rest, GRID)
    order = [*colors]
    names = sorted(logged, key=lambda fit: (order.index(sources[fit]), not fit.endswith("refit")))
    return [
        figures.Fit(_fit_name(fit), colors[sources[fit]], fit.endswith("refit"), *logged[fit])
        for fit in names
    ]


def _fit_name(fit: str) -> str:
    model, *rest = fit.split(" ")
    return " ".join([display_name(model), *rest])


def _calibration(run: Run, prefix: str) -> Html:
    scores = {name: test for name, (test, _) in _models(run).items()}
    models = []
    for name, bins in run.analysis.calibration.items():
        error = scores[name].ece if name in scores else None
        label = display_name(name) + (f" (error {error:.3f})" if error is not None else "")
        triples = [(b.confidence, b.accuracy, b.n) for b in bins if b.n]
        models.append(figures.Reliability(label, color(name), triples))
    if not any(model.bins for model in models):
        return Html("")
    return page.section(
        "Calibration",
        page.picture(
            figures.reliability(models),
            name=f"{prefix}calibration",
            title="Accuracy against confidence",
            description="; ".join(
                f"{m.name}: "
                + ", ".join(f"{c:.2f} sure, {a:.2f} right (n {n})" for c, a, n in m.bins)
                for m in models
            ),
            how="On the dashed line a model that says 80 % is right 80 % of the time. Below it, "
            "the model is too sure of itself. The bars count the comparisons behind each point.",
        ),
        half=True,
    )
