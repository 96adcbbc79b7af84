"""Every public kernel against its NumPy twin, its algebra, its gradients and its edges."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from paljax import kernels
from tests.kernels import twins

# No two axes have one size, so that a swapped axis cannot pass.
U, B, G, K, N, d, n = 5, 37, 4, 3, 11, 7, 9
COMPARISONS_OF_USER = [3, 14, 0, 1, 19]
EMPTY_USER = 2
SIMPLEX_COMPARISONS_OF_USER = [4, 9, 0, 1, 6]
PRIOR = np.array([0.5, 0.2, 0.3])
NEARLY_ONE_HOT = np.array([1e-12, 1 - 2e-12, 1e-12])

Arrays = dict[str, Any]


class Case(NamedTuple):
    arrays: Arrays
    settings: Arrays


def _cases() -> dict[str, Case]:
    random, another = np.random.default_rng(7), np.random.default_rng(8)
    users = random.permutation(np.repeat(np.arange(U), COMPARISONS_OF_USER))
    votes = {"margins": random.normal(size=(B, K)), "users": users, "log_prior": np.log(PRIOR)}
    items, points = random.normal(size=(N, d)), random.normal(size=(K, d))
    mask = np.arange(n) < np.array(SIMPLEX_COMPARISONS_OF_USER)[:, None]
    return {
        "squared_distances": Case({"items": items, "points": points}, {}),
        "ideal_point_rewards": Case({"items": items, "prototypes": points}, {}),
        "mix": Case(
            {
                "rewards": random.normal(size=(B, N, K)),
                "weights": random.dirichlet(np.ones(K), (B, N)),
            },
            {},
        ),
        "log_choice": Case({"margins": 3 * random.normal(size=(B, K))}, {}),
        "log_evidence": Case(votes, {"num_users": U}),
        "responsibilities": Case(votes, {"num_users": U}),
        "fit_simplex": Case(
            {
                "margins": 2 * random.normal(size=(U, n, K)),
                "mask": random.permuted(mask, axis=1),
                "prior": PRIOR,
            },
            {"strength": 1.3, "tolerance": 1e-10},
        ),
        "exponentiated_gradient": Case(
            {"log_q": np.log(random.dirichlet(np.ones(G))), "utilities": random.normal(size=G)},
            {"step_size": 0.7},
        ),
        "leave_one_out": Case({"rewards": random.normal(size=(B, n))}, {}),
        "log_odds": Case(
            {
                "margins": 3 * another.normal(size=(B, K)),
                "log_weights": np.log(another.dirichlet(np.ones(K), B)),
            },
            {},
        ),
        "sum_by_user": Case(
            {"log_choices": -another.exponential(size=(B, K)), "users": users}, {"num_users": U}
        ),
        "worst_case_weights": Case({"utilities": random.normal(size=G)}, {"cap": 0.4}),
        "cap_weights": Case({"log_q": np.log([0.05, 0.6, 0.25, 0.1])}, {"cap": 0.35}),
    }


CASES = _cases()
# What fit_simplex's gap can reach in each dtype on its case, in nats.
TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 1e-1}

every_kernel = pytest.mark.parametrize("name", CASES)
closed_forms = pytest.mark.parametrize("name", [name for name in CASES if name != "fit_simplex"])
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def cast(array: Any, dtype: str) -> jax.Array:
    """Floating arrays in `dtype`, masks as they are, indices in int32."""
    kind = np.asarray(array).dtype.kind
    return jnp.asarray(array, {"f": dtype, "b": "bool", "i": "int32"}[kind])


def prepare(
    name: str, dtype: str, arrays: Arrays | None = None, **settings: Any
) -> tuple[Callable[..., Any], Arrays]:
    """The kernel with its settings bound, and its case's arrays with `arrays` in their places."""
    settings = {**CASES[name].settings, **settings}
    if "tolerance" in settings:
        settings["tolerance"] = TOLERANCES[dtype]
    given = {**CASES[name].arrays, **(arrays or {})}
    bound = partial(getattr(kernels, name), **settings)
    return bound, {key: cast(array, dtype) for key, array in given.items()}


