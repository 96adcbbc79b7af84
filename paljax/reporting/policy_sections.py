"""The sections of a report on a policy run, from its results to HTML."""

from collections.abc import Sequence

from paljax.reporting import page, policy_figures
from paljax.reporting.page import Html
from paljax.reporting.policy_results import PolicyRun, PolicyScores
from paljax.reporting.policy_writing import writing
from paljax.reporting.results import config_values

SAME = 1e-6  # utilities that differ by less are those of one policy
ITERATES = {
    "last": "the last iterate",
    "average_weights": "the polynomial-decay average of its weights",
    "average_policy": "the polynomial-decay average of the policy itself",
}
OBJECTIVES = {
    "maxmin": "MaxMin",
    "maxmin_per_prompt": "MaxMin at every prompt",
    "maxmin_per_sample": "Minimum of every sample",
    "utilitarian": "Single reward (share-weighted mean)",
    "majority": "Majority group's reward",
    "single": "One group's reward",
    "cvar": "CVaR of groups",
    "reference": "Reference policy",
}


def policy_part(run: PolicyRun, title: str, prefix: str) -> Html:
    """Return everything about one policy run; `prefix` keeps the ids of several runs apart."""
    sections = [
        page.header("paljax report · policy", title, _lead(run), f"{prefix}top"),
        page.tiles(_tiles(run)),
        _remarks(run),
        _utilities(run, prefix),
        _learning(run, prefix),
        _table(run),
        _wins(run),
        *writing(run),
        _run(run),
    ]
    return Html(f"<article>\n{page.join([part for part in sections if part])}\n</article>")


def _name(objective: str) -> str:
    return OBJECTIVES.get(objective, objective.replace("_", " "))


def _lead(run: PolicyRun) -> str:
    metrics = run.metrics
    scores = metrics.scores
    worst = min(scores.utilities, key=lambda name: scores.utilities[name])
    sentences = [
        f"Trained for {_name(metrics.objective)}; evaluated is {ITERATES[metrics.iterate]}. The "
        f"worst-off group, {worst}, has utility {scores.minimum:.3f}; the KL to the reference is "
        f"{scores.kl:.3f} nats, the MaxMin value {scores.value:.4f}."
    ]
    best, own = metrics.comparisons.get("maxmin"), metrics.comparisons.get(metrics.objective)
    if best is not None:
        sentences.append(f"The best value that any policy can have is {best.value:.4f}.")
    if own is not None and own.total_variation is not None:
        sentences.append(
            f"Total variation to the exact optimum of its own objective: {own.total_variation:.4f}."
        )
    return " ".join(sentences)


def _tiles(run: PolicyRun) -> list[tuple[str, str, str]]:
    metrics = run.metrics
    scores = metrics.scores
    tiles = [
        (f"{scores.minimum:.3f}", "Worst-off group", "expected utility"),
        (f"{scores.mean:.3f}", "Mean", "groups by their shares"),
        (f"{scores.kl:.3f}", "KL", f"nats to the reference, β = {metrics.beta:g}"),
        (f"{scores.value:.4f}", "MaxMin value", "minimum - β KL"),
    ]
    return [(value, label, note) for value, label, note in tiles]


def _remarks(run: PolicyRun) -> Html:
    if not run.metrics.remarks:
        return Html("")
    return page.section("Remarks", *map(page.paragraph, run.metrics.remarks))


def _utilities(run: PolicyRun, prefix: str) -> Html:
    metrics = run.metrics
    names = metrics.groups.names
    exact = metrics.texts is None and bool(metrics.comparisons)
    rows = [_row(f"This run: {_name(metrics.objective)}", metrics.scores, names, bold=True)]
    rows += [
        _row(f"{_name(name)}{'' if name == 'reference' else ', exact'}", scores, names, bold=False)
        for name, scores in _ordered(run)
    ]
    how = (
        "Each dot is a group's expected utility under a policy; the number is the worst-off "
        "group's. MaxMin raises the left end of the line, at some cost to the right."
    )
    if not exact:
        how += " Bars: 95 % intervals over the responses drawn."
    return page.section(
        "Who is served",
        page.picture(
            policy_figures.utilities(rows, names),
            name=f"{prefix}utilities",
            title="Expected utility of every group by policy",
            description="; ".join(
                f"{row.name}: "
                + ", ".join(f"{n} {u:.3f}" for n, u in zip(names, row.utilities, strict=True))
                for row in rows
            ),
            how=how,
        ),
    )


def _ordered(run: PolicyRun) -> list[tuple[str, PolicyScores]]:
    """Return the comparisons, best value first; of those that are MaxMin itself, only MaxMin."""
    comparisons = run.metrics.comparisons
    best = comparisons.get("maxmin")
    shown = [
        (name, scores)
        for name, scores in comparisons.items()
        if name in ("maxmin", run.metrics.objective)
        or best is None
        or any(abs(scores.utilities[g] - best.utilities[g]) > SAME for g in best.utilities)
    ]
    return sorted(shown, key=lambda pair: -pair[1].value)


