"""fit_simplex against scipy, its certificate, its symmetries and its edges."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from paljax.kernels import (
    SimplexFit,
    fit_simplex,
    fit_simplex_nonlinear,
    folds,
    simplex_blocks,
    simplex_newton,
    simplex_plane,
)
from tests.kernels import twins

U, n, K = 7, 5, 3
PRIOR = np.array([0.5, 0.2, 0.3])
STRENGTH = 1.3
LONG = 1e-11  # a tolerance, in nats, that only float64 reaches


def problem(
    users: int = U, rows: int = n, prototypes: int = K, scale: float = 2.0, seed: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Margins, and sample weights of which some are 0; user 2 has none."""
    random = np.random.default_rng(seed)
    margins = scale * random.normal(size=(users, rows, prototypes))
    mask = random.choice([0.0, 0.5, 1.0, 2.0], size=(users, rows), p=[0.2, 0.1, 0.5, 0.2])
    mask[2:3] = 0
    return margins, mask


def objective(
    weights: np.ndarray, margins: np.ndarray, mask: np.ndarray, prior: np.ndarray, strength: float
) -> float:
    """F of one user, in NumPy."""
    losses = np.logaddexp(0, -margins @ weights)
    return float(mask @ losses - strength * prior @ np.log(weights))


def optimum_by_scipy(
    margins: np.ndarray, mask: np.ndarray, prior: np.ndarray, strength: float
) -> np.ndarray:
    def of_logits(logits: np.ndarray) -> float:
        losses = np.logaddexp(0, -margins @ softmax(logits))
        return float(mask @ losses - strength * prior @ log_softmax(logits))

    found = minimize(of_logits, np.log(prior), method="BFGS", options={"gtol": 1e-9})
    return np.asarray(softmax(found.x))


fit = partial(fit_simplex, prior=PRIOR, strength=STRENGTH, tolerance=LONG)


def test_weights_are_the_optimum_that_scipy_finds(x64: None) -> None:
    margins, mask = problem()
    found = fit(margins, mask)
    for user in range(U):
        expected = optimum_by_scipy(margins[user], mask[user], PRIOR, STRENGTH)
        assert_allclose(found.weights[user], expected, atol=2e-6)
        reached = objective(np.asarray(found.weights[user]), margins[user], mask[user], PRIOR, 1.3)
        assert reached <= objective(expected, margins[user], mask[user], PRIOR, 1.3) + 1e-11
    assert found.gap.max() <= LONG


@pytest.mark.parametrize("prototypes", [2, 3, 14])
def test_covariance_is_the_inverse_hessian_on_the_plane(prototypes: int, x64: None) -> None:
    margins, mask = problem(prototypes=prototypes)
    prior = np.arange(1, prototypes + 1) / np.arange(1, prototypes + 1).sum()
    found = fit_simplex(margins, mask, prior=prior, strength=0.7, tolerance=LONG)
    plane = np.linalg.svd(np.ones((1, prototypes)))[2][1:].T
    for user in range(U):
        weights = np.asarray(found.weights[user])
        chosen = 1 / (1 + np.exp(-margins[user] @ weights))
        hessian = (margins[user].T * (mask[user] * chosen * (1 - chosen))) @ margins[user]
        hessian += np.diag(0.7 * prior / weights**2)
        expected = plane @ np.linalg.inv(plane.T @ hessian @ plane) @ plane.T
        assert_allclose(found.covariance[user], expected, rtol=1e-8, atol=1e-12)
    assert_allclose(found.covariance.sum(axis=2), 0, atol=1e-13)


def test_more_prototypes_than_are_written_out(x64: None) -> None:
    margins, mask = problem(rows=9, prototypes=simplex_plane.COLUMNS_WRITTEN_OUT + 2)
    prior = np.full(margins.shape[2], 1 / margins.shape[2])
    found = fit_simplex(margins, mask, prior=prior, strength=STRENGTH, tolerance=LONG)
    assert found.gap.max() <= LONG
    expected = optimum_by_scipy(margins[0], mask[0], prior, STRENGTH)
    assert_allclose(found.weights[0], expected, atol=2e-6)


def test_more_rows_than_are_written_out(x64: None) -> None:
    rows = 2 * folds.ROWS_WRITTEN_OUT + 3
    margins, mask = problem(users=2, rows=rows)
    found = fit(margins, mask)
    for user in range(2):
        expected = optimum_by_scipy(margins[user], mask[user], PRIOR, STRENGTH)
        assert_allclose(found.weights[user], expected, atol=2e-6)