def twin_of(name: str, arrays: Arrays, **settings: Any) -> Any:
    """The twin's answer for the very numbers that the kernel was given."""
    settings = {**CASES[name].settings, **settings}
    exact = {
        key: np.asarray(array, float if jnp.issubdtype(array.dtype, jnp.floating) else None)
        for key, array in arrays.items()
    }
    return getattr(twins, name)(**exact, **settings)


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Within `tolerance` times the largest expected number; shapes equal, nothing broadcast."""
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    assert actual.shape == expected.shape
    assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max(initial=0))


def floating(tree: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def total(kernel: Callable[..., Any]) -> Callable[..., jax.Array]:
    """The kernel's numbers, weighted unequally and added up: something to take gradients of."""

    def summed(**arrays: Any) -> jax.Array:
        parts = [
            jnp.vdot(leaf, jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape))
            for leaf in floating(kernel(**arrays))
        ]
        return jnp.sum(jnp.stack(parts))

    return summed


def gradients(kernel: Callable[..., Any], arrays: Arrays) -> Arrays:
    """The gradient of the kernel's weighted sum in each floating argument."""
    moving = {key: array for key, array in arrays.items() if floating(array)}
    fixed = {key: array for key, array in arrays.items() if key not in moving}
    return dict(jax.jit(jax.grad(lambda moving: total(kernel)(**moving, **fixed)))(moving))


def assert_finite(tree: Any) -> None:
    assert all(np.isfinite(np.asarray(leaf, float)).all() for leaf in jax.tree.leaves(tree))


# --- every kernel -------------------------------------------------------------------------------


@closed_forms
def test_equals_its_twin_in_float64(name: str, x64: None) -> None:
    kernel, arrays = prepare(name, "float64")
    assert_close(kernel(**arrays), twin_of(name, arrays), 1e-12)


@closed_forms
def test_equals_its_twin_in_float32(name: str) -> None:
    kernel, arrays = prepare(name, "float32")
    assert_close(kernel(**arrays), twin_of(name, arrays), 1e-5)


@every_kernel
@both_dtypes
def test_keeps_the_dtype_it_is_given(name: str, dtype: str, x64: None) -> None:
    kernel, arrays = prepare(name, dtype)
    assert {leaf.dtype for leaf in floating(kernel(**arrays))} == {jnp.dtype(dtype)}
    assert {leaf.dtype for leaf in floating(gradients(kernel, arrays))} == {jnp.dtype(dtype)}


@closed_forms
def test_bfloat16_in_bfloat16_out(name: str) -> None:
    kernel, arrays = prepare(name, "bfloat16")
    result = kernel(**arrays)
    assert result.dtype == jnp.bfloat16
    # One rounding to 8 bits is an error of 2⁻⁹; a few intermediate ones are allowed.
    assert_close(result, twin_of(name, arrays), 2**-7)


@every_kernel
@both_dtypes
def test_jit_equals_eager(name: str, dtype: str, x64: None) -> None:
    kernel, arrays = prepare(name, dtype)
    for compiled, eager in zip(
        jax.tree.leaves(jax.jit(kernel)(**arrays)), jax.tree.leaves(kernel(**arrays)), strict=True
    ):
        # Absolute as well: a gap is nothing but rounding.
        tolerance = {"float64": 1e-12, "float32": 1e-5}[dtype]
        assert_allclose(compiled, eager, rtol=tolerance, atol=tolerance)


@every_kernel
def test_vmap_equals_a_loop(name: str, x64: None) -> None:
    kernel, arrays = prepare(name, "float64")
    shifted = {key: jnp.roll(array, 1, axis=0) for key, array in arrays.items()}
    both = {key: jnp.stack([arrays[key], shifted[key]]) for key in arrays}
    mapped = jax.vmap(lambda both: kernel(**both))(both)
    for place, single in enumerate([arrays, shifted]):
        for batched, looped in zip(
            jax.tree.leaves(mapped), jax.tree.leaves(kernel(**single)), strict=True
        ):
            # The gap is a rounding error either way, and the count of iterations may differ.
            assert_allclose(batched[place], looped, rtol=1e-10, atol=1e-10)


