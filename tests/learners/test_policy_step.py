"""One step of a policy's learner against its definition: weights, averages, clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from paljax.learners.fit_policy import (
    AVERAGE_OVER,
    PolicyOptimizer,
    Rewards,
    Rollouts,
    fit_policy,
)
from paljax.learners.group_weights import GROUP_WEIGHTS
from paljax.learners.objectives import OBJECTIVES
from tests.learners.test_fit_policy import batch_of, case_d, learner_of, table

STEP, FACTOR, TEMPERATURE = 0.3, 0.5, 0.7


def normalised(logs: Any) -> Any:
    return np.exp(logs) / np.exp(logs).sum()


def by_definition(rule: str, q: Any, now: Any, before: Any) -> Any:
    """New weights, written from the rules' equations."""
    if rule == "exponentiated_gradient":
        return normalised([np.log(q[g]) - FACTOR * STEP * now[g] for g in range(3)])
    if rule == "optimistic":
        return normalised(
            [np.log(q[g]) - FACTOR * STEP * (2 * now[g] - before[g]) for g in range(3)]
        )
    if rule == "softmin":
        return normalised([-now[g] / TEMPERATURE for g in range(3)])
    return np.array([1.0 if g == int(np.argmin(now)) else 0.0 for g in range(3)])


@pytest.mark.parametrize("rule", GROUP_WEIGHTS)
def test_weights_follow_utilities_by_definition(rule: str) -> None:
    options = {"softmin": {"temperature": TEMPERATURE}, "argmin": {}}.get(rule, {"step_size": STEP})
    q, now, before = np.array([0.2, 0.5, 0.3]), np.array([0.4, -1.0, 2.0]), np.array([3.0, 1.0, -2])
    follow = GROUP_WEIGHTS[rule](**options)
    found = follow(
        *(jnp.asarray(each, jnp.float32) for each in (np.log(q), now, before, FACTOR)), 1.0
    )
    assert_allclose(np.exp(found), by_definition(rule, q, now, before), rtol=1e-5)


def test_weights_see_a_mean_at_first_and_then_a_moving_average() -> None:
    """With the schedule's factor of each step; smoothing .9, twelve steps: ten means and two."""
    problem, steps = table(), 12
    learner = learner_of(problem, "maxmin", steps, rule="optimistic", learning_rate=1.0)
    step = jax.jit(learner.step)
    state = learner.init(jax.random.key(0))
    schedule = optax.cosine_decay_schedule(1.0, steps)
    log_q, smoothed = np.log(np.full(3, 1 / 3)), np.zeros(3)
    for number in range(steps):
        state, metrics = step(state, batch_of(problem))
        utilities = np.array([metrics[f"utility/{name}"] for name in problem.groups.names])
        keep = min(0.9, number / (number + 1))
        before = smoothed
        smoothed = keep * smoothed + (1 - keep) * utilities
        predicted = 2 * smoothed - (before if number else smoothed)
        log_q = log_q - 0.05 * float(schedule(number)) * predicted
        log_q = np.log(normalised(log_q))
        assert_allclose(state.utilities[0], smoothed, rtol=1e-4)
        assert_allclose(state.log_q[0], log_q, rtol=1e-4)


@pytest.mark.parametrize("samples", [None, 4], ids=["exact", "sampled"])
@pytest.mark.parametrize("name", ["maxmin", "maxmin_per_prompt"])
def test_a_batch_is_weighed_by_what_was_known_before_it(name: str, samples: int | None) -> None:
    """The policy moves as for fixed weights, and then all weight goes to the worst-off group."""
    problem = table()
    shares = problem.groups.shares
    options = {"rule": "argmin", "samples": samples, "learning_rate": 0.5}
    learner = learner_of(problem, name, 10, **options)
    state = learner.init(jax.random.key(4))
    state = state._replace(log_q=jnp.broadcast_to(jnp.log(shares), state.log_q.shape))
    moved, metrics = jax.jit(learner.step)(state, batch_of(problem))
    fixed = learner_of(problem, "utilitarian", 10, **options)
    wanted, _ = jax.jit(fixed.step)(fixed.init(jax.random.key(4)), batch_of(problem))
    assert_allclose(moved.params["tilts"], wanted.params["tilts"], rtol=1e-5)
    assert float(jnp.abs(moved.params["tilts"]).max()) > 0.1
    for g, group in enumerate(problem.groups.names):
        assert metrics[f"weight/{group}"] == pytest.approx(float(shares[g]))
    weights = np.exp(np.asarray(moved.log_q))[moved.visits > 0]
    assert_allclose(np.sort(weights), np.tile([0.0, 0.0, 1.0], (len(weights), 1)))


