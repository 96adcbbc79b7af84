"""How many comparisons a second does the E-step assign?

    python benchmarks/e_step.py

`responsibilities` of K = 8 groups for a million comparisons of 50,000 users in float32, with the
comparisons sorted by user, as the learner keeps them, and in random order. Wanted on 2 cores: a
million comparisons a second. Compile time stands apart.
"""

import argparse
import json
import os
import platform
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paljax.kernels import responsibilities
from paljax.runs import versions

NUM_GROUPS = 8
NUM_COMPARISONS = (10**4, 10**5, 10**6)
COMPARISONS_PER_USER = 20


def comparisons(count: int, order: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Margins, users and the log of the groups' sizes."""
    generator = np.random.default_rng(0)
    users = generator.integers(0, count // COMPARISONS_PER_USER, count)
    if order == "sorted":
        users = np.sort(users)
    margins = generator.normal(size=(count, NUM_GROUPS))
    log_sizes = np.log(generator.dirichlet(np.ones(NUM_GROUPS)))
    return (
        jnp.asarray(margins, jnp.float32),
        jnp.asarray(users, jnp.int32),
        jnp.asarray(log_sizes, jnp.float32),
    )


def measure(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds an E-step and comparisons a second, rounds taken in turn."""
    cases = [(count, order) for count in NUM_COMPARISONS for order in ("sorted", "random")]
    compiled, data, compile_s = {}, {}, {}
    for count, order in cases:
        data[count, order] = comparisons(count, order)
        e_step = jax.jit(partial(responsibilities, num_users=count // COMPARISONS_PER_USER))
        started = time.perf_counter()
        compiled[count, order] = e_step.lower(*data[count, order]).compile()
        compile_s[count, order] = time.perf_counter() - started
    times: dict[tuple[int, str], list[float]] = {case: [] for case in cases}
    for _ in range(rounds + 1):
        for case in cases:
            started = time.perf_counter()
            jax.block_until_ready(compiled[case](*data[case]))
            times[case].append(time.perf_counter() - started)
    # The first round warms caches up; it is not counted.
    return [
        {
            "comparisons": count,
            "order": order,
            "ms": 1e3 * statistics.median(times[count, order][1:]),
            "ms_range": [1e3 * min(times[count, order][1:]), 1e3 * max(times[count, order][1:])],
            "comparisons_per_s": count / statistics.median(times[count, order][1:]),
            "compile_s": compile_s[count, order],
        }
        for count, order in cases
    ]


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/e_step.json"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    results = measure(options.rounds)
    head = f"{'comparisons':>12} {'order':>8} {'ms':>8} {'min-max':>16} {'a second':>14}"
    print(f"{head} {'compile s':>10}")
    for row in results:
        low, high = row["ms_range"]
        size = f"{row['comparisons']:>12,} {row['order']:>8}"
        print(
            f"{size} {row['ms']:>8.2f} {low:>8.2f}-{high:<7.2f} "
            f"{row['comparisons_per_s']:>14,.0f} {row['compile_s']:>10.2f}"
        )
    record = {
        "question": f"comparisons a second of the E-step at K = {NUM_GROUPS}",
        "dtype": "float32",
        "machine": {"processor": platform.machine(), "cores": len(os.sched_getaffinity(0))},
        "versions": versions(),
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