@pytest.mark.parametrize("tolerance", [3e-1, 1e-2, 1e-4])
def test_gap_bounds_the_distance_to_the_optimum(tolerance: float, x64: None) -> None:
    margins, mask = problem(users=40, rows=8)
    short = fit(margins, mask, tolerance=tolerance)
    best = fit(margins, mask)
    above = [
        objective(np.asarray(short.weights[user]), margins[user], mask[user], PRIOR, STRENGTH)
        - objective(np.asarray(best.weights[user]), margins[user], mask[user], PRIOR, STRENGTH)
        for user in range(40)
    ]
    assert (np.array(above) <= np.asarray(short.gap) + 1e-12).all()
    assert max(above) > 1e-12
    assert (short.gap <= tolerance).all()
    assert (short.iterations <= best.iterations).all()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_float32_reaches_the_default_tolerance(scale: float) -> None:
    random = np.random.default_rng(0)
    margins = (scale * random.normal(size=(1000, 20, 8))).astype(np.float32)
    found = fit_simplex(
        margins, np.ones((1000, 20), bool), prior=np.full(8, 0.125, np.float32), strength=1.0
    )
    assert found.gap.max() <= 1e-5
    assert found.iterations.max() <= 12


def test_every_step_descends_to_its_end(monkeypatch: pytest.MonkeyPatch, x64: None) -> None:
    """The slope of F along a step is negative up to its end, also where curvatures are far apart.

    Sure choices have next to no curvature until a step that others ask for makes them unsure.
    """
    random = np.random.default_rng(0)
    users, prior = 4000, np.array([0.6, 0.3, 0.1])
    size = 10 ** random.uniform(0, 1.5, (users, 3, 1))
    margins = size * random.normal(size=(users, 3, 3))
    mask = 10 ** random.uniform(-2, 2, (users, 3))
    arrays = (margins.transpose(1, 2, 0), mask.T, 0.1 * prior, prior, np.array(LONG))
    reached = []
    for steps in (0, 1, 2, 3):
        monkeypatch.setattr(simplex_newton, "MAX_STEPS", steps)
        weights, derivatives, taken = simplex_newton.minimize(*map(jnp.asarray, arrays))
        assert taken.max() == steps
        reached.append((np.asarray(weights), np.asarray(derivatives.gradient)))
    for (before, _), (after, gradient) in itertools.pairwise(reached):
        assert (gradient * (after - before)).sum(axis=0).max() < 1e-12  # which is rounding


def test_a_user_without_comparisons_gets_the_prior_bit_for_bit() -> None:
    prior = np.array([0.1, 0.2, 0.7], np.float32)
    margins, mask = problem()
    found = fit_simplex(margins.astype(np.float32), mask, prior=prior, strength=STRENGTH)
    assert_array_equal(found.weights[2], prior)
    assert found.gap[2] == 0
    assert found.iterations[2] == 0
    assert_allclose(
        found.covariance[2], (np.diag(prior) - np.outer(prior, prior)) / STRENGTH, atol=1e-7
    )
    nothing = fit_simplex(jnp.zeros((U, 0, K)), jnp.ones((U, 0)), prior=prior, strength=STRENGTH)
    assert_array_equal(nothing.weights, np.broadcast_to(prior, (U, K)))
    assert_array_equal(nothing.gap, np.zeros(U))
    assert_allclose(nothing.covariance[0], found.covariance[2], atol=1e-7)


def test_no_users() -> None:
    found = fit_simplex(jnp.zeros((0, n, K)), jnp.ones((0, n)), prior=PRIOR, strength=STRENGTH)
    assert [x.shape for x in found] == [(0, K), (0,), (0, K, K), (0,)]


@pytest.mark.parametrize("absent", [np.nan, np.inf, -np.inf])
def test_absent_rows_change_nothing(absent: float, x64: None) -> None:
    margins, mask = problem()
    poisoned = np.where(mask[..., None] > 0, margins, absent)
    gradient = jax.grad(lambda m: jnp.sum(fit(m, mask).weights ** 2))
    jax.tree.map(assert_array_equal, fit(poisoned, mask), fit(margins, mask))
    assert_array_equal(gradient(poisoned), gradient(np.asarray(margins)))


def test_a_sample_weight_of_two_is_a_row_given_twice(x64: None) -> None:
    margins, _ = problem()
    twice = np.concatenate([margins, margins[:, 1:2]], axis=1)
    weighted = fit(margins, np.broadcast_to([1.0, 2, 1, 1, 1], (U, n)))
    assert_allclose(weighted.weights, fit(twice, np.ones((U, n + 1))).weights, rtol=1e-9)


