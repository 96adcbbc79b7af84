"""How long does a step of a language model policy take: sample, score, gradient?

    python benchmarks/policy_step.py

stories260K, 16 prompts x 8 samples of 64 tokens: 128 sequences, scored by the policy and by the
reference. Every part is one compiled call; the first call is not counted, compile time stands
apart.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from paljax.networks.causal_lm import Compute, Params
from paljax.networks.loading import load_language_model
from paljax.networks.sampling import Prompts
from paljax.policies import Samples
from paljax.policy.language_model import (
    LanguagePolicy,
    language_model_policy,
    left_padded,
)
from paljax.runs import versions

OPENINGS = (
    "Once upon a time, there was a",
    "One day, Tim and his friend",
    "Lily found a big",
    "The little dog was very",
)


def build(
    downloads: Path, prompts: int, max_tokens: int, unroll: int
) -> tuple[LanguagePolicy, Prompts]:
    """stories260K as a policy, and openings of stories."""
    model = load_language_model("stories260k", downloads=downloads)
    texts = [[1, *model.tokenizer.encode(OPENINGS[n % len(OPENINGS)])] for n in range(prompts)]
    policy = language_model_policy(
        model.config, model.params, max_tokens=max_tokens, compute=Compute(unroll=unroll)
    )
    return policy, left_padded(texts, context=model.config.context, max_tokens=max_tokens)


def parts(
    policy: LanguagePolicy, prompts: Prompts, samples: int
) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """The compiled calls of a step, with their arguments."""
    params = policy.init(jax.random.key(0))
    optimizer = optax.adam(1e-4)

    def sample(params: Params, key: jax.Array) -> Samples:
        return policy.sample(params, key, prompts, samples)

    def score(params: Params, drawn: Samples) -> jax.Array:
        return policy.log_probs(params, prompts, drawn.tokens, drawn.mask)

    def score_both(params: Params, reference: Params, drawn: Samples) -> tuple[jax.Array, ...]:
        return score(params, drawn), score(reference, drawn)

    def update(params: Params, state: Any, drawn: Samples) -> tuple[Params, Any]:
        def surrogate(params: Params) -> jax.Array:
            ratio = jnp.exp(score(params, drawn) - drawn.log_probs)
            rewards = drawn.mask.sum(axis=2, dtype=jnp.float32)
            advantages = rewards - rewards.mean(axis=1, keepdims=True)
            return -(ratio * drawn.mask * advantages[..., None]).mean()

        updates, state = optimizer.update(jax.grad(surrogate)(params), state, params)
        return optax.apply_updates(params, updates), state

    # The arguments' values matter little for speed, their shapes do: compile `sample` only once.
    shapes = jax.eval_shape(sample, params, jax.random.key(1))
    drawn = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    return {
        "sample": (sample, (params, jax.random.key(1))),
        "score": (score_both, (params, jax.tree.map(jnp.array, params), drawn)),
        "update": (update, (params, optimizer.init(params), drawn)),
    }


def measure(call: Callable[..., Any], arguments: tuple[Any, ...], rounds: int) -> dict[str, Any]:
    """Seconds a call."""
    started = time.perf_counter()
    compiled = jax.jit(call).lower(*arguments).compile()
    compile_s = time.perf_counter() - started
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": statistics.median(seconds),
        "seconds_range": [min(seconds), max(seconds)],
        "compile_s": compile_s,
    }


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/policy_step.json"))
    parser.add_argument("--downloads", type=Path, default=Path("~/.cache/paljax").expanduser())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--unroll", type=int, default=5, help="layers a step of the scan")
    options = parser.parse_args()
    policy, prompts = build(options.downloads, options.prompts, options.tokens, options.unroll)
    tokens = options.prompts * options.samples * options.tokens
    print(f"{'part':>8} {'s':>8} {'min-max':>17} {'tokens/s':>10} {'compile s':>10}")
    results = {}
    for name, (call, arguments) in parts(policy, prompts, options.samples).items():
        row = results[name] = measure(call, arguments, options.rounds)
        low, high = row["seconds_range"]
        print(
            f"{name:>8} {row['seconds']:>8.3f} {f'{low:.3f}-{high:.3f}':>17} "
            f"{tokens / row['seconds']:>10,.0f} {row['compile_s']:>10.2f}",
            flush=True,
        )
    step = sum(row["seconds"] for row in results.values())
    print(f"{'step':>8} {step:>8.3f}")
    record = {
        "question": "seconds a step of a language model policy",
        "model": "stories260k",
        "sequences": options.prompts * options.samples,
        "new_tokens": options.tokens,
        "unroll": options.unroll,
        "step_s": step,
        "machine": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "backend": jax.default_backend(),
        },
        "versions": versions(),
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
