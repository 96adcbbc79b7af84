"""The sections of a report on what a policy of texts writes."""

from paljax.reporting import page
from paljax.reporting.page import Html
from paljax.reporting.policy_results import PolicyRun, PolicyScores

_ROLES = {"policy": "This run", "reference": "Reference policy"}


def writing(run: PolicyRun) -> list[Html]:
    """Functions of text, diversity and examples; nothing where responses are no texts."""
    texts = run.metrics.texts
    if texts is None:
        return []
    scored = {"policy": run.metrics.scores} | {
        name: scores for name, scores in run.metrics.comparisons.items() if name in _ROLES
    }
    parts = []
    if texts.functions:
        rows = [
            [name, f"{found.mean:.3f}", f"{found.reference:.3f}", _percent(found.win_rate,
             found.win_rate_standard_error)]
            for name, found in texts.functions.items()
        ]  # fmt: skip
        rewards = run.config.get("rewards", {}).get("functions", [])
        known = ", ".join(name for name in texts.functions if name in rewards)
        whose = f"; the run's rewards: {known}" if known else " that nothing was trained on"
        caption = f"Functions of text{whose}; a tie counts half a win"
        parts.append(
            page.table(caption, ["Function", "This run", "Reference", "Wins against it"], rows)
        )
    lengths = sorted({n for scores in scored.values() for n in scores.distinct})
    header = ["Policy", "Tokens", "At full length", *(f"Distinct-{n}" for n in lengths)]
    parts.append(
        page.table(
            "Length, and the share of distinct n-grams among all",
            header,
            [_row(name, scores, lengths) for name, scores in scored.items()],
        )
    )
    examples = [
        [example["prompt"], *(example.get(name, "") for name in _ROLES)]
        for example in texts.examples
    ]
    shown = page.table(
        "The first response to each of some held-out prompts; nobody has chosen them",
        ["Prompt", *_ROLES.values()],
        examples,
    )
    return [page.section("What it writes", *parts), page.section("Samples", shown)]


def _row(name: str, scores: PolicyScores, lengths: list[str]) -> list[str]:
    return [
        _ROLES[name],
        "–" if scores.length is None else f"{scores.length:.1f}",
        "–" if scores.at_full_length is None else f"{100 * scores.at_full_length:.1f} %",
        *(f"{scores.distinct.get(n, 0.0):.3f}" for n in lengths),
    ]


def _percent(rate: float, error: float | None) -> str:
    if error is None:
        return f"{100 * rate:.1f} %"
    return f"{100 * rate:.1f} ± {100 * error:.1f} %"