def test_permuting_users_rows_and_prototypes(x64: None) -> None:
    margins, mask = problem()
    users, rows, prototypes = [3, 0, 6, 1, 5, 2, 4], [4, 2, 0, 1, 3], [2, 0, 1]
    expected = fit(margins, mask)
    moved = fit(
        margins[users][:, rows][:, :, prototypes], mask[users][:, rows], prior=PRIOR[prototypes]
    )
    weights, covariance = np.asarray(expected.weights), np.asarray(expected.covariance)
    assert_allclose(moved.weights, weights[users][:, prototypes], rtol=1e-8)
    assert_allclose(moved.covariance, covariance[users][:, prototypes][:, :, prototypes], atol=1e-9)


def test_equal_prototypes_share_as_the_prior_does(x64: None) -> None:
    margins, mask = problem()
    equal = np.repeat(margins[:, :, :1], K, axis=2)
    found = fit(equal, mask)
    assert_allclose(found.weights, np.broadcast_to(PRIOR, (U, K)), rtol=1e-9)
    twins = fit(margins[:, :, [0, 1, 1]], mask)
    assert_allclose(twins.weights[:, 1] / twins.weights[:, 2], PRIOR[1] / PRIOR[2], rtol=1e-7)


def test_one_prototype() -> None:
    margins, mask = problem(prototypes=1)
    found = fit_simplex(
        margins.astype(np.float32), mask, prior=np.ones(1, np.float32), strength=STRENGTH
    )
    assert_array_equal(found.weights, np.ones((U, 1)))
    assert_array_equal(found.covariance, np.zeros((U, 1, 1)))
    assert_array_equal(found.gap, np.zeros(U))


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("prior", [PRIOR, np.array([1e-6, 1 - 2e-6, 1e-6])])
def test_large_margins(scale: float, prior: np.ndarray, x64: None) -> None:
    """Where a logistic loss is a kink, the step must still be long enough to arrive."""
    margins, mask = problem(users=50, rows=9, scale=scale)
    separable = np.abs(margins[:10])
    margins = np.concatenate([margins, separable])
    mask = np.concatenate([mask, np.ones((10, 9))])
    found = fit_simplex(margins, mask, prior=prior, strength=STRENGTH, tolerance=1e-7 * scale)
    assert (found.gap <= 1e-7 * scale).all()
    assert found.iterations.max() < simplex_newton.MAX_STEPS
    assert (found.weights > 0).all()

    def sum_of_squares(m: jax.Array) -> jax.Array:
        found = fit_simplex(m, mask.astype(m.dtype), prior=prior.astype(m.dtype), strength=STRENGTH)
        return jnp.sum(found.weights**2)

    single = margins.astype(np.float32)
    for leaf in (
        *fit_simplex(single, mask, prior=prior.astype(np.float32), strength=STRENGTH),
        jax.grad(sum_of_squares)(single),
    ):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e6])
@pytest.mark.parametrize("rare", [1e-12, 1e-30, 0.0])
def test_weights_are_not_negative_in_float32(rare: float, scale: float) -> None:
    """Neither for prototypes that the population all but lacks, nor at margins like cliffs."""
    margins, _ = problem(users=60, rows=9, scale=scale)
    margins = np.concatenate([margins, np.abs(margins[:10])]).astype(np.float32)
    prior = np.array([rare, 1 - 2 * rare, rare], np.float32)
    found = fit_simplex(margins, np.ones((70, 9), np.float32), prior=prior, strength=STRENGTH)
    assert all(np.isfinite(leaf).all() for leaf in found)
    assert (found.weights >= 0).all()
    assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)
    # At margins like cliffs float32 need not arrive; the gap then says so.
    assert scale > 1 or (found.gap <= 2e-5).all()


def test_a_prior_of_zero_is_no_wall(x64: None) -> None:
    """The population lacks prototype 0; one user's choices want it, the other's do not."""
    margins = np.array([[[4.0, 0, 0]] * 6, [[-4.0, 0, 0]] * 6])
    prior = np.array([0, 0.4, 0.6])
    found = fit_simplex(margins, np.ones((2, 6)), prior=prior, strength=0.5, tolerance=1e-9)
    # The others share what is left as the prior does, so the problem is one of a single number.
    for user, want in enumerate((1, -1)):
        best = minimize_scalar(
            lambda w, want=want: 6 * np.logaddexp(0, -4 * want * w) - 0.5 * np.log1p(-w),
            bounds=(0, 1),
            method="bounded",
            options={"xatol": 1e-9},
        ).x
        assert_allclose(found.weights[user], [best, 0.4 * (1 - best), 0.6 * (1 - best)], atol=1e-6)
    assert found.weights[0, 0] > 0.5
    absent = fit_simplex(margins, np.zeros((2, 6)), prior=prior, strength=0.5)
    assert_allclose(absent.weights, np.stack([prior, prior]), atol=1e-12)
    assert np.isfinite(absent.covariance).all()