@pytest.mark.parametrize("samples", [None, 4], ids=["exact", "sampled"])
def test_the_value_of_a_batch_is_of_the_worst_off_up_to_the_cap(samples: int | None) -> None:
    """CVaR of one half of three groups: two thirds of the weight at the worst, the rest next."""
    problem = table()
    learner = learner_of(problem, "cvar", 10, samples=samples)
    _, metrics = jax.jit(learner.step)(learner.init(jax.random.key(0)), batch_of(problem))
    low, middle, _ = sorted(float(metrics[f"utility/{name}"]) for name in problem.groups.names)
    assert middle - low > 0.1
    worst = 2 / 3 * low + 1 / 3 * middle
    assert metrics["value"] == pytest.approx(worst - problem.beta * float(metrics["kl"]), rel=1e-5)


def test_averages_are_over_the_last_part_of_the_steps() -> None:
    problem, steps = table(), 6
    learner = learner_of(problem, "maxmin", steps, learning_rate=0.5)
    step = jax.jit(learner.step)
    state = learner.init(jax.random.key(0))
    held = [np.asarray(state.params["tilts"])]
    policies = [np.exp(problem.policy.actions.log_policy(state.params, jnp.arange(3)))]
    for _ in range(steps):
        state, _ = step(state, batch_of(problem))
        held.append(np.asarray(state.params["tilts"]))
        policies.append(np.exp(problem.policy.actions.log_policy(state.params, jnp.arange(3))))
    # Weights of the iterates, the oldest first: what a later step leaves of an earlier one.
    shares = [1.0] + [(1 + AVERAGE_OVER) / (t + 1 + AVERAGE_OVER) for t in range(steps)]
    weights = [shares[i] * np.prod([1 - s for s in shares[i + 1 :]]) for i in range(steps + 1)]
    assert sum(weights) == pytest.approx(1)
    assert_allclose(state.average["tilts"], np.tensordot(weights, held, 1), atol=1e-5)
    assert_allclose(state.mixture, np.tensordot(weights, policies, 1), atol=1e-5)


def test_ratios_beyond_the_clip_have_no_gradient() -> None:
    """Two updates by plain gradient steps from one set of responses, against loops over tokens."""
    problem, rate, clip, samples = case_d(), 4.0, 0.2, 6
    number = problem.policy.actions.number

    def of_responses(prompts: Any, tokens: Any, mask: Any) -> Any:
        rows = jnp.take(problem.rewards, prompts, axis=0)
        return jnp.take_along_axis(rows, number(tokens, mask)[:, :, None], axis=1)

    def constant(step: Any) -> Any:
        return 1.0

    learner = fit_policy(
        problem.policy, Rewards(of_responses), problem.groups,
        OBJECTIVES["utilitarian"](problem.groups), num_prompts=1,
        follow=GROUP_WEIGHTS["argmin"](), smoothing=0.9, beta=problem.beta,
        rollouts=Rollouts(samples, 2, clip),
        optimizer=PolicyOptimizer(optax.sgd(rate), constant, rate),
    )  # fmt: skip
    state = learner.init(jax.random.key(0))
    start = {"tilts": jax.random.normal(jax.random.key(1), state.params["tilts"].shape)}
    state = state._replace(params=start)
    prompts = jnp.arange(1)
    drawn = problem.policy.sample(start, jax.random.fold_in(state.key, 0), prompts, samples)
    tokens, mask = np.asarray(drawn.tokens[0]), np.asarray(drawn.mask[0])
    old = np.asarray(drawn.log_probs[0])
    reference = np.asarray(
        problem.policy.log_probs(state.reference, prompts, drawn.tokens, drawn.mask)[0]
    )
    rewards = np.asarray(of_responses(prompts, drawn.tokens, drawn.mask)[0]) @ [0.5, 0.5]
    gains = [rewards[i] - problem.beta * (old[i] - reference[i]).sum() for i in range(samples)]
    advantages = [gains[i] - np.mean(np.delete(gains, i)) for i in range(samples)]
    counted, outside, log_probs = [], [], jax.jit(problem.policy.log_probs)

    def loss(params: Any) -> Any:
        now = log_probs(params, prompts, drawn.tokens, drawn.mask)[0]
        total = 0.0
        for i in range(samples):
            for t in range(tokens.shape[1]):
                ratio = jnp.exp(now[i, t] - old[i, t])
                beyond = ratio > 1 + clip if advantages[i] > 0 else ratio < 1 - clip
                counted.append(bool(mask[i, t] and beyond))
                outside.append(bool(mask[i, t] and abs(ratio - 1) > clip))
                if mask[i, t] and not beyond:
                    total = total - ratio * advantages[i] / samples
        return total

    params, shares = start, []
    for _ in range(2):
        outside.clear()
        counted.clear()
        # The gradient keeps to the branches that the values decide.
        params = {"tilts": params["tilts"] - rate * jax.grad(loss)(params)["tilts"]}
        shares.append(sum(outside) / mask.sum())
    assert 0 < sum(counted) < mask.sum() < mask.size
    found, metrics = learner.step(state, batch_of(problem))
    assert_allclose(found.params["tilts"], params["tilts"], atol=2e-5)
    # Of the tokens that there are, at either side of the clip, over both updates.
    assert shares[1] > sum(counted) / mask.sum() > shares[0] == 0
    assert metrics["clipped"] == pytest.approx(np.mean(shares))
