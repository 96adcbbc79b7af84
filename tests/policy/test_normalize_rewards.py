"""Normalised rewards against loops, what they don't depend on, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from paljax.errors import UserError
from paljax.policy.normalize_rewards import (
    apply,
    at_prompts,
    calibrate,
    normalize,
    require_finite,
    require_varied,
)
from tests.kernels import twins

X, Y, K, BETA = 3, 5, 4, 0.7
KINDS = ["reference", "regret", "win_rate", "none"]
RANDOM = np.random.default_rng(0)
REWARDS = RANDOM.normal(size=(X, Y, K)) * [1, 3, 0.2, 1]
REFERENCE = np.log(RANDOM.dirichlet(np.ones(Y), X))
WEIGHTS = np.array([0.5, 0.2, 0.3])  # of prompts
every_kind = pytest.mark.parametrize("kind", KINDS)


def exact(kind, rewards=REWARDS, reference=REFERENCE, weights=WEIGHTS):
    with jax.enable_x64(True):
        arrays = (jnp.asarray(array) for array in (rewards, reference, weights))
        table = normalize(*arrays, kind=kind, beta=BETA)
        assert table.dtype == jnp.float64
        return np.asarray(table)


@every_kind
def test_equals_its_twin(kind):
    expected = twins.normalize(REWARDS, REFERENCE, WEIGHTS, kind=kind, beta=BETA)
    assert_allclose(exact(kind), expected, rtol=1e-12, atol=1e-12)
    single = normalize(
        *(jnp.asarray(array, jnp.float32) for array in (REWARDS, REFERENCE, WEIGHTS)),
        kind=kind,
        beta=BETA,
    )
    assert_allclose(single, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["reference", "regret", "win_rate"])
def test_the_level_of_a_prompt_means_nothing(kind):
    levels = np.random.default_rng(1).normal(size=(X, 1, K)) * 10
    assert_allclose(exact(kind, REWARDS + levels), exact(kind), rtol=1e-9, atol=1e-9)


def test_the_scale_of_a_group_means_nothing_after_reference():
    scales = np.array([0.1, 2, 30, 1])
    assert_allclose(exact("reference", REWARDS * scales), exact("reference"), rtol=1e-10)


def test_under_the_reference_groups_have_mean_zero_and_spread_one():
    table, reference = exact("reference"), np.exp(REFERENCE)[:, :, None]
    assert_allclose((reference * table).sum(axis=1), 0, atol=1e-12)
    assert_allclose(WEIGHTS @ (reference * table**2).sum(axis=1), 1, rtol=1e-12)


def test_regret_is_the_distance_to_what_a_group_could_have_alone():
    # π_k ∝ π_ref exp(r_k / β) has reward minus β KL equal to the centre, so regret 0 on balance.
    table = exact("regret")
    for k in range(K):
        log_policy = REFERENCE + REWARDS[:, :, k] / BETA
        log_policy -= np.log(np.exp(log_policy).sum(axis=1, keepdims=True))
        kl = (np.exp(log_policy) * (log_policy - REFERENCE)).sum(axis=1)
        assert_allclose((np.exp(log_policy) * table[:, :, k]).sum(axis=1), BETA * kl, atol=1e-12)


def test_the_reference_wins_half_of_the_time_against_itself():
    rates = exact("win_rate")
    assert_allclose((np.exp(REFERENCE)[:, :, None] * rates).sum(axis=1), 0.5, rtol=1e-12)
    assert 0 < rates.min() < rates.max() < 1


@every_kind
def test_responses_that_the_reference_never_gives_do_not_count(kind):
    with_more = np.concatenate([REWARDS, np.full((X, 1, K), 50.0)], axis=1)
    never = np.concatenate([REFERENCE, np.full((X, 1), -np.inf)], axis=1)
    found = exact(kind, with_more, never)
    assert np.isfinite(found).all()
    assert_allclose(found[:, :Y], exact(kind), rtol=1e-10)


@every_kind
def test_prompts_of_no_weight_do_not_count(kind):
    with_more = np.concatenate([REWARDS, 50 * REWARDS[:1]])
    reference = np.concatenate([REFERENCE, REFERENCE[1:2]])
    found = exact(kind, with_more, reference, np.append(WEIGHTS, 0))
    assert_allclose(found[:X], exact(kind), rtol=1e-12)


@every_kind
def test_many_samples_calibrate_as_the_whole_table(kind):
    draws = 40_000
    rows = np.stack([RANDOM.choice(Y, draws, p=np.exp(REFERENCE[x])) for x in range(X)])
    samples = np.take_along_axis(REWARDS, rows[:, :, None], axis=1)
    weights = jnp.asarray(WEIGHTS, jnp.float32)
    calibration = calibrate(
        jnp.asarray(samples, jnp.float32), kind=kind, beta=BETA, prompt_weights=weights
    )
    table = apply(calibration, jnp.asarray(REWARDS, jnp.float32))
    assert_allclose(table, exact(kind), atol=0.05)
    order = jnp.array([2, 0])
    some = apply(at_prompts(calibration, order), jnp.asarray(REWARDS, jnp.float32)[order])
    assert_allclose(some, table[order], rtol=1e-5, atol=1e-6)


def test_the_variance_of_few_samples_is_not_too_small():
    samples = jnp.asarray(RANDOM.normal(size=(20_000, 2, 1)) * 3, jnp.float32)
    assert_allclose(calibrate(samples).scale, 3, rtol=0.02)


def test_a_constant_reward_keeps_its_unit_and_is_refused_at_the_border():
    rewards = jnp.full((X, Y, 1), 1.1)
    reference = jnp.asarray(REFERENCE, jnp.float32)
    for table in (None, reference):
        calibration = calibrate(rewards, log_reference=table)
        assert_allclose(calibration.scale, 1)
        assert_allclose(apply(calibration, rewards), 0, atol=1e-6)
    two = jnp.concatenate([jnp.asarray(REWARDS[:, :, :1], jnp.float32), rewards], axis=2)
    with pytest.raises(UserError, match="group 'P2': its reward is the same for all responses"):
        require_varied(two, ["P1", "P2"], kind="reference")
    require_varied(rewards, ["P1"], kind="regret")
    require_finite(two, ["P1", "P2"])
    with pytest.raises(UserError, match=r"reward 'P2' is not finite \(NaN or infinite\)"):
        require_finite(two.at[0, 0, 1].set(jnp.nan), ["P1", "P2"])


def test_shapes_and_names_that_are_wrong_are_refused():
    rewards, reference, weights = jnp.ones((X, Y, K)), jnp.zeros((X, Y)), jnp.ones(X)
    with pytest.raises(ValueError, match="must be"):
        normalize(rewards[0], reference, weights, kind="none", beta=1.0)
    with pytest.raises(ValueError, match="must be"):
        normalize(rewards, reference[:, :1], weights, kind="none", beta=1.0)
    with pytest.raises(ValueError, match="did you mean 'regret'"):
        normalize(rewards, reference, weights, kind="regrets", beta=1.0)
    with pytest.raises(ValueError, match="two samples"):
        calibrate(rewards[:, :1])


@every_kind
def test_gradients_are_finite(kind):
    def total(rewards):
        others = (jnp.asarray(array, jnp.float32) for array in (REFERENCE, WEIGHTS))
        return jnp.sum(normalize(rewards, *others, kind=kind, beta=BETA) ** 2)

    assert np.isfinite(jax.jit(jax.grad(total))(jnp.asarray(REWARDS, jnp.float32))).all()