@pytest.mark.parametrize("field", ["weights", "covariance"])
def test_gradients_are_those_of_the_optimum(field: str, x64: None) -> None:
    margins, mask = problem()

    def found(margins: Any, mask: Any, prior: Any, strength: Any) -> jax.Array:
        fitted = fit_simplex(margins, mask, prior=prior, strength=strength, tolerance=1e-13)
        return jnp.asarray(getattr(fitted, field))

    mask = np.where(mask > 0, mask, 0.3)
    check_grads(found, (margins, mask, PRIOR, STRENGTH), order=1, atol=1e-5, rtol=1e-5)


def test_second_derivatives(x64: None) -> None:
    margins, mask = problem(users=1, rows=3, prototypes=2)
    prior = np.array([0.4, 0.6])

    def found(strength: Any) -> jax.Array:
        return fit(margins, mask, prior=prior, strength=strength, tolerance=1e-13).weights

    check_grads(found, (STRENGTH,), order=2, modes=["fwd", "rev"], atol=1e-4, rtol=1e-4)


def test_gap_carries_no_gradient(x64: None) -> None:
    margins, mask = problem()
    assert_array_equal(jax.grad(lambda m: fit(m, mask).gap.sum())(margins), np.zeros_like(margins))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, x64: None) -> None:
    margins, mask = problem(users=150)
    whole = fit(margins, mask)
    monkeypatch.setattr(simplex_blocks, "NUMBERS_PER_BLOCK", 1)
    monkeypatch.setattr(simplex_blocks, "LEAST_BLOCK", 16)
    jax.clear_caches()
    in_blocks = fit(margins, mask)
    gradient = jax.grad(lambda m: jnp.sum(fit(m, mask).weights ** 2))(margins)
    monkeypatch.undo()
    jax.clear_caches()
    assert_array_equal(in_blocks.iterations, whole.iterations)
    assert_allclose(in_blocks.weights, whole.weights, rtol=1e-9)
    expected = jax.grad(lambda m: jnp.sum(fit(m, mask).weights ** 2))(margins)
    assert_allclose(gradient, expected, atol=1e-9)


def test_vmap_over_problems(x64: None) -> None:
    problems = [problem(seed=seed) for seed in range(3)]
    margins, mask = (np.stack(x) for x in zip(*problems, strict=True))
    strengths = np.array([0.3, 1.0, 5.0])
    batch = jax.vmap(lambda m, k, s: fit(m, k, strength=s))(margins, mask, strengths)
    for i, (one_margins, one_mask) in enumerate(problems):
        one = fit(one_margins, one_mask, strength=strengths[i])
        assert_allclose(batch.weights[i], one.weights, rtol=1e-9)
        assert_array_equal(batch.iterations[i], one.iterations)


def test_bfloat16_is_computed_in_float32() -> None:
    margins, mask = problem()
    narrow = jnp.asarray(margins, jnp.bfloat16)
    prior = jnp.asarray(PRIOR, jnp.bfloat16)
    found = fit_simplex(narrow, mask, prior=prior, strength=STRENGTH)
    assert found.weights.dtype == found.gap.dtype == found.covariance.dtype == jnp.bfloat16
    wide = fit_simplex(
        narrow.astype(jnp.float32), mask, prior=prior.astype(jnp.float32), strength=STRENGTH
    )
    assert_array_equal(found.weights, wide.weights.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margins": np.zeros((n, K))}, "wanted margins"),
        ({"margins": np.zeros((U, n, 1))}, "wanted margins"),
        ({"mask": np.zeros((U, 1))}, "wanted margins"),
        ({"prior": np.ones((U, K))}, "wanted margins"),
        ({"margins": np.zeros((U, n, 0)), "prior": np.zeros(0)}, "at least one prototype"),
        ({"strength": np.ones(U)}, "strength must be one number"),
        ({"tolerance": np.ones(K)}, "tolerance must be one number"),
    ],
)
def test_wrong_shapes(arguments: dict[str, Any], message: str) -> None:
    given = {"margins": np.zeros((U, n, K)), "mask": np.ones((U, n)), "prior": PRIOR, "strength": 1}
    with pytest.raises(ValueError, match=message):
        fit_simplex(**(given | arguments))


