"""The learning rate's schedule: as optax has it, for any length under one compiled program."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from paljax.learners.optimizers import SCHEDULES, OptimizerSettings, rate_factor


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
