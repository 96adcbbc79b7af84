"""The section of a report that says how a run was made."""

from paljax.reporting import page
from paljax.reporting.drawing import percent
from paljax.reporting.page import Html
from paljax.reporting.results import Run, Tried, config_values
from paljax.reporting.wording import display_name, estimate, subject

# Parts of a split whose names don't say what they are.
CALLED = {
    "refit": "refit (what validation held)",
    "validation_support": "validation users, learned from",
    "validation_query": "validation users, scored",
    "unused": "unused (items of two parts)",
}


def run_table(run: Run) -> Html:
    metrics = run.metrics
    values = config_values(run.config)
    model = {"Model": subject(metrics)}
    if metrics.selection and metrics.selection.prior_strength is not None:
        model["Prior strength λ"] = f"{metrics.selection.prior_strength:g}"
    wanted = ("model.user_point", "model.distance", "model.similarity", "stage", "seed")
    for key in wanted:
        if key in values:
            model[key.split(".")[-1].replace("_", " ").capitalize()] = values[key]
    for part, count in metrics.parameters.items():
        model[f"Parameters, {part.replace('_', ' ')}"] = f"{count:,}"
    time = {duration(key): f"{t:,.0f}" if t >= 100 else f"{t:.1f}"
            for key, t in metrics.timing.items() if t is not None}  # fmt: skip
    versions = {k.removeprefix("versions."): v for k, v in values.items() if "versions." in k}
    columns = [("Model", model), ("Time", time), ("Versions", versions)]
    tables = "".join(
        f'<div class="facts">{page.table(title, [], list(map(list, facts.items())))}</div>'
        for title, facts in columns if facts
    )  # fmt: skip
    parts = [Html(f'<div class="columns">{tables}{_split_table(run)}</div>'), _selection(run)]
    parts += [_joining(run), _before_refit(run)]
    rows = [[key, value] for key, value in values.items()]
    everything = page.table("config.yaml, resolved", ["Key", "Value"], rows)
    everything = Html(f'<div class="facts long">{everything}</div>')
    parts.append(page.details("The whole configuration", everything))
    return page.section("The run", *[part for part in parts if part])


def duration(key: str) -> str:
    """What a timing is called: train_s is `Train, seconds`."""
    words = key.replace("_per_s", " a second").replace("_s", ", seconds").replace("_", " ")
    return words[:1].upper() + words[1:]


def _split_table(run: Run) -> Html:
    if not run.splits:
        return Html("")
    rows = [
        [CALLED.get(split, split), f"{n:,}", f"{users:,}"]
        for split, (n, users) in run.splits.items()
    ]
    return page.table("Data by split", ["Split", "Comparisons", "People"], rows)


def _selection(run: Run) -> Html:
    selection = run.metrics.selection
    if selection is None or not selection.candidates:
        return Html("")
    strengths = sorted({c.prior_strength or 0.0 for c in selection.candidates})
    counts = sorted({c.num_prototypes for c in selection.candidates})
    # Several weight decays share a cell, which shows the best.
    by_loss = sorted(selection.candidates, key=lambda c: -(c.validation_nll or 0.0))
    cells = {(c.num_prototypes, c.prior_strength or 0.0): c for c in by_loss}
    chosen = (selection.num_prototypes, selection.prior_strength or 0.0)
    rows = []
    for count in counts:
        tried = [cells.get((count, strength)) for strength in strengths]
        marks = [(count, strength) == chosen for strength in strengths]
        found = [_candidate(*pair) for pair in zip(tried, marks, strict=True)]
        rows.append([f"K = {count}", *found])
    header = ["Prototypes", *(f"λ = {s:g}" if s else "No λ" for s in strengths)]
    caption = "Selection on validation data: log loss in nats, accuracy below; ✓ is the choice"
    return page.table(caption, header, rows)


def _joining(run: Run) -> Html:
    selection = run.metrics.selection
    if selection is None or not selection.joining.candidates:
        return Html("")
    joining = selection.joining
    cells = [
        _candidate(tried, tried.prior_strength == joining.prior_strength)
        for tried in joining.candidates
    ]
    header = ["", *(f"λ = {tried.prior_strength:g}" for tried in joining.candidates)]
    caption = (
        f"λ of people who join, chosen by {joining.num_users:,} validation users, from whom the "
        "model had learned nothing then"
    )
    return page.table(caption, header, [["Log loss", *cells]])


def _before_refit(run: Run) -> Html:
    rows = []
    for model, scores in run.metrics.before_refit.items():
        found = estimate(scores.test)
        if found is not None:
            rows.append([display_name(model), percent(found)])
    if not rows:
        return Html("")
    caption = "Before the last fit on training and validation data together"
    selection = run.metrics.selection
    if selection is not None and selection.joining.candidates:
        caption += "; validation users have the population's weights there"
    return page.table(caption, ["Model", "Accuracy on held-out choices"], rows)


def _candidate(candidate: Tried | None, chosen: bool) -> str:
    if candidate is None or candidate.validation_nll is None:
        return "–"
    loss = f"{candidate.validation_nll:.4f}"
    if candidate.validation_accuracy is not None:
        loss += f"<small>{100 * candidate.validation_accuracy:.1f} %</small>"
    return Html(f'<span class="chosen">✓ {loss}</span>' if chosen else loss)
