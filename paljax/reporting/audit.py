"""The section of a report on the checks that stand beside its accuracies."""

from paljax.reporting import page
from paljax.reporting.audit_results import Audit, RepeatedPairs
from paljax.reporting.drawing import Estimate, percent, signed
from paljax.reporting.page import Html
from paljax.reporting.results import Run


def audit(run: Run) -> Html:
    found = run.metrics.audit
    if found is None:
        return Html("")
    rows = [
        [
            "Both sides of every held-out choice swapped",
            f"{100 * found.label_swap.accuracy:.1f} %",
            f"{100 * found.label_swap.expected:.1f} %: one minus the accuracy",
        ],
        [
            "Everybody predicted as somebody else",
            _points(found.shuffled_users.gain.accuracy, found.shuffled_users.gain.interval)
            + " over the shared reward",
            "no gain: what is personal is gone",
        ],
        _format(found),
        _flipped(found),
        [
            f"{found.overlap_counts.capitalize()} both learned from and scored",
            f"{sum(found.overlap.values()):,}",
            "0",
        ],
        _repeated(
            "Scored pairs that the same person also judged in training", found.repeated_pairs
        ),
        _repeated_of_new(found),
        ["Ties among what is scored", f"{_scored_ties(found):,}", "left out of the scores"],
    ]
    return page.section(
        "Audit",
        page.table("Checks of the accuracy above", ["Check", "Found", "Wanted"], rows),
    )


def _format(found: Audit) -> list[str]:
    wanted = "near 50 %: the format must not tell the answer"
    probe = found.format_probe
    if probe is None:
        return ["Format of the texts alone", "–", "items are no texts"]
    return [
        "Format of the texts alone",
        percent(Estimate(probe.accuracy, *(probe.interval or ()))),
        wanted,
    ]


def _flipped(found: Audit) -> list[str]:
    name = "Answers of new people that turn when all that they said is turned"
    if found.flip_rate is None:
        return [name, "–", "nobody is new in this run"]
    rate = percent(Estimate(found.flip_rate.rate, *(found.flip_rate.interval or ())))
    return [name, rate, "above 0 %: the model listens"]


def _repeated(name: str, pairs: RepeatedPairs) -> list[str]:
    wanted = "few; accuracy on the others: " + _share(pairs.accuracy_on_others)
    return [name, f"{pairs.n:,}", wanted]


def _repeated_of_new(found: Audit) -> list[str]:
    name = "Scored pairs that the same new person also judged to join"
    if found.repeated_pairs_of_new is None:
        return [name, "–", "nobody is new in this run"]
    return _repeated(name, found.repeated_pairs_of_new)


def _scored_ties(found: Audit) -> int:
    return sum(found.ties.get(part, 0) for part in ("test", "query"))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _points(gain: float, interval: tuple[float, float] | None) -> str:
    written = f"{signed(100 * gain, 1)} points"
    if interval is None:
        return written
    low, high = (signed(100 * end, 1) for end in interval)
    return f"{written} [{low}, {high}]"