# --- margins that are not linear in the weights ---------------------------------------------------


def linear(weights: jax.Array, margins: jax.Array) -> jax.Array:
    return margins @ weights


def cosine(weights: jax.Array, features: tuple[jax.Array, jax.Array]) -> jax.Array:
    """5 cos(x, Σ_k w_k g_k) from inner products [n, K] and Gram matrix [K, K]."""
    inner, gram = features
    return 5 * (inner @ weights) / jnp.sqrt(weights @ gram @ weights)


def cosine_features() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    items, maps = random.normal(size=(U, n, 4)), random.normal(size=(K, 4))
    items /= np.linalg.norm(items, axis=-1, keepdims=True)
    return items @ maps.T, np.broadcast_to(maps @ maps.T, (U, K, K))


def nonlinear(
    margin_fn: Callable[..., jax.Array], features: Any, mask: Any, **settings: Any
) -> SimplexFit:
    given = {"prior": PRIOR, "strength": STRENGTH, "tolerance": 1e-9} | settings
    return jax.jit(lambda f, m: fit_simplex_nonlinear(margin_fn, f, m, **given))(features, mask)


def test_nonlinear_with_linear_margins_is_fit_simplex(x64: None) -> None:
    margins, mask = problem()
    found, expected = nonlinear(linear, margins, mask), fit(margins, mask)
    assert_allclose(found.weights, expected.weights, atol=1e-8)
    assert_allclose(found.covariance, expected.covariance, atol=1e-7)
    assert_array_equal(found.weights[2], PRIOR)


def test_nonlinear_finds_a_minimum_of_the_cosine_form(x64: None) -> None:
    _, mask = problem()
    inner, gram = cosine_features()
    found = nonlinear(cosine, (inner, gram), mask)
    assert found.gap.max() <= 1e-9
    for user in range(U):

        def of_logits(logits: np.ndarray, user: int = user) -> float:
            weights = softmax(logits)
            margins = 5 * inner[user] @ weights / np.sqrt(weights @ gram[user] @ weights)
            losses = np.logaddexp(0, -margins)
            return float(mask[user] @ losses - STRENGTH * PRIOR @ log_softmax(logits))

        start = np.log(np.asarray(found.weights[user]))
        assert minimize(of_logits, start).fun >= of_logits(start) - 1e-9
        assert of_logits(start) <= of_logits(np.log(PRIOR))


def test_nonlinear_is_its_twin(x64: None) -> None:
    _, mask = problem()
    inner, gram = cosine_features()
    found = nonlinear(cosine, (inner, gram), mask)
    expected = twins.fit_simplex_nonlinear(
        lambda user, w: twins.cosine_margins(inner[user], gram[user], 5.0, w),
        mask,
        prior=PRIOR,
        strength=STRENGTH,
    )
    assert_allclose(found.weights, expected.weights, atol=1e-6)
    assert_allclose(found.gap, expected.gap, atol=1e-8)


def test_nonlinear_masked_rows_may_be_nan(x64: None) -> None:
    _, mask = problem()
    inner, gram = cosine_features()
    poisoned = np.where(mask[..., None] > 0, inner, np.nan)
    jax.tree.map(
        assert_array_equal,
        nonlinear(cosine, (poisoned, gram), mask),
        nonlinear(cosine, (inner, gram), mask),
    )


def test_nonlinear_in_float32_ends() -> None:
    _, mask = problem()
    features = tuple(x.astype(np.float32) for x in cosine_features())
    prior = PRIOR.astype(np.float32)
    found = nonlinear(cosine, features, mask.astype(np.float32), prior=prior, tolerance=0.0)
    assert found.gap.max() <= 1e-4
    assert found.iterations.max() < simplex_newton.MAX_STEPS


def test_nonlinear_margins_of_a_wrong_shape() -> None:
    margins, mask = problem()
    with pytest.raises(ValueError, match="margin_fn gave margins of shape"):
        nonlinear(linear, margins[:, 1:], mask)


@pytest.mark.parametrize("strength", [0.0, -1.0, np.nan])
def test_a_strength_that_is_no_barrier_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength must be above 0"):
        fit_simplex(np.ones((1, 2, 3)), np.ones((1, 2)), prior=np.ones(3) / 3, strength=strength)


def test_a_prior_that_is_no_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="prior must sum to 1, got 3"):
        fit_simplex(np.ones((1, 2, 3)), np.ones((1, 2)), prior=np.ones(3), strength=1.0)
