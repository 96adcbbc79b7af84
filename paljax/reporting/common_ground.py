"""The section of a report on items about which the prototypes agree, and on those they dispute."""

from paljax.reporting import group_figures, page
from paljax.reporting.drawing import signed
from paljax.reporting.page import Html
from paljax.reporting.results import Run


def common_ground(run: Run, prefix: str) -> Html:
    found = run.analysis.common_ground
    if found is None or not found.all_items:
        return Html("")
    kinds = [
        ("Liked by all", found.liked),
        ("Disliked by all", found.disliked),
        ("Most disputed", found.disputed),
    ]
    prototypes = [f"P{k + 1}" for k in range(len(found.all_items[0].rewards))]
    rows = [
        [item.item, kind, signed(item.mean), f"{item.spread:.2f}", *map(signed, item.rewards)]
        for kind, items in kinds
        for item in items
    ]
    return page.section(
        "Common ground and disputes",
        page.picture(
            group_figures.common_ground(
                [
                    (kind, [group_figures.Stance(item.item, item.rewards) for item in items])
                    for kind, items in kinds
                ]
            ),
            name=f"{prefix}common-ground",
            title="Items on which the prototypes agree and disagree most",
            description="; ".join(
                f"{kind}: " + ", ".join(item.item for item in items) for kind, items in kinds
            ),
            how="Each dot is a prototype: to the right it likes the item better than its mean "
            "item, to the left less; one nat more multiplies the odds of being chosen by 2.7. "
            "Prototypes count by their share in the people. Liked by all: the highest mean less "
            "one standard deviation; disliked by all: the lowest mean plus one; disputed: the "
            "largest standard deviation.",
        ),
        page.details(
            "The numbers",
            page.table(
                "Rewards in nats, from each prototype's mean item",
                ["Item", "Kind", "Mean", "Spread", *prototypes],
                rows,
            ),
        ),
    )