@closed_forms
def test_gradients_in_float64(name: str, x64: None) -> None:
    kernel, arrays = prepare(name, "float64")
    fixed = {key: arrays.pop(key) for key in list(arrays) if key == "users"}
    moved = jax.jit(lambda arrays: kernel(**arrays, **fixed))
    check_grads(moved, (arrays,), order=2, modes=("rev",), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "argument", "shape"),
    [
        ("squared_distances", "points", (K, 1)),
        ("squared_distances", "points", (d,)),
        ("squared_distances", "items", (N, 1)),
        ("squared_distances", "items", (1, N, d)),
        ("ideal_point_rewards", "prototypes", (K, 1)),
        ("ideal_point_rewards", "items", (N, 1)),
        ("ideal_point_rewards", "items", (d,)),
        ("mix", "weights", (B, N, 1)),
        ("mix", "weights", (B, 1, K)),
        ("mix", "weights", (1, N, K)),
        ("mix", "rewards", (B, N, 1)),
        ("log_odds", "log_weights", (B, 1)),
        ("log_odds", "log_weights", (K,)),
        ("sum_by_user", "log_choices", (1, K)),
        ("sum_by_user", "users", (B, 1)),
        ("log_evidence", "margins", (B, 1)),
        ("log_evidence", "margins", (1, K)),
        ("log_evidence", "users", (B, 1)),
        ("log_evidence", "users", (1,)),
        ("log_evidence", "log_prior", (1,)),
        ("log_evidence", "log_prior", (U, K)),
        ("responsibilities", "margins", (B, 1)),
        ("responsibilities", "margins", (1, K)),
        ("responsibilities", "users", (B, 1)),
        ("responsibilities", "log_prior", (1,)),
        ("responsibilities", "log_prior", (U, K)),
        ("fit_simplex", "margins", (U, n, 1)),
        ("fit_simplex", "margins", (U, 1, K)),
        ("fit_simplex", "mask", (U, 1)),
        ("fit_simplex", "mask", (1, n)),
        ("fit_simplex", "mask", (U, n, 1)),
        ("fit_simplex", "prior", (1,)),
        ("fit_simplex", "prior", (U, K)),
        ("exponentiated_gradient", "utilities", (G, 1)),
        ("exponentiated_gradient", "utilities", (1,)),
        ("exponentiated_gradient", "utilities", ()),
        ("exponentiated_gradient", "log_q", (1,)),
        ("exponentiated_gradient", "log_q", (G, 1)),
        ("leave_one_out", "rewards", (n,)),
        ("leave_one_out", "rewards", (B, n, 1)),
        ("leave_one_out", "rewards", (B, 1)),  # no others to average
    ],
)
def test_refuses_shapes_that_would_broadcast(
    name: str, argument: str, shape: tuple[int, ...]
) -> None:
    like = CASES[name].arrays[argument]
    kernel, arrays = prepare(name, "float32", {argument: np.full(shape, 0, like.dtype)})
    # Callers need not have set jax_numpy_rank_promotion: the kernel itself must refuse.
    with jax.numpy_rank_promotion("allow"), pytest.raises((ValueError, TypeError)):
        kernel(**arrays)


def test_kernels_import_jax_and_nothing_heavier() -> None:
    heavy = ["flax", "optax", "orbax", "tensorflow_datasets", "pyarrow", "matplotlib", "pydantic"]
    script = f"import sys, paljax.kernels; print(*(set({heavy}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


# --- distances and ideal points -----------------------------------------------------------------


def test_distances_are_symmetric_and_ignore_a_shift(x64: None) -> None:
    _, arrays = prepare("squared_distances", "float64")
    items, points = arrays["items"], arrays["points"]
    distances = kernels.squared_distances(items, points)
    assert_close(kernels.squared_distances(points, items).T, distances, 1e-12)
    assert_close(kernels.squared_distances(items + 3, points + 3), distances, 1e-12)


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("spread", [1.0, 100.0])
@pytest.mark.parametrize("origin", [0.0, 1e4])
def test_tiny_distances_in_float32_are_not_negative_and_within_the_bound(
    distance: float, spread: float, origin: float
) -> None:
    random = np.random.default_rng(3)
    directions, steps = random.normal(size=(K, d)), random.normal(size=(N, d))
    points = origin + spread * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    steps *= distance / np.linalg.norm(steps, axis=1, keepdims=True)
    items = points[np.arange(N) % K] + steps
    arrays = {"items": cast(items, "float32"), "points": cast(points, "float32")}
    computed = np.asarray(kernels.squared_distances(**arrays))
    # The expanded form rounds d + 6 times, in any order of summation, numbers up to (‖x‖ + ‖p‖)²,
    # and lengths count from the middle of the points: where the origin lies does not matter.
    bound = (d + 6) * np.finfo(np.float32).eps / 2 * (4 * spread + distance) ** 2
    assert computed.min() >= 0
    assert np.abs(computed - twin_of("squared_distances", arrays)).max() <= bound


def test_equal_points_have_no_distance_and_a_zero_gradient() -> None:
    points = jnp.full((K, d), 0.3, jnp.float32)
    distances = kernels.squared_distances(points, points)
    gradient = jax.grad(lambda items: kernels.squared_distances(items, points).sum())(points)
    assert_allclose(distances, 0, atol=1e-6)
    assert distances.min() >= 0
    assert_allclose(gradient, 0, atol=1e-6)


