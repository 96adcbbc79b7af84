"""What one reward for everybody costs a minority, by the minority's share.

    python experiments/diversity/minority.py

Two groups compare items of a table by Bradley-Terry choices of their own rewards, which agree up to
a given cosine. One reward is fitted to everybody's choices exactly (infinitely many, so that no
noise is in the figure). Writes results.json and figure.png: the groups' total variation, the
mismatch of the single reward with each group and the lower bound that the triangle inequality puts
under the larger of the two (the argument behind MaxMin-RLHF's impossibility theorem, arXiv
2402.08925, section 3), accuracy on each group, utilities of the policy for that reward against the
exact MaxMin policy, and the Pareto front of the two groups. Half a minute on one quiet core.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from paljax.kernels import MaxMinSolution, maxmin_dual
from paljax.reporting.drawing import INK, MUTED, SERIES, new_figure, styled
from paljax.runs import versions

HERE = Path(__file__).parent
NUM_ITEMS = 24
COSINE = -0.5  # between the two groups' rewards: they mostly disagree
BETA = 0.3
SEEDS = range(5)
SHARES = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5]
FRONT = np.linspace(0.0, 1.0, 41)  # weights of the majority along the Pareto front
PARETO_SHARE = 0.2

Vector = NDArray[np.float64]


def groups_rewards(seed: int) -> NDArray[np.float64]:
    """Rewards [Y, 2] of the majority and of the minority, of unit variance and the given cosine."""
    noise = np.random.default_rng(seed).normal(size=(NUM_ITEMS, 2))
    noise -= noise.mean(axis=0)
    first, second = np.linalg.qr(noise)[0].T * np.sqrt(NUM_ITEMS)
    return np.stack([first, COSINE * first + np.sqrt(1 - COSINE**2) * second], axis=1)


def preferences(reward: Vector) -> NDArray[np.float64]:
    """P(first is preferred) of every pair, [pairs]."""
    first, second = np.triu_indices(NUM_ITEMS, 1)
    return 1 / (1 + np.exp(-(reward[first] - reward[second])))


def single_reward(rewards: NDArray[np.float64], share: float) -> Vector:
    """The Bradley-Terry reward with the highest likelihood of everybody's choices."""
    first, second = np.triu_indices(NUM_ITEMS, 1)
    wanted = (1 - share) * preferences(rewards[:, 0]) + share * preferences(rewards[:, 1])

    def loss(reward: Vector) -> tuple[float, Vector]:
        margin = reward[first] - reward[second]
        chosen = 1 / (1 + np.exp(-margin))
        slope = (chosen - wanted) / len(wanted)
        gradient = np.bincount(first, slope, NUM_ITEMS) - np.bincount(second, slope, NUM_ITEMS)
        return float(np.mean(np.logaddexp(0, margin) - wanted * margin)), gradient

    fitted = scipy.optimize.minimize(loss, np.zeros(NUM_ITEMS), jac=True, tol=1e-12)
    return np.asarray(fitted.x - fitted.x.mean())


def policy_of(reward: Vector) -> Vector:
    """π ∝ exp(r / β), the reference uniform."""
    weights = np.exp((reward - reward.max()) / BETA)
    return np.asarray(weights / weights.sum())


@jax.jit
def fairest(rewards: Any) -> MaxMinSolution:
    """The exact MaxMin policy, the reference uniform."""
    return maxmin_dual(
        rewards,
        jnp.full((1, NUM_ITEMS), -np.log(NUM_ITEMS)),
        jnp.ones(1),
        beta=BETA,
        group_matrix=jnp.eye(2),
        tolerance=1e-9,
    )


def measure(seed: int, share: float) -> dict[str, Any]:
    """Everything at one share of the minority."""
    rewards = groups_rewards(seed)
    one = single_reward(rewards, share)
    by_group = [preferences(rewards[:, g]) for g in range(2)]
    # A pair has two outcomes: the total variation is the difference of the probabilities.
    variation = float(np.abs(by_group[0] - by_group[1]).mean())
    mismatch = [float(np.abs(preferences(one) - group).mean()) for group in by_group]
    agree = [preferences(one) > 0.5] * 2
    accuracy = [
        float(np.where(right, group, 1 - group).mean())
        for right, group in zip(agree, by_group, strict=True)
    ]
    with jax.enable_x64(True):
        best = fairest(jnp.asarray(rewards[None]))
    return {
        "total_variation": variation,
        "mismatch": mismatch,
        "bound": variation / 2,
        "accuracy": accuracy,
        "best_accuracy": [float(np.maximum(group, 1 - group).mean()) for group in by_group],
        "single_utility": (policy_of(one) @ rewards).tolist(),
        "maxmin_utility": np.asarray(best.utilities).tolist(),
        "maxmin_weights": np.asarray(best.q).tolist(),
        "maxmin_gap": float(best.gap),
    }


