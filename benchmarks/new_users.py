"""How many new users a second does `fit_simplex` place among the prototypes?

    python benchmarks/new_users.py

All users in one compiled call, from margins of standard deviation 1 and a uniform prior of
strength 1, to a gap of at most 1e-5 nats in float32 (1e-10 in float64). The first row, n = 20 and
K = 8 in float32, is the one that the README quotes. Compile time stands apart. Beside it stands the
published procedure in torch (see `peers.published_new_users`), with the settings of its
configurations: AdamW at 5e-3, 4 comparisons a batch, 20 epochs.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from paljax.kernels import SimplexFit, fit_simplex
from paljax.runs import versions

STRENGTH = 1.0
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


class Problem(NamedTuple):
    """One row of the table."""

    comparisons: int  # n
    prototypes: int  # K
    dtype: str
    users: int


PROBLEMS = (
    Problem(20, 8, "float32", 100_000),
    Problem(5, 3, "float32", 100_000),
    Problem(20, 3, "float32", 100_000),
    Problem(100, 8, "float32", 20_000),
    Problem(20, 32, "float32", 5_000),
    Problem(20, 8, "float64", 50_000),
)


def measure(problem: Problem, rounds: int) -> dict[str, Any]:
    """Users a second, one compiled call a round; the first call is not counted."""
    with jax.enable_x64(problem.dtype == "float64"):
        shape = (problem.users, problem.comparisons, problem.prototypes)
        margins = jnp.asarray(np.random.default_rng(0).normal(size=shape), problem.dtype)
        mask = jnp.ones(shape[:2], problem.dtype)
        prior = jnp.full(problem.prototypes, 1 / problem.prototypes, problem.dtype)

        def fit_all(margins: jax.Array, mask: jax.Array, prior: jax.Array) -> SimplexFit:
            tolerance = TOLERANCE[problem.dtype]
            return fit_simplex(margins, mask, prior=prior, strength=STRENGTH, tolerance=tolerance)

        started = time.perf_counter()
        compiled = jax.jit(fit_all).lower(margins, mask, prior).compile()
        compile_s = time.perf_counter() - started
        gap, iterations = map(np.asarray, compiled(margins, mask, prior)[1::2])
        rates = []
        for _ in range(rounds):
            started = time.perf_counter()
            jax.block_until_ready(compiled(margins, mask, prior))
            rates.append(problem.users / (time.perf_counter() - started))
    return problem._asdict() | {
        "users_per_s": statistics.median(rates),
        "users_per_s_range": [min(rates), max(rates)],
        "max_gap": float(gap.max()),
        "mean_iterations": float(iterations.mean()),
        "max_iterations": int(iterations.max()),
        "compile_s": compile_s,
    }


# config/optim_config/vanilla-e20.yaml and config/prefLearner_config of the published code.
PUBLISHED = {"epochs": 20, "batch_size": 4, "learning_rate": 5e-3}
# So few that a fit takes seconds; AdamW walks through all users in each step, more cost more each.
PUBLISHED_USERS = 50


def against_published(rounds: int) -> dict[str, Any] | None:
    """Time the first problem beside an epoch of the published procedure; None without torch."""
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed (pip install '.[bench]'): no published procedure beside it")
        return None
    import torch

    from benchmarks import peers

    torch.set_num_threads(1)  # operations so small that threads would only cost the peer time
    problem = PROBLEMS[0]
    shape = (problem.users, problem.comparisons, problem.prototypes)
    margins = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mask = jnp.ones(shape[:2])
    prior = jnp.full(problem.prototypes, 1 / problem.prototypes)

    @jax.jit
    def fit_all(margins: jax.Array) -> SimplexFit:
        return fit_simplex(margins, mask, prior=prior, strength=STRENGTH, tolerance=1e-5)

    few = margins[:PUBLISHED_USERS]
    epoch, weights = peers.published_new_users(
        few,
        batch_size=int(PUBLISHED["batch_size"]),
        learning_rate=PUBLISHED["learning_rate"],
    )
    on_device = jnp.asarray(margins)
    timings = measuring.interleaved(
        {"paljax": lambda: jax.block_until_ready(fit_all(on_device)), "published epoch": epoch},
        rounds=rounds,
    )
    for _ in range(int(PUBLISHED["epochs"]) - 2 - rounds):  # two of which warmed up
        epoch()
    epochs_a_fit = PUBLISHED["epochs"] * problem.users / len(few)
    ratio = measuring.ratio(timings["published epoch"], timings["paljax"])
    ours = np.asarray(fit_all(on_device)[0])[: len(few)]
    return {
        **PUBLISHED,
        "users": len(few),
        "ratio": {name: epochs_a_fit * value for name, value in ratio._asdict().items()},
        "ratio_of_one_epoch": ratio.median * problem.users / len(few),
        "nats_a_user": {
            "paljax": _objective(few, ours),
            "published": _objective(few, weights()),
        },
        "timings": {name: timing.record() for name, timing in timings.items()},
    }


def _objective(margins: Any, weights: Any) -> float:
    """What is minimised, a user: comparisons' loss and the prior's."""
    margin = np.einsum("unk,uk->un", margins, weights)
    prior = -STRENGTH * np.log(np.maximum(weights, 1e-30)).mean(axis=1)
    return float((np.logaddexp(0, -margin).sum(axis=1) + prior).mean())


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/new_users.json"))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(
        f"{'n':>4} {'K':>3} {'dtype':>8} {'users/s':>9} {'min-max':>19} {'max gap':>8} "
        f"{'iterations':>15} {'compile s':>10}"
    )
    results = []
    for problem in PROBLEMS:
        row = measure(problem, options.rounds)
        results.append(row)
        low, high = row["users_per_s_range"]
        iterations = f"{row['mean_iterations']:.1f} (max {row['max_iterations']})"
        print(
            f"{problem.comparisons:>4} {problem.prototypes:>3} {problem.dtype:>8} "
            f"{row['users_per_s']:>9,.0f} {f'{low:,.0f}-{high:,.0f}':>19} {row['max_gap']:>8.1e} "
            f"{iterations:>15} {row['compile_s']:>10.2f}",
            flush=True,
        )
    published = against_published(min(options.rounds, 5))
    if published is not None:
        found = measuring.Ratio(**published["ratio"])
        nats = published["nats_a_user"]
        print(
            f"published procedure / paljax, time a user, {PUBLISHED['epochs']} epochs: {found}; "
            f"one epoch: {published['ratio_of_one_epoch']:,.0f}; left at "
            f"{nats['published']:.4f} nats a user, paljax {nats['paljax']:.4f}"
        )
    record = {
        "question": "new users a second",
        "published": published,
        "strength": STRENGTH,
        "tolerance": TOLERANCE,
        "machine": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": os.environ.get("OMP_NUM_THREADS", "one a core"),
            "backend": jax.default_backend(),
        },
        "versions": versions(),
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
