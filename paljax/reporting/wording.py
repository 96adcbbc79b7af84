"""What a report says in words, computed from the numbers: names, scores, and the headline."""

from collections.abc import Mapping
from typing import Any

from paljax.reporting.drawing import SERIES, Estimate, percent, signed
from paljax.reporting.results import (
    SHARED_REWARD,
    Difference,
    Metrics,
    Scores,
    dropped_rows,
    encoding_remarks,
)

NAMES = {
    "pal_a": "PAL",
    "pal_b": "PAL",
    "bradley_terry": "Shared reward",
    "constant": "Constant",
    "per_user_logistic_regression": "Per-user logistic regression",
    "mixed_logit": "Gaussian mixed logit",
    "item_majority": "Item majority",
    "user_and_item_intercepts": "User and item intercepts",
    "pal_as_published": "PAL as published",
    "reward_mixture": "Reward mixture",
}
COLORS = {
    "bradley_terry": SERIES[1],
    "mixed_logit": SERIES[2],
    "per_user_logistic_regression": SERIES[3],
    "item_majority": SERIES[5],
    "user_and_item_intercepts": SERIES[6],
    "pal_as_published": SERIES[4],
    "constant": SERIES[7],
}


def display_name(model: str) -> str:
    """Return a model's name as people read it."""
    return NAMES.get(model, model.replace("_", " "))


def color(model: str) -> str:
    """Return a model's colour, the same in every figure; the run's own model has the first."""
    return COLORS.get(model, SERIES[0])


def estimate(scores: Scores, name: str = "accuracy") -> Estimate | None:
    """Return a score with its interval, or None where the run could not compute it."""
    value: float | None = getattr(scores, name)
    if value is None:
        return None
    low, high = scores.intervals.get(name) or (None, None)
    return Estimate(value, low, high)


def num_prototypes(metrics: Metrics) -> int:
    """Return K of the run's model."""
    if metrics.selection is not None:
        return metrics.selection.num_prototypes
    return max(1, metrics.parameters.get("per_user", 1))


def subject(metrics: Metrics) -> str:
    """Name the run's model: `PAL with 8 prototypes`."""
    if metrics.model == SHARED_REWARD or _shared_chosen(metrics):
        return "One shared reward"
    count = num_prototypes(metrics)
    return f"{display_name(metrics.model)} with {count} prototype{'s' if count != 1 else ''}"


def _shared_chosen(metrics: Metrics) -> bool:
    return metrics.selection is not None and not metrics.selection.personal


def headline(metrics: Metrics | Mapping[str, Any]) -> str:
    """Say the result of a run in plain sentences, failures and dropped data included.

    Args:
        metrics: The content of metrics.json.

    Returns:
        Text, not HTML.

    Example:
        >>> scores = {"accuracy": 0.8, "n": 20, "n_users": 5, "intervals": {"accuracy": [0.7, 0.9]}}
        >>> headline({"model": "pal_a", "parameters": {"per_user": 3}, "test": scores})
        'PAL with 3 prototypes predicts 80.0 % [70.0, 90.0] of held-out choices; n = 20 comparisons of 5 people.'
    """  # noqa: E501
    found = metrics if isinstance(metrics, Metrics) else Metrics.model_validate(dict(metrics))
    score = estimate(found.test)
    if score is None:
        return " ".join([f"{subject(found)}: no held-out comparisons to test.", *_caveats(found)])
    result = f"{subject(found)} predicts {percent(score)} of held-out choices; "
    reference = estimate(found.shared.test) if found.shared else None
    if reference is not None:
        result += f"one shared reward {percent(reference)}; "
    result += f"n = {found.test.n:,} comparisons of {found.test.n_users:,} people."
    return " ".join([result, *_comparisons(found, score, reference), *_caveats(found)])


def _comparisons(metrics: Metrics, score: Estimate, reference: Estimate | None) -> list[str]:
    name = display_name(metrics.model)
    sentences = []
    if reference is not None:
        paired = metrics.gain.test if metrics.gain else None
        sentences.append(
            gain_verdict(name, paired) or verdict(name, score, "the shared reward", reference)
        )
    rivals = {
        rival: found
        for rival, baseline in metrics.baselines.items()
        if rival != SHARED_REWARD and (found := estimate(baseline.test)) is not None
    }
    best = max(rivals, key=lambda rival: rivals[rival].value, default=None)
    if best is not None and rivals[best].value > score.value:
        other = f"the {display_name(best)[0].lower() + display_name(best)[1:]}"
        if best == "mixed_logit":
            other = f"the {display_name(best)}"
        sentences.append(f"The best baseline, {other}, reaches {percent(rivals[best])}.")
        sentences.append(verdict(name, score, other, rivals[best]))
    return sentences


def gain_verdict(name: str, gain: Difference | None) -> str:
    """Say what the paired difference to the shared reward shows; nothing where it is unknown."""
    if gain is None or gain.accuracy is None or gain.interval is None or None in gain.interval:
        return ""
    low, high = (100 * (end or 0.0) for end in gain.interval)
    points = 100 * gain.accuracy
    if low > 0:
        return f"{name} is {points:.1f} points [{low:.1f}, {high:.1f}] above the shared reward."
    if high < 0:
        return f"{name} is {-points:.1f} points [{-high:.1f}, {-low:.1f}] below the shared reward."
    ends = f"[{signed(low, 1)}, {signed(high, 1)}]"
    return (
        f"{name} and the shared reward are not distinguishable: "
        f"they differ by {signed(points, 1)} points {ends}."
    )


def verdict(name: str, score: Estimate, other: str, reference: Estimate) -> str:
    """Say which of two models is better, or that their intervals do not tell."""
    points = f"{100 * abs(score.value - reference.value):.1f} points"
    side = "above" if score.value > reference.value else "below"
    if None in score or None in reference:
        return f"{name} is {points} {side} {other}; without intervals this proves nothing."
    if distinguishable(score, reference):
        return f"{name} is {points} {side} {other}."
    return f"{name} and {other} are not distinguishable: their 95 % intervals overlap."


def distinguishable(one: Estimate, other: Estimate) -> bool:
    """Tell whether two intervals are apart; a missing interval tells nothing."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low > other.high or one.high < other.low


def _caveats(metrics: Metrics) -> list[str]:
    ties = metrics.data.get("ties")
    dropped = dropped_rows(metrics)
    sentences = []
    if _shared_chosen(metrics) and metrics.model != SHARED_REWARD:
        sentences.append(
            "Everybody has one reward: validation data leave it open whether people differ."
        )
    if isinstance(ties, int) and ties:
        kind = "s are ties" if ties > 1 else " is a tie"
        sentences.append(f"{ties:,} comparison{kind}, without a side to predict.")
    if dropped:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
        total = sum(dropped.values())
        sentences.append(f"{total:,} row{'s were' if total > 1 else ' was'} dropped ({reasons}).")
    sentences += [f"{what}: {count:,}." for what, count in encoding_remarks(metrics).items()]
    return sentences