def pareto(seed: int) -> dict[str, Any]:
    """Utilities along fixed weights of the groups: the front of what the KL allows at this β."""
    rewards = groups_rewards(seed)
    front = [(policy_of(rewards @ [weight, 1 - weight]) @ rewards).tolist() for weight in FRONT]
    single = policy_of(single_reward(rewards, PARETO_SHARE)) @ rewards
    return {"weights": FRONT.tolist(), "front": front, "single": single.tolist(),
            "maxmin": measure(seed, PARETO_SHARE)["maxmin_utility"]}  # fmt: skip


@styled
def figure(results: dict[str, Any]) -> Any:
    """Four panels: mismatch, accuracy, utilities, and the Pareto front of the first seed."""
    drawn = new_figure(7.2)
    (upper_left, upper_right), (lower_left, lower_right) = drawn.subplots(2, 2)
    shares = 100 * np.array(results["shares"])

    def curve(axes: Any, key: str, group: int | None, **style: Any) -> None:
        rows = [[row[key] if group is None else row[key][group] for row in rows]
                for rows in results["by_share"]]  # fmt: skip
        values = np.array(rows)
        axes.plot(shares, values.mean(axis=1), **style)
        axes.fill_between(shares, values.min(1), values.max(1), color=style["color"], alpha=0.15,
                          linewidth=0)  # fmt: skip

    names = ("majority", "minority")
    for group, name in enumerate(names):
        color = SERIES[group]
        curve(upper_left, "mismatch", group, color=color, label=f"{name}: single reward is off by")
        curve(upper_right, "accuracy", group, color=color, label=f"{name}: single reward")
        curve(upper_right, "best_accuracy", group, color=color, linestyle=":",
              label=f"{name}: own reward")  # fmt: skip
        curve(lower_left, "single_utility", group, color=color, label=f"{name}: single reward")
        curve(lower_left, "maxmin_utility", group, color=color, linestyle="--",
              label=f"{name}: MaxMin")  # fmt: skip
    curve(upper_left, "bound", None, color=INK, linestyle=":",
          label="the worse off is off by at least")  # fmt: skip
    upper_left.set_title("Mismatch, in total variation of a choice")
    upper_right.set_title("Accuracy on each group's own choices")
    lower_left.set_title("Utility of the policy")
    for axes in (upper_left, upper_right, lower_left):
        axes.set_xlabel("the minority's share, %")
        axes.grid(axis="y")
        axes.legend(fontsize=8)
    front = results["pareto"]
    lower_right.plot(*np.array(front["front"]).T, color=MUTED, label="fixed group weights")
    for name, marker, color in (("single", "s", SERIES[1]), ("maxmin", "*", SERIES[0])):
        label = "MaxMin" if name == "maxmin" else "single reward, 20 % minority"
        lower_right.plot(*front[name], marker, color=color, markersize=12, label=label)
    lower_right.set_title("Pareto front of the two groups")
    lower_right.set_xlabel("majority's utility")
    lower_right.set_ylabel("minority's utility")
    lower_right.grid()
    lower_right.legend(fontsize=8)
    return drawn


def main() -> None:
    """Measure, write the results and draw them."""
    by_share = [[measure(seed, share) for seed in SEEDS] for share in SHARES]
    record = {
        "num_items": NUM_ITEMS, "cosine": COSINE, "beta": BETA, "seeds": list(SEEDS),
        "shares": SHARES, "versions": versions(), "by_share": by_share, "pareto": pareto(0),
    }  # fmt: skip
    text = json.dumps(record, indent=2) + "\n"
    (HERE / "results.json").write_text(text, encoding="utf-8")
    figure(json.loads(text)).savefig(HERE / "figure.png", dpi=120, facecolor="white")
    for share, rows in zip(SHARES, by_share, strict=True):
        mean = {key: np.mean([row[key] for row in rows], axis=0) for key in
                ("mismatch", "bound", "accuracy", "single_utility", "maxmin_utility")}  # fmt: skip
        print(f"{share:4.2f}", {key: np.round(value, 3).tolist() for key, value in mean.items()})


if __name__ == "__main__":
    main()
