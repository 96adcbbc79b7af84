"""Sections of a report on what the prototypes want and on the people between them."""

from collections.abc import Sequence

import numpy as np

from paljax import figures
from paljax.reporting import page, user_figures
from paljax.reporting.drawing import SERIES, shorten, signed
from paljax.reporting.page import Html
from paljax.reporting.results import Liked, Run

MAX_ATTRIBUTES = 14  # columns of the heat map; its table has all


def prototypes(run: Run, prefix: str) -> Html:
    analysis = run.analysis
    title = "What the prototypes want"
    if not analysis.prototypes:
        return Html("")
    if not analysis.attributes or not analysis.prototypes[0].effects:
        return page.section(title, _liked_items(run))
    table = np.array([[p.effects[a] for a in analysis.attributes] for p in analysis.prototypes])
    shared = analysis.shared_effects
    reference = np.array([shared[a] for a in analysis.attributes]) if shared else None
    rows = [*table, *([reference] if reference is not None else [])]
    largest = np.sort(np.argsort(-np.abs(rows).max(axis=0), kind="stable")[:MAX_ATTRIBUTES])
    labels = [f"P{k + 1} ({100 * p.share:.0f} %)" for k, p in enumerate(analysis.prototypes)]
    labels += ["Shared reward"] if shared else []
    names = [analysis.attributes[i] for i in largest]
    hidden = len(analysis.attributes) - len(largest)
    more = f" {hidden} attributes with smaller effects are only in the table." if hidden else ""
    return page.section(
        title,
        page.picture(
            figures.effects(
                names,
                [p.share for p in analysis.prototypes],
                table[:, largest],
                None if reference is None else reference[largest],
            ),
            name=f"{prefix}prototypes",
            title="Effect of each attribute on each prototype's reward",
            description="; ".join(
                f"{label}: "
                + ", ".join(f"{n} {signed(v)}" for n, v in zip(names, row[largest], strict=True))
                for label, row in zip(labels, rows, strict=True)
            ),
            how=f"Effects in {analysis.effect_unit}: blue attracts, orange repels, and ±1 "
            "multiplies the odds of a choice by 2.7. The share is how much of an average person a "
            "prototype makes up; nobody is a prototype alone, so that one may want what no person "
            "wants. The last row is the one reward that everybody would have to "
            f"share.{more}",
        ),
        page.details(
            "The numbers",
            page.table(
                f"Effects in {analysis.effect_unit}",
                ["Prototype (share)", *analysis.attributes],
                [
                    [label, *(signed(v, 3) for v in row)]
                    for label, row in zip(labels, rows, strict=True)
                ],
            ),
        ),
    )


def _liked_items(run: Run) -> Html:
    cards = []
    order = sorted(enumerate(run.analysis.prototypes), key=lambda pair: -pair[1].share)
    for k, prototype in order:
        cards.append(
            f'<div><h3 style="color: var(--series_{k % len(SERIES)})">P{k + 1}'
            f" <small>{100 * prototype.share:.0f} % of an average person</small></h3>"
            f"<h4>Most preferred</h4>{_ranking(prototype.most_preferred)}"
            f"<h4>Least preferred</h4>{_ranking(prototype.least_preferred)}</div>"
        )
    how = (
        "The items that each prototype rates highest and lowest, with its reward in nats: one more "
        "nat multiplies the odds of being chosen by 2.7. Rewards compare within a prototype only."
    )
    return page.join([Html(f'<div class="prototypes">{"".join(cards)}</div>'), page.paragraph(how)])


def _ranking(items: Sequence[Liked]) -> str:
    lines = (
        f"<li><b>{signed(item.reward)}</b><span>{page.text(shorten(item.item, 140))}</span></li>"
        for item in items
    )
    return f"<ol>{''.join(lines)}</ol>"


def weight_space(run: Run, prefix: str) -> Html:
    users = run.users
    count = users.weights.shape[1]
    title = "People in weight space"
    if count == 1:
        return page.section(
            title, page.paragraph("With one prototype everybody has the same reward.")
        )
    strongest = users.weights.argmax(axis=1)
    drawn = min(len(users.weights), user_figures.MAX_POINTS)
    where = {
        2: "Bars count people by their weight on P2.",
        3: "Each mark is a person: the closer to a corner, the more of that prototype is in them.",
    }.get(
        count,
        f"Each mark is a person; the plane is the one in which their {count} weights differ most, "
        "and the squares are people who would follow one prototype only.",
    )
    symbol = "dashed line" if count == 2 else "star"
    some = count > 2 and drawn < len(users.weights)
    part = f" {drawn:,} of {len(users.weights):,} people are drawn." if some else ""
    return page.section(
        title,
        page.picture(
            user_figures.users(users.weights, users.unseen, np.array(run.analysis.population)),
            name=f"{prefix}weights",
            title="People by their weights on the prototypes",
            description="People by strongest prototype: "
            + ", ".join(f"P{k + 1} {int((strongest == k).sum())}" for k in range(count)),
            how=f"{where} The {symbol} is a person without data, who gets the "
            f"population's weights. {_weights_are(run)}{part}",
        ),
        page.paragraph(_people_by_prototype(run)),
        _matching(run),
    )


def _weights_are(run: Run) -> str:
    if run.analysis.membership.exclusive:
        return (
            "Each person has the reward of one prototype, nobody knows for sure which, and the "
            "weights are the probabilities."
        )
    return (
        "Weights are one description of a person, not the only one: a wider set of prototypes "
        "holds the same people."
    )


def _people_by_prototype(run: Run) -> str:
    """Count people by strongest prototype, and name the prototypes that nobody has."""
    counts = run.analysis.membership.users
    if not counts:
        counts = np.bincount(
            run.users.weights[~run.users.unseen].argmax(axis=1),
            minlength=run.users.weights.shape[1],
        ).tolist()
    held = ", ".join(f"P{k + 1} {count:,}" for k, count in enumerate(counts) if count)
    empty = [f"P{k + 1}" for k, count in enumerate(counts) if not count]
    nobody = f" Nobody's strongest: {', '.join(empty)}." if empty else ""
    return f"People who were trained on, by their strongest prototype: {held}.{nobody}"


def _matching(run: Run) -> Html:
    matching = run.analysis.membership.matching
    if matching is None:
        return Html("")
    share = 100 * matching.matched / max(matching.people, 1)
    rows = [
        [f"P{k + 1}", label or "–", *(f"{count:,}" for count in counts)]
        for k, (label, counts) in enumerate(zip(matching.label_of, matching.counts, strict=True))
    ]
    caption = (
        f"People by strongest prototype and by the data's own label; matched one to one, "
        f"{share:.1f} % of {matching.people:,} are where their label is"
    )
    return page.table(caption, ["Prototype", "Matched to", *matching.labels], rows)