def test_ideal_point_margins_are_those_of_squared_distance(x64: None) -> None:
    _, arrays = prepare("ideal_point_rewards", "float64")
    items, prototypes = arrays["items"], arrays["prototypes"]
    rewards = kernels.ideal_point_rewards(items, prototypes)
    item_free = rewards + kernels.squared_distances(items, prototypes)
    assert_close(item_free, np.broadcast_to((prototypes**2).sum(1), (N, K)), 1e-12)

    mixed = kernels.mix(rewards, jnp.tile(PRIOR, (N, 1)))
    full = [
        twins.reward_pal_a(np.asarray(z), np.asarray(prototypes), PRIOR, distance="squared")
        for z in items
    ]
    assert_close(mixed[:, None] - mixed[None], np.subtract.outer(full, full), 1e-12)


@both_dtypes
def test_one_hot_weights_select_a_prototype(dtype: str, x64: None) -> None:
    _, arrays = prepare("mix", dtype)
    for k, one_hot in enumerate(jnp.eye(K, dtype=dtype)):
        weights = jnp.broadcast_to(one_hot, (B, N, K))
        mixed = kernels.mix(arrays["rewards"], weights)
        assert_array_equal(mixed, arrays["rewards"][..., k])


def test_mixing_is_linear(x64: None) -> None:
    kernel, arrays = prepare("mix", "float64")
    mixed = kernel(**arrays)
    rewards, weights = arrays["rewards"], arrays["weights"]
    assert_close(kernel(-rewards, weights), -mixed, 1e-12)
    assert_close(kernel(rewards + 5, weights), mixed + 5, 1e-12)
    order = jnp.array([2, 0, 1])
    assert_close(kernel(rewards[..., order], weights[..., order]), mixed, 1e-12)
    assert_array_equal(kernel(rewards[..., :1], jnp.ones((B, N, 1))), rewards[..., 0])


# --- choices ------------------------------------------------------------------------------------


