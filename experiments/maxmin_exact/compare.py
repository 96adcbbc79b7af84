"""The sampled learner against the exact optimum, for every objective, on four finite problems.

    python experiments/maxmin_exact/compare.py [--seeds 5]

A has one prompt and three actions; B five actions and three groups; D short sequences; and with two
prompts, on which other groups can be served, the least of expectations over all prompts and the
expectation of the least differ. Every policy is valued by what it gives the worst-off group, less β
KL; `single` is trained for the first group. Writes results.json and figure.png beside this file.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from paljax.config import PolicyConfig, parse
from paljax.policy.problems import Problem, build_problem
from paljax.policy.results import Exact, exact_scores, optima, total_variation
from paljax.policy.tasks import policy_task
from paljax.reporting.drawing import INK, MUTED, SERIES, new_figure, styled
from paljax.runs import versions

HERE = Path(__file__).parent
OBJECTIVES = (
    "maxmin", "cvar", "maxmin_per_prompt", "maxmin_per_sample", "utilitarian", "single",
)  # fmt: skip
ALPHA = 0.75
SHARED: dict[str, Any] = {
    "stage": "policy",
    "normalize": "none",
    "rollouts": {"samples": 256},
    "training": {"epochs": 20, "steps_per_epoch": 100},
}
CASES: dict[str, dict[str, Any]] = {
    "A: three actions": {
        "rewards": {"name": "table", "rewards": [[[1, 0], [0, 1], [0.4, 0.4]]]},
        "groups": {"names": ["first", "second"], "shares": [0.8, 0.2]},
        "beta": 0.1,
    },
    "B: three groups": {
        "rewards": {
            "name": "table",
            "rewards": [
                [
                    [1, -0.5, 0.3],
                    [-0.6, 1.2, 0.2],
                    [0.4, 0.5, 0.9],
                    [0.1, 0, -0.4],
                    [0.7, -0.1, 1.5],
                ]
            ],
            "reference": [[0.10, 0.15, 0.20, 0.40, 0.15]],
        },
        "beta": 0.5,
    },
    "two prompts": {
        "rewards": {
            "name": "table",
            "rewards": [[[1, 0], [0, 1], [0.4, 0.4]], [[0.1, 1], [0, 0], [-0.1, -1]]],
        },
        "groups": {"names": ["first", "second"], "shares": [0.8, 0.2]},
        "beta": 0.2,
    },
    "D: sequences": yaml.safe_load((HERE / "sequences.yaml").read_text(encoding="utf-8")),
}


def trained(config: PolicyConfig, problem: Problem, seeds: int) -> tuple[Any, Any]:
    """Policies of the last iterate and of averaged weights, [seeds, X, Y] each."""
    task = policy_task(config, problem)
    actions = problem.policy.actions
    assert actions is not None
    steps = config.training.epochs * config.training.steps_per_epoch
    prompts = jnp.arange(problem.num_prompts)
    batch = task.to_batch(task.tables, (prompts, jnp.asarray(problem.prompt_weights, jnp.float32)))

    @jax.jit
    def run(key: Any) -> Any:
        step = partial(task.learner.step, batch=batch)
        state, _ = jax.lax.scan(lambda state, _: step(state), task.learner.init(key), length=steps)
        return [jnp.exp(actions.log_policy(p, prompts)) for p in (state.params, state.average)]

    last, average = jax.vmap(run)(jax.vmap(jax.random.key)(jnp.arange(seeds)))
    return np.asarray(last, float), np.asarray(average, float)


def optimum(problem: Problem, objective: str, beta: float) -> Exact:
    """The exact policy of an objective."""
    if objective != "single":
        return optima(problem, beta, ALPHA)[objective]
    # With all the people in the first group it is the majority.
    alone = np.eye(len(problem.groups.names))[0]
    of_first = problem._replace(groups=problem.groups._replace(shares=alone))
    return optima(of_first, beta, ALPHA)["majority"]


def compare(case: str, seeds: int) -> dict[str, Any]:
    """Distances and values of one case, by objective."""
    rows: dict[str, Any] = {}
    for objective in OBJECTIVES:
        options = {"alpha": ALPHA} if objective == "cvar" else {}
        record = SHARED | CASES[case] | {"objective": {"name": objective} | options}
        config = parse(record, where=case)
        assert isinstance(config, PolicyConfig)
        problem = build_problem(config)
        best = optimum(problem, objective, config.beta)
        score = partial(exact_scores, problem, against={}, beta=config.beta)
        iterates = dict(
            zip(("last", "average_weights"), trained(config, problem, seeds), strict=True)
        )
        rows[objective] = {
            "exact_value": score(best.policy)["value"],
            "gap": best.gap,
            **{
                iterate: {
                    "value": [score(policy)["value"] for policy in policies],
                    "total_variation": [
                        total_variation(policy, best.policy, problem.prompt_weights)
                        for policy in policies
                    ],
                }
                for iterate, policies in iterates.items()
            },
        }
        worst = max(rows[objective]["average_weights"]["total_variation"])
        print(f"{case:<16} {objective:<18} value {rows[objective]['exact_value']:8.4f}, "
              f"largest distance {worst:.4f}", flush=True)  # fmt: skip
    return rows


@styled
def figure(results: dict[str, Any]) -> Any:
    """Values of every seed beside the exact ones."""
    drawn = new_figure(3.8)
    panels = drawn.subplots(1, len(results), sharey=True)
    for axes, (case, rows) in zip(panels, results.items(), strict=True):
        for height, (objective, row) in enumerate(rows.items()):
            color = SERIES[0] if objective == "maxmin" else MUTED
            axes.plot(
                [row["exact_value"]] * 2, [height - 0.3, height + 0.3], color=INK, linewidth=2
            )
            values = row["average_weights"]["value"]
            axes.plot(values, np.full(len(values), height), "o", color=color, alpha=0.6)
        axes.set_title(case)
        axes.set_xlabel("MaxMin value")
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_yticks(range(len(OBJECTIVES)), [name.replace("_", " ") for name in OBJECTIVES])
    panels[0].invert_yaxis()
    return drawn


def main() -> None:
    """Run all cases and write the results and the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    results = {case: compare(case, seeds) for case in CASES}
    record = {"seeds": seeds, "alpha": ALPHA, "versions": versions(), "cases": results}
    text = json.dumps(record, indent=2) + "\n"
    (HERE / "results.json").write_text(text, encoding="utf-8")
    figure(json.loads(text)["cases"]).savefig(HERE / "figure.png", dpi=120, facecolor="white")


if __name__ == "__main__":
    main()
