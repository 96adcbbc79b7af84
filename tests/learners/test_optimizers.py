"""The learning rate's schedule: as optax has it, for any length under one compiled program."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from paljax.learners.optimizers import (
    PARAMETER_GROUPS,
    SCHEDULES,
    OptimizerSettings,
    by_group,
    rate_factor,
    with_weight_decay,
)


def settings(schedule: str, warmup_fraction: float) -> OptimizerSettings:
    return OptimizerSettings({}, {}, schedule, warmup_fraction, clip_norm=None)


def with_optax(schedule: str, warmup_fraction: float, num_steps: int) -> optax.Schedule:
    warmup = math.ceil(warmup_fraction * num_steps)
    after = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, max(num_steps - warmup, 1)),
        "linear": optax.linear_schedule(1.0, 0.0, max(num_steps - warmup, 1)),
    }[schedule]
    before = optax.linear_schedule(1 / (warmup + 1), 1.0, warmup)
    return optax.join_schedules([before, after], [warmup])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.25, 1.0])
def test_the_factor_is_that_of_optax(schedule, warmup_fraction):
    factor = jax.jit(
        lambda step, steps: rate_factor(settings(schedule, warmup_fraction), step, steps)
    )
    for num_steps in (1, 4, 40):
        expected = with_optax(schedule, warmup_fraction, num_steps)
        steps = np.arange(num_steps + 3)
        found = [factor(step, num_steps) for step in steps]
        assert_allclose(found, [expected(step) for step in steps], atol=1e-6)
    assert factor._cache_size() == 1


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_ends_at_zero_and_stays_there(schedule):
    factors = [
        rate_factor(settings(schedule, 0.1), jnp.asarray(s), jnp.asarray(20)) for s in (20, 99)
    ]
    assert_allclose(factors, 0, atol=1e-7)


def test_decay_is_that_of_adamw_and_changes_in_the_state():
    chosen = OptimizerSettings(
        learning_rate=dict.fromkeys(PARAMETER_GROUPS, 0.1),
        weight_decay=dict.fromkeys(PARAMETER_GROUPS, 0.3),
        schedule="constant",
        warmup_fraction=0.0,
        clip_norm=None,
    )
    params = {"shared": jnp.array([2.0, -1.0]), "prototypes": jnp.array([3.0])}
    gradient = {"shared": jnp.array([0.5, 0.1]), "prototypes": jnp.array([-0.2])}
    tree, gradients = (params, ()), (gradient, ())
    ours = by_group(chosen)
    state = with_weight_decay(ours.init(tree), "networks", 0.7)
    found, state = ours.update(gradients, state, tree)
    again, _ = ours.update(gradients, state, tree)
    for name, decay in {"shared": 0.7, "prototypes": 0.3}.items():
        theirs = optax.adamw(0.1, weight_decay=decay)
        theirs_state = theirs.init(params[name])
        for updates in (found, again):
            expected, theirs_state = theirs.update(gradient[name], theirs_state, params[name])
            assert_allclose(updates[0][name], expected, rtol=1e-5)