def _row(
    name: str, scores: PolicyScores, names: Sequence[str], *, bold: bool
) -> policy_figures.Row:
    errors = [error for n in names if (error := scores.standard_errors.get(n)) is not None]
    return policy_figures.Row(
        name,
        [scores.utilities[n] for n in names],
        errors if len(errors) == len(names) else None,
        bold,
    )


def _learning(run: PolicyRun, prefix: str) -> Html:
    names = run.metrics.groups.names
    if not run.log:
        return Html("")
    last = run.log[-1]
    return page.section(
        "Learning curves",
        page.picture(
            policy_figures.learning(
                [line.step for line in run.log],
                [line.numbers("utility", names) for line in run.log],
                [line.numbers("weight", names) for line in run.log],
                [line.kl for line in run.log],
                names,
            ),
            name=f"{prefix}learning",
            title="Utilities, group weights and KL while learning",
            description="At the end: "
            + "; ".join(
                f"{name} utility {u:.3f}, weight {w:.3f}"
                for name, u, w in zip(
                    names, last.numbers("utility", names), last.numbers("weight", names),
                    strict=True,
                )
            )
            + f"; KL {last.kl:.3f}",
            how="Means over an epoch's steps, from the responses that were trained on. Where the "
            "utilities of the groups that carry weight meet, nobody can gain but at the cost of "
            "someone worse off.",
        ),
    )  # fmt: skip


def _table(run: PolicyRun) -> Html:
    metrics = run.metrics
    named = [(f"This run: {_name(metrics.objective)}", metrics.scores)]
    exact = "" if metrics.texts is not None else ", exact"
    named += [(f"{_name(name)}{exact}", scores) for name, scores in _ordered(run)]
    if metrics.comparisons and metrics.texts is None:
        fresh = f"This run, {metrics.sampled.samples:,} fresh responses a prompt"
        named.append((fresh, metrics.sampled))
    rows = [
        [
            name,
            *(_with_error(scores, group) for group in metrics.groups.names),
            f"{scores.minimum:.4f}",
            f"{scores.mean:.4f}",
            f"{scores.kl:.4f}",
            f"{scores.value:.4f}",
            "–" if scores.total_variation is None else f"{scores.total_variation:.4f}",
        ]
        for name, scores in named
    ]
    header = ["Policy", *metrics.groups.names, "Minimum", "Mean", "KL", "Value", "TV to run"]
    gaps = [s.gap for s in metrics.comparisons.values() if s.gap is not None]
    note = f"Exact optima with a primal-dual gap of at most {max(gaps):.0e}." if gaps else ""
    parts = [page.table("Utilities; below some, their standard errors", header, rows)]
    parts += [page.paragraph(note)] if note else []
    return page.section("The numbers", *parts)


def _with_error(scores: PolicyScores, group: str) -> str:
    value = f"{scores.utilities[group]:.4f}"
    error = scores.standard_errors.get(group)
    return Html(f"{value}<small>± {error:.4f}</small>") if error is not None else value


def _wins(run: PolicyRun) -> Html:
    metrics = run.metrics
    rows = []
    for opponent, by_group in metrics.scores.win_rates.items():
        rates = [f"{100 * by_group[name]:.1f} %" for name in metrics.groups.names]
        rows.append([f"against {_name(opponent)}", *rates])
    if not rows:
        return Html("")
    return page.section(
        "Win rates",
        page.table(
            "How often a group's reward prefers this run's response; a tie counts half",
            ["This run", *metrics.groups.names],
            rows,
        ),
    )


def _run(run: PolicyRun) -> Html:
    metrics, values = run.metrics, config_values(run.config)
    groups = [
        [name, f"{100 * share:.1f} %", f"{weight:.4f}"]
        for name, share, weight in zip(
            metrics.groups.names, metrics.groups.shares, metrics.groups.weights, strict=True
        )
    ]
    facts = [
        ["Objective", _name(metrics.objective)],
        ["Evaluated", ITERATES[metrics.iterate]],
        ["Parameters", f"{metrics.parameters:,}"],
        *[[name.capitalize(), f"{count:,}"] for name, count in metrics.problem.items()],
    ]
    time = [
        [
            key.replace("_per_s", " a second").replace("_s", ", seconds").replace("_", " "),
            f"{t:,.1f}",
        ]
        for key, t in metrics.timing.items()
        if t is not None
    ]
    everything = page.table("config.yaml, resolved", ["Key", "Value"], [*map(list, values.items())])
    tables = "".join(
        f'<div class="facts">{page.table(title, [], rows)}</div>'
        for title, rows in (("The run", facts), ("Time", time))
    )
    return page.section(
        "The run",
        Html(f'<div class="columns">{tables}</div>'),
        page.table("Groups", ["Group", "Share", "Weight at the end"], groups),
        page.details(
            "The whole configuration", Html(f'<div class="facts long">{everything}</div>')
        ),
    )