def test_the_two_orders_of_a_comparison_share_all_probability(x64: None) -> None:
    margins = prepare("log_choice", "float64")[1]["margins"]
    forth, back = kernels.log_choice(margins), kernels.log_choice(-margins)
    assert_allclose(jnp.exp(forth) + jnp.exp(back), 1, rtol=1e-14)
    assert_allclose(forth - back, margins, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_choices_at_huge_margins(dtype: str, x64: None) -> None:
    margins = jnp.array([-1e4, 0.0, 1e4], dtype)
    huge = float(margins[2])
    # bfloat16 cannot hold log 2 to better than 2⁻⁹ of itself.
    assert_allclose(
        np.asarray(kernels.log_choice(margins), float), [-huge, -np.log(2), 0], rtol=2**-8
    )
    slopes = jax.vmap(jax.grad(kernels.log_choice))(margins)
    assert_array_equal(np.asarray(slopes, float), [1, 0.5, 0])


def test_check_values_of_the_design(x64: None) -> None:
    margins = jnp.array([[1.2, -0.7], [-0.3, 0.9], [0.8, 0.1], [2.0, -1.5]])
    users = jnp.zeros(4, jnp.int32)
    likelihoods = kernels.log_choice(margins).sum(0)
    assert_allclose(likelihoods, [-1.615666, -3.790150], atol=1e-6)
    log_prior = jnp.log(jnp.array([0.8, 0.2]))
    posterior = kernels.responsibilities(margins, users, log_prior, num_users=1)
    assert_allclose(posterior, [[0.972368, 0.027632]], atol=1e-6)
    evidence = kernels.log_evidence(margins, users, log_prior, num_users=1)
    assert_allclose(
        evidence, [np.log(0.8 * np.exp(-1.615666) + 0.2 * np.exp(-3.790150))], atol=1e-6
    )


@pytest.mark.parametrize("name", ["log_evidence", "responsibilities"])
def test_order_of_batch_users_and_prototypes_is_free(name: str, x64: None) -> None:
    kernel, arrays = prepare(name, "float64")
    margins, users, log_prior = arrays.values()
    result = kernel(margins, users, log_prior)
    random = np.random.default_rng(5)
    rows, labels, order = (random.permutation(size) for size in (B, U, K))
    assert_close(kernel(margins[rows], users[rows], log_prior), result, 1e-12)
    assert_close(kernel(margins, cast(labels, "")[users], log_prior)[labels], result, 1e-12)
    turned = kernel(margins[:, order], users, log_prior[order])
    assert_close(turned, result[:, order] if result.ndim == 2 else result, 1e-12)


@both_dtypes
def test_a_user_without_comparisons_keeps_the_prior(dtype: str, x64: None) -> None:
    tolerance = 4 * float(jnp.finfo(dtype).eps)
    posterior, arrays = prepare("responsibilities", dtype)
    assert_allclose(posterior(**arrays)[EMPTY_USER], PRIOR, rtol=tolerance)
    evidence, arrays = prepare("log_evidence", dtype)
    assert_allclose(evidence(**arrays)[EMPTY_USER], 0, atol=tolerance)


def test_a_constant_in_the_log_prior_shifts_the_evidence_only(x64: None) -> None:
    evidence, arrays = prepare("log_evidence", "float64")
    posterior, _ = prepare("responsibilities", "float64")
    shifted = {**arrays, "log_prior": arrays["log_prior"] + 3}
    assert_close(evidence(**shifted), evidence(**arrays) + 3, 1e-12)
    assert_close(posterior(**shifted), posterior(**arrays), 1e-12)
    assert_allclose(posterior(**shifted).sum(1), 1, rtol=1e-14)


def test_the_slope_of_the_evidence_is_the_responsibilities(x64: None) -> None:
    evidence, arrays = prepare("log_evidence", "float64")
    posterior, _ = prepare("responsibilities", "float64")
    slope = jax.jacobian(lambda log_prior: evidence(**{**arrays, "log_prior": log_prior}))
    assert_close(slope(arrays["log_prior"]), posterior(**arrays), 1e-12)


def test_one_prototype_leaves_nothing_to_infer(x64: None) -> None:
    one = {"margins": CASES["log_evidence"].arrays["margins"][:, :1], "log_prior": np.zeros(1)}
    evidence, arrays = prepare("log_evidence", "float64", one)
    posterior, _ = prepare("responsibilities", "float64")
    choices = kernels.log_choice(arrays["margins"][:, 0])
    by_user = [choices[np.asarray(arrays["users"]) == user].sum() for user in range(U)]
    assert_close(evidence(**arrays), by_user, 1e-12)
    assert_array_equal(posterior(**arrays), np.ones((U, 1)))


def test_odds_of_someone_who_is_one_of_two(x64: None) -> None:
    # By hand: .9 σ(20) + .1 σ(-20) against its complement; the mean reward's margin would be 16.
    odds = kernels.log_odds(jnp.array([20.0, -20.0]), jnp.log(jnp.array([0.9, 0.1])))
    assert_allclose(odds, np.log(9), atol=1e-7)
    margins, log_weights = jnp.array([1.2, -0.3, 4.0]), jnp.log(jnp.array([0.2, 0.5, 0.3]))
    odds = kernels.log_odds(margins, log_weights)
    assert -0.3 < odds < 4.0
    assert_allclose(kernels.log_odds(-margins, log_weights), -odds, rtol=1e-12)
    order = jnp.array([2, 0, 1])
    assert_allclose(kernels.log_odds(margins[order], log_weights[order]), odds, rtol=1e-12)


@both_dtypes
@pytest.mark.parametrize("margin", [1e4, -1e4, 30.0])
def test_odds_at_huge_margins_and_impossible_groups(margin: float, dtype: str, x64: None) -> None:
    log_weights = jnp.array([0.0, -jnp.inf, -jnp.inf], dtype)
    margins = jnp.array([margin, -margin, 0.5], dtype)
    assert_allclose(kernels.log_odds(margins, log_weights), margin, rtol=1e-6)
    even = jnp.full(3, -jnp.log(3.0), dtype)
    assert_finite(kernels.log_odds(margins, even))
    assert_finite(jax.grad(kernels.log_odds)(margins, log_weights))
    assert_finite(jax.grad(kernels.log_odds)(margins, even))


@both_dtypes
def test_odds_of_one_group_are_its_margin(dtype: str, x64: None) -> None:
    margins = jnp.linspace(-40, 40, 81, dtype=dtype)[:, None]
    tolerance = {"float64": 1e-12, "float32": 1e-6}[dtype]
    odds = kernels.log_odds(margins, jnp.zeros_like(margins))
    assert_allclose(odds, margins[:, 0], rtol=tolerance, atol=tolerance)


def test_a_long_sum_of_bfloat16_choices_does_not_stall() -> None:
    # Added one by one in bfloat16, log 2 no longer moves a sum of 256.
    choices = {
        "margins": np.zeros((1000, 1)),
        "users": np.zeros(1000, int),
        "log_prior": np.zeros(1),
    }
    evidence, arrays = prepare("log_evidence", "bfloat16", choices, num_users=1)
    assert_allclose(np.asarray(evidence(**arrays), float), -1000 * np.log(2), rtol=2**-7)


@pytest.mark.parametrize("name", ["log_evidence", "responsibilities"])
@pytest.mark.parametrize("log_prior", [np.log(PRIOR), np.array([-np.inf, 0, -np.inf])])
def test_huge_margins_and_one_hot_priors(name: str, log_prior: np.ndarray) -> None:
    signs = np.sign(CASES[name].arrays["margins"])
    kernel, arrays = prepare(name, "float32", {"margins": 1e4 * signs, "log_prior": log_prior})
    # A sum of 19 log σ(-1e4) is held to eps times its size, and a posterior no better than that.
    rounding = max(COMPARISONS_OF_USER) * 1e4 * float(jnp.finfo("float32").eps)
    tolerance = {"log_evidence": 1e-6, "responsibilities": rounding}[name]
    assert_close(kernel(**arrays), twin_of(name, arrays), tolerance)
    slopes = jax.grad(lambda margins: total(kernel)(**{**arrays, "margins": margins}))
    assert_finite(slopes(arrays["margins"]))


# --- fit_simplex --------------------------------------------------------------------------------


# One trace for all tests of a shape and dtype; strength and tolerance are traced as well.
fit_simplex = jax.jit(kernels.fit_simplex)


def simplex_case(
    dtype: str, arrays: Arrays | None = None, strength: float = 1.3
) -> tuple[kernels.SimplexFit, Arrays]:
    """The fit of the case with `arrays` in their places, and its arrays."""
    _, given = prepare("fit_simplex", dtype, arrays)
    return fit_simplex(**given, strength=strength, tolerance=TOLERANCES[dtype]), given


@jax.jit
def fit_gradients(arrays: Arrays) -> Arrays:
    moving = {key: array for key, array in arrays.items() if key != "mask"}

    def summed(moving: Arrays) -> jax.Array:
        return total(fit_simplex)(**moving, mask=arrays["mask"], strength=1.3)

    return jax.grad(summed)(moving)


def certified_gaps(arrays: Arrays, strength: float, weights: Any) -> np.ndarray:
    """The twin's gap at the kernel's weights: no trust in the kernel is needed."""
    margins, mask, prior = (np.asarray(array) for array in arrays.values())
    return np.array(
        [
            twins.simplex_gap(margins[u][mask[u]], prior, strength, np.asarray(weights[u], float))
            for u in range(len(margins))
        ]
    )


@pytest.mark.parametrize("strength", [0.05, 1.3, 40.0])
def test_fit_simplex_equals_its_twin_in_float64(strength: float, x64: None) -> None:
    fit, arrays = simplex_case("float64", strength=strength)
    twin = twin_of("fit_simplex", arrays, strength=strength)
    assert_allclose(fit.weights, twin.weights, rtol=0, atol=1e-8)
    assert_close(fit.covariance, twin.covariance, 1e-6)
    assert_allclose(fit.gap, certified_gaps(arrays, strength, fit.weights), rtol=0, atol=1e-12)
    assert fit.gap.max() <= 1e-10
    assert fit.iterations.shape == (U,)
    assert fit.iterations.max() < 50


@pytest.mark.parametrize("strength", [0.05, 1.3, 40.0])
def test_fit_simplex_equals_its_twin_in_float32(strength: float) -> None:
    fit, arrays = simplex_case("float32", strength=strength)
    twin = twin_of("fit_simplex", arrays, strength=strength)
    # A gap of 1e-5 nats over the curvature that one comparison and a weak prior leave.
    assert_allclose(fit.weights, twin.weights, rtol=0, atol=3e-5)
    assert_close(fit.covariance, twin.covariance, 1e-3)
    # 40 pseudo-comparisons make gradients of 40, whose float32 spacing is 4e-6.
    assert_allclose(fit.gap, certified_gaps(arrays, strength, fit.weights), rtol=0, atol=2e-5)
    assert fit.gap.max() <= max(1e-5, 1e-6 * strength)


def test_fit_simplex_takes_and_returns_bfloat16() -> None:
    fit, arrays = simplex_case("bfloat16")
    assert {leaf.dtype for leaf in floating(fit)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(fit.weights, twin_of("fit_simplex", arrays).weights, 2**-5)


def test_fits_lie_on_the_simplex_with_a_covariance_along_it(x64: None) -> None:
    fit, _ = simplex_case("float64")
    assert fit.weights.min() > 0
    assert_allclose(fit.weights.sum(1), 1, rtol=1e-12)
    assert_allclose(fit.covariance.sum(2), 0, atol=1e-12)
    assert_allclose(fit.covariance, fit.covariance.mT, atol=1e-14)
    assert np.linalg.eigvalsh(fit.covariance)[:, 1:].min() > 0


@both_dtypes
def test_a_user_without_comparisons_gets_exactly_the_population(dtype: str, x64: None) -> None:
    fit, arrays = simplex_case(dtype)
    prior = arrays["prior"]
    assert_array_equal(fit.weights[EMPTY_USER], prior)
    # Only the prior bends: H = λ diag(1 / w̄), whose inverse along the simplex is closed.
    closed = (jnp.diag(prior) - jnp.outer(prior, prior)) / jnp.asarray(1.3, dtype)
    assert_close(fit.covariance[EMPTY_USER], closed, 1e-5 if dtype == "float32" else 1e-12)


def test_masked_rows_do_not_count(x64: None) -> None:
    fit, arrays = simplex_case("float64")
    hidden = ~np.asarray(arrays["mask"])
    for rubbish in (1e4, np.nan):
        margins = np.where(hidden[..., None], rubbish, arrays["margins"])
        other, changed = simplex_case("float64", {"margins": margins})
        for other_leaf, leaf in zip(other, fit, strict=True):
            assert_array_equal(other_leaf, leaf)
        slopes = fit_gradients(changed)
        assert_finite(slopes)
        assert_array_equal(slopes["margins"][hidden], 0)


def test_fit_simplex_ignores_the_order_of_users_rows_and_prototypes(x64: None) -> None:
    fit, arrays = simplex_case("float64")
    random = np.random.default_rng(5)
    users, rows, order = (random.permutation(size) for size in (U, n, K))
    turned, _ = simplex_case(
        "float64",
        {
            "margins": arrays["margins"][users][:, rows][..., order],
            "mask": arrays["mask"][users][:, rows],
            "prior": arrays["prior"][order],
        },
    )
    assert_allclose(turned.weights, fit.weights[users][:, order], atol=1e-9)
    assert_close(turned.covariance, fit.covariance[users][:, order][..., order], 1e-7)


def test_each_comparison_twice_under_twice_the_prior_changes_nothing(x64: None) -> None:
    fit, arrays = simplex_case("float64")
    twice = {"margins": np.tile(arrays["margins"], (1, 2, 1)), "mask": np.tile(arrays["mask"], 2)}
    doubled, _ = simplex_case("float64", twice, strength=2.6)
    assert_allclose(doubled.weights, fit.weights, atol=1e-9)
    assert_close(doubled.covariance, fit.covariance / 2, 1e-7)
    weighted, _ = simplex_case(
        "float64", {"mask": np.where(arrays["mask"], 2.0, 0.0)}, strength=2.6
    )
    assert_allclose(weighted.weights, fit.weights, atol=1e-9)
    assert_close(weighted.covariance, doubled.covariance, 1e-7)


def test_a_user_does_not_depend_on_the_thousands_beside() -> None:
    fit, arrays = simplex_case("float32")
    users = np.arange(7001) % U  # more than one block of users, and no multiple of a block
    many = {"margins": arrays["margins"][users], "mask": arrays["mask"][users]}
    crowd, _ = simplex_case("float32", many)
    assert_allclose(crowd.weights, fit.weights[users], atol=1e-6)
    assert_close(crowd.covariance, fit.covariance[users], 1e-5)
    assert_array_equal(crowd.iterations[:U], fit.iterations)


def test_comparisons_that_tell_no_prototypes_apart_leave_the_prior(
    x64: None,
) -> None:
    level = np.repeat(CASES["fit_simplex"].arrays["margins"][..., :1], K, axis=2)
    fit, _ = simplex_case("float64", {"margins": level})
    assert_allclose(fit.weights, np.tile(PRIOR, (U, 1)), atol=1e-10)


@both_dtypes
def test_one_prototype_takes_all_weight(dtype: str, x64: None) -> None:
    one = {"margins": CASES["fit_simplex"].arrays["margins"][..., :1], "prior": np.ones(1)}
    fit, _ = simplex_case(dtype, one)
    assert_array_equal(fit.weights, np.ones((U, 1)))
    assert_array_equal(fit.gap, np.zeros(U))
    assert_array_equal(fit.covariance, np.zeros((U, 1, 1)))


@both_dtypes
@pytest.mark.parametrize("scale", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("prior", [PRIOR, NEARLY_ONE_HOT])
def test_fit_simplex_at_the_edges(dtype: str, scale: float, prior: np.ndarray, x64: None) -> None:
    signs = np.sign(CASES["fit_simplex"].arrays["margins"])
    fit, arrays = simplex_case(dtype, {"margins": scale * signs, "prior": prior})
    assert_finite(fit)
    assert_finite(fit_gradients(arrays))
    assert fit.weights.min() >= 0
    assert_allclose(fit.weights.sum(1), 1, rtol=1e-6)
    assert fit.gap.min() >= 0
    if dtype == "float64":
        # The gap is a difference of numbers as large as the scale.
        assert fit.gap.max() <= 1e-10 * max(1, scale)
        assert_allclose(certified_gaps(arrays, 1.3, fit.weights), 0, atol=2e-10 * max(1, scale))


def test_gradients_of_fit_simplex_in_float64(x64: None) -> None:
    _, arrays = prepare("fit_simplex", "float64")

    def weights(margins: jax.Array, prior_logits: jax.Array, strength: jax.Array) -> jax.Array:
        prior = jax.nn.softmax(prior_logits)
        fit = fit_simplex(margins, arrays["mask"], prior=prior, strength=strength, tolerance=1e-12)
        return fit.weights

    arguments = (arrays["margins"], jnp.log(arrays["prior"]), jnp.asarray(1.3))
    check_grads(weights, arguments, order=1, modes=("rev",), rtol=1e-5, atol=1e-5)


# --- group weights and advantages ---------------------------------------------------------------


def test_exponentiated_gradient_ignores_constants_and_order(x64: None) -> None:
    kernel, arrays = prepare("exponentiated_gradient", "float64")
    log_q, utilities = arrays["log_q"], arrays["utilities"]
    moved = kernel(**arrays)
    assert_allclose(jnp.exp(moved).sum(), 1, rtol=1e-14)
    assert_close(kernel(log_q, utilities + 5), moved, 1e-12)
    assert_close(kernel(log_q + 5, utilities), moved, 1e-12)
    order = jnp.array([2, 0, 3, 1])
    assert_close(kernel(log_q[order], utilities[order]), moved[order], 1e-12)
    assert_close(kernel(log_q, jnp.zeros(G)), log_q, 1e-12)


def test_the_group_with_the_least_utility_gains_weight() -> None:
    kernel, arrays = prepare("exponentiated_gradient", "float32")
    gained = kernel(**arrays) - arrays["log_q"]
    assert_array_equal(jnp.argsort(gained), jnp.argsort(-arrays["utilities"]))


@pytest.mark.parametrize(
    "log_q", [np.full(G, -np.log(G)), np.array([-np.inf, -np.inf, 0, -np.inf])]
)
def test_exponentiated_gradient_at_the_edges(log_q: np.ndarray) -> None:
    utilities = 1e4 * np.array([1, 1, -1, 1])
    kernel, arrays = prepare(
        "exponentiated_gradient", "float32", {"log_q": log_q, "utilities": utilities}
    )
    assert_allclose(jnp.exp(kernel(**arrays)), [0, 0, 1, 0])
    assert_allclose(kernel(**arrays), twin_of("exponentiated_gradient", arrays), rtol=1e-6)

    def expected_utility(utilities: jax.Array) -> jax.Array:
        return jnp.vdot(jnp.exp(kernel(arrays["log_q"], utilities)), utilities)

    assert_finite(jax.grad(expected_utility)(arrays["utilities"]))


def test_leave_one_out_ignores_constants_and_order(x64: None) -> None:
    kernel, arrays = prepare("leave_one_out", "float64")
    rewards, advantages = arrays["rewards"], kernel(**arrays)
    assert_close(kernel(rewards + 100 * jnp.arange(B, dtype=float)[:, None]), advantages, 1e-11)
    assert_allclose(advantages.sum(1), 0, atol=1e-12)
    assert_close(kernel(rewards[:, ::-1]), advantages[:, ::-1], 1e-12)
    assert_close(kernel(rewards[::-1]), advantages[::-1], 1e-12)
    assert_allclose(kernel(jnp.full((B, n), 0.1)), 0, atol=1e-15)


def test_two_responses_are_each_others_baseline() -> None:
    assert_array_equal(kernels.leave_one_out(jnp.array([[1e4, -1e4]])), [[2e4, -2e4]])
