"""Does a training step cost more when there are more users?

    python benchmarks/users.py

One step of PAL-A (item width 384, latent width 64, K = 8, 1,024 comparisons) with 10^2 to 10^7
users, measured in turn in one process, so that a drift of the machine's speed meets all of them.
The ratios to the smallest number of users are what to read; compile time stands apart.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.plain_adamw import PLAIN_ADAMW
from paljax import models
from paljax.data.batches import Batch
from paljax.learners.fit_by_gradient import FitState, fit_by_gradient
from paljax.learners.losses import LOSSES
from paljax.runs import versions

ITEM_WIDTH, LATENT_WIDTH, NUM_PROTOTYPES, BATCH_SIZE = 384, 64, 8, 1024
NUM_USERS = (10**2, 10**4, 10**6, 10**7)
STEPS_PER_ROUND = 10


def batch_for(num_users: int, seed: int) -> Batch:
    """A batch of distinct items, its users drawn from all."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, num_users, BATCH_SIZE)
    users, user = np.unique(rows, return_inverse=True)
    padded = num_users + np.arange(BATCH_SIZE)
    padded[: len(users)] = users
    ones = jnp.ones(BATCH_SIZE)
    return Batch(
        items=jnp.asarray(generator.normal(size=(2 * BATCH_SIZE, ITEM_WIDTH)), jnp.float32),
        prompts=None,
        users=jnp.asarray(np.sort(padded), jnp.int32),
        chosen=jnp.arange(BATCH_SIZE),
        rejected=BATCH_SIZE + jnp.arange(BATCH_SIZE),
        prompt=jnp.zeros(BATCH_SIZE, jnp.int32),
        user=jnp.asarray(user, jnp.int32),
        weight=ones,
        target=ones,
        prior_share=ones,
        present=ones > 0,
    )


def compiled_step(num_users: int) -> tuple[Any, FitState, float]:
    """The step that owns its state, the first state, and the seconds that compiling took."""
    learner = fit_by_gradient(
        models.pal_a(num_prototypes=NUM_PROTOTYPES, latent_width=LATENT_WIDTH, hidden_layers=1),
        example_items=jnp.zeros((1, ITEM_WIDTH)),
        example_prompts=None,
        num_users=num_users,
        loss=LOSSES["logistic"],
        prior_strength=2.0,
        optimizer=PLAIN_ADAMW,
    )
    state = jax.jit(learner.init)(jax.random.key(0))
    started = time.perf_counter()
    step = jax.jit(learner.step, donate_argnums=0).lower(state, batch_for(num_users, 0)).compile()
    return step, state, time.perf_counter() - started


def measure(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds a step for every number of users, rounds taken in turn."""
    steps, states, compile_s = {}, {}, {}
    batches = {users: [batch_for(users, seed) for seed in range(4)] for users in NUM_USERS}
    for users in NUM_USERS:
        steps[users], states[users], compile_s[users] = compiled_step(users)
    times: dict[int, list[float]] = {users: [] for users in NUM_USERS}
    for _ in range(rounds + 1):
        for users in NUM_USERS:
            jax.block_until_ready(states[users])
            started = time.perf_counter()
            for number in range(STEPS_PER_ROUND):
                states[users], _ = steps[users](states[users], batches[users][number % 4])
            jax.block_until_ready(states[users])
            times[users].append(1e3 * (time.perf_counter() - started) / STEPS_PER_ROUND)
    # The first round warms caches up; it is not counted. Ratios are taken round by round.
    counted = {users: times[users][1:] for users in NUM_USERS}
    smallest = counted[NUM_USERS[0]]
    return [
        {
            "users": users,
            "step_ms": statistics.median(counted[users]),
            "step_ms_range": [min(counted[users]), max(counted[users])],
            "ratio": statistics.median(
                own / least for own, least in zip(counted[users], smallest, strict=True)
            ),
            "compile_s": compile_s[users],
        }
        for users in NUM_USERS
    ]


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/users.json"))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    results = measure(options.rounds)
    print(f"{'users':>12} {'ms a step':>10} {'min-max':>16} {'ratio':>6} {'compile s':>10}")
    for row in results:
        low, high = row["step_ms_range"]
        print(
            f"{row['users']:>12,} {row['step_ms']:>10.2f} {low:>8.2f}-{high:<7.2f} "
            f"{row['ratio']:>6.2f} {row['compile_s']:>10.2f}"
        )
    record = {
        "question": "step time against the number of users",
        "dtype": "float32",
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
