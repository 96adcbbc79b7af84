"""Where a user stands among the prototypes: weights on the simplex, fitted by damped Newton.

U users, n comparisons of a user, K prototypes. Margins are reward(chosen) - reward(rejected) in
nats of log-odds, w the weights of one user, b_k = strength * prior_k the barrier.

Inside, the user axis comes last: every scalar operation of the mathematics is then one vector
operation over users, whose numbers lie next to each other in memory.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

# Newton needs 4 to 15 steps for margins up to 10 nats and up to 80 for margins of 1e4.
MAX_STEPS = 100
# The rows whose sums are written out one by one: XLA's own reductions over a leading axis are
# five times slower on a CPU, and writing out more only costs compile time.
ROWS_WRITTEN_OUT = 32
# Prototypes up to which the linear solve of a step is written out: its terms grow with K³, and at
# K = 12 they doubled the compile time of a training step without making it faster.
COLUMNS_WRITTEN_OUT = 8
# What a block of users may keep at hand: a quarter of a megabyte of float32, in a second-level
# cache. An accelerator takes all users at once.
NUMBERS_PER_BLOCK = 2**16
# Below this a block costs more to start than to fit.
LEAST_BLOCK = 128
# Loops over blocks that do not depend on each other: XLA runs them on as many cores, while there
# is too little in one block to share. Each is compiled on its own, so no more than these.
STREAMS = 2
# A damped step is lengthened when a longer one, up to this factor, may still descend.
STEP_RATIO = 2.0
# The part of the way to the simplex's boundary that a step may take.
FARTHEST = 0.95
# The curvature, in relative changes and as a part of the barrier's, below which a Hessian is not
# trusted to be positive definite.
LEAST_CURVATURE = 1e-3


class SimplexFit(NamedTuple):
    """Weights of users, and how far they can be trusted."""

    weights: Float[Array, "U K"]  # > 0, each row sums to 1
    gap: Float[Array, "U"]  # Frank-Wolfe gap in nats: F(weights) - min F <= gap when F is convex
    covariance: Float[Array, "U K K"]  # Laplace approximation on the simplex; rows sum to 0
    iterations: Int[Array, "U"]  # Newton steps taken


def fit_simplex(
    margins: Float[Array, "U n K"],
    mask: Float[Array, "U n"] | Bool[Array, "U n"],
    *,
    prior: Float[Array, "K"],
    strength: float | Float[Array, ""],
    tolerance: float | Float[Array, ""] = 1e-5,
) -> SimplexFit:
    """Weights of every user that explain the user's choices, shrunk towards a prior.

    Minimises F(w) = Σ_j -mask_j log σ(Δ_j · w) - λ Σ_k prior_k log w_k over the simplex, for each
    user alone; Δ_j is row j of the user's margins and λ the strength. F is strictly convex. Newton
    steps d on the plane Σ_k d_k = 0 start from the prior and have the length

        t = 1 / (1 + max(r, R/2)),   r = max_k -d_k / w_k,   R = max_j |Δ_j · d|,

    R over the rows that move towards margin 0. F descends along the whole step: a logistic
    curvature grows at most by e^{Rt}, that of the barrier by 1 / (1 - rt)², so the slope along d
    is negative up to t. A longer step is taken only where the slope is seen to be negative too.

    Derivatives with respect to margins, mask, prior and strength, of any order, are those of the
    exact optimum (implicit function theorem), not of the iterations. The gap carries none.

    Args:
        margins: Margin of each comparison under each prototype's reward, in nats.
        mask: Weight of each comparison, >= 0. A row with 0 is absent; its margins may be NaN.
        prior: Weights of the population, > 0, summing to 1.
        strength: λ > 0, in pseudo-comparisons. 0 is not allowed: the prior is also the barrier
            that keeps the weights inside.
        tolerance: Gap at which to stop, in nats. In float32 a gap below about 1e-6 times the
            gradient (1e-5 at n = 20 and margins of 3) is out of reach; the iteration then ends
            where it makes no progress.

    Returns:
        Fit in the dtype of `margins` (narrower than float32: computed in float32, then cast). A
        user without comparisons gets exactly the prior with gap 0. The covariance is
        Z (Zᵀ H Z)⁻¹ Zᵀ, H the Hessian of F at the weights and Z a basis of the plane. `gap` is
        the gap reached, above `tolerance` where that was out of reach.

    Raises:
        ValueError: If the shapes don't fit each other.

    Source:
        paljax's design, section 2.3. Step length: the argument of self-concordant functions
        (Bach, 2010, arXiv 0910.4627, proposition 1, for logistic losses), with the step at hand
        in place of a constant.

    Example:
        >>> margins = jnp.array([[[2.0, -2.0], [1.0, -1.0]]])
        >>> fit = fit_simplex(margins, jnp.ones((1, 2)), prior=jnp.array([0.5, 0.5]), strength=2.0)
        >>> print(f"{fit.weights[0, 0]:.3f} {fit.weights[0, 1]:.3f}")
        0.708 0.292
    """
    margins, mask, prior = jnp.asarray(margins), jnp.asarray(mask), jnp.asarray(prior)
    _check_shapes(margins, mask, prior, strength, tolerance)
    compute, returned = _dtypes(margins)
    present = mask.astype(compute) > 0
    # Absent rows are zeroed before the mathematics: 0 * NaN is NaN, in gradients too.
    margins = jnp.where(present[..., None], margins, 0).astype(compute)
    mask = jnp.where(present, mask.astype(compute), 0)
    prior = prior.astype(compute)
    barrier = jnp.asarray(strength, compute) * prior

    fit = _fit_in_blocks(
        margins.transpose(1, 2, 0), mask.T, barrier, prior, jnp.asarray(tolerance, compute)
    )
    return _cast(fit, returned)


def fit_simplex_nonlinear(
    margin_fn: Callable[[Float[Array, "K"], Any], Float[Array, "n"]],
    features: Any,
    mask: Float[Array, "U n"] | Bool[Array, "U n"],
    *,
    prior: Float[Array, "K"],
    strength: float | Float[Array, ""],
    tolerance: float | Float[Array, ""] = 1e-5,
) -> SimplexFit:
    """Weights of every user when margins are not linear in the weights (cosine, euclidean).

    Minimises Σ_j -mask_j log σ(m_j(w)) - λ Σ_k prior_k log w_k over the simplex by Newton steps
    with backtracking on this objective, starting from the prior. Where the Hessian is not positive
    definite they are Gauss-Newton steps, which drop the margins' second derivatives; used
    throughout, those would take several times as many steps for cosines, and some never arrive.

    **The gap is no certificate.** The problem need not be convex: a gap of 0 says that the weights
    are stationary, not that no better weights exist. With margins linear in w the problem is that
    of `fit_simplex`, and so is the result.

    Unlike `fit_simplex`, not differentiable in reverse mode, and compiled at every call that is not
    itself under `jit`.

    Args:
        margin_fn: Margins of one user's comparisons in nats, from the weights and that user's
            features. Twice differentiable inside the simplex.
        features: Arrays that `margin_fn` needs, each with a leading axis of U users.
        mask: Weight of each comparison, >= 0. A row with 0 is absent; its margin may be NaN.
        prior: Weights of the population, > 0, summing to 1.
        strength: λ > 0, in pseudo-comparisons.
        tolerance: Gap at which to stop, in nats.

    Returns:
        Fit in the dtype of the margins. The covariance is that of `fit_simplex`, with Gauss
        and Newton's Hessian where the exact one is not positive definite. A user without
        comparisons gets exactly the prior.

    Raises:
        ValueError: If the shapes don't fit each other.

    Source:
        paljax's design, section 2.3.

    Example:
        >>> angles = jnp.array([[0.3, 0.9]])
        >>> fit = fit_simplex_nonlinear(
        ...     lambda w, angle: jnp.sin(angle * w[0]),
        ...     angles, jnp.ones((1, 2)), prior=jnp.array([0.5, 0.5]), strength=1.0,
        ... )
        >>> print(f"{fit.weights[0, 0]:.2f} {fit.weights[0, 1]:.2f}")
        0.60 0.40
    """
    mask, prior = jnp.asarray(mask), jnp.asarray(prior)
    margins_of_users = jax.vmap(margin_fn, in_axes=(None, 0))
    shape = jax.eval_shape(margins_of_users, prior, features)
    if shape.shape != mask.shape:
        raise ValueError(
            f"margin_fn gave margins of shape {shape.shape} for mask {mask.shape}: they must agree"
        )
    _check_shapes(
        jax.ShapeDtypeStruct((*mask.shape, *prior.shape), shape.dtype),
        mask, prior, strength, tolerance,
    )  # fmt: skip
    compute, returned = _dtypes(shape)
    present = mask.T.astype(compute) > 0
    sample_weights = jnp.where(present, mask.T.astype(compute), 0)
    prior = prior.astype(compute)
    barrier = jnp.asarray(strength, compute) * prior

    def margins_at(weights: Float[Array, "K U"]) -> Float[Array, "n U"]:
        margins = jax.vmap(margin_fn, in_axes=(1, 0), out_axes=1)(weights, features)
        return jnp.where(present, margins, 0).astype(compute)

    def derivatives_at(weights: Float[Array, "K U"]) -> _Derivatives:
        slope_fn = jax.jacfwd(margin_fn)
        rows = jax.vmap(slope_fn, in_axes=(1, 0), out_axes=2)(weights, features)
        rows = jnp.where(present[:, None], rows, 0).astype(compute)
        bends = jax.vmap(jax.jacfwd(slope_fn), in_axes=(1, 0), out_axes=3)(weights, features)
        bends = jnp.where(present[:, None, None], bends, 0).astype(compute)
        derivatives = _derivatives(rows, margins_at(weights), sample_weights, barrier, weights)
        return _bent(derivatives, bends, sample_weights, barrier, weights)

    weights, derivatives, iterations = _minimize_nonlinear(
        margins_at, derivatives_at, sample_weights, barrier, prior, jnp.asarray(tolerance, compute)
    )
    fit = _fit_from(weights, derivatives, barrier, sample_weights, iterations)
    return _cast(fit, returned)


class _Derivatives(NamedTuple):
    """Of F at some weights, users last."""

    margins: Float[Array, "n U"]
    gradient: Float[Array, "K U"]
    hessian: tuple[Array, ...]  # of the losses alone; row k of the lower triangle: [k + 1, U]


class _Newton(NamedTuple):
    """The state of the iteration, users last."""

    weights: Float[Array, "K U"]
    derivatives: _Derivatives  # at `weights`
    last_gap: Float[Array, "U"]  # before the last step
    stride: Float[Array, "U"]  # of the last step: the largest relative or log-odds change
    moving: Bool[Array, "U"]
    iterations: Int[Array, "U"]  # -1 before `derivatives` are known


@jax.custom_jvp
def _minimize(
    rows: Float[Array, "n K U"],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    start: Float[Array, "K"],
    tolerance: Float[Array, ""],
) -> tuple[Float[Array, "K U"], _Derivatives, Int[Array, "U"]]:
    """The optimum by damped Newton steps, F there, and the steps that each user took."""

    def derivatives_at(weights: Array) -> _Derivatives:
        return _derivatives(rows, _mix_rows(rows, weights), sample_weights, barrier, weights)

    def step(state: _Newton) -> _Newton:
        moving, direction = _newton_direction(state, barrier, tolerance)
        changes = _mix_rows(rows, direction)
        shrinkage = _fold(jnp.maximum, -direction / state.weights)  # r of the docstring
        inward = _fold_rows(  # R
            jnp.maximum, jnp.zeros_like(shrinkage), -changes * jnp.sign(state.derivatives.margins)
        )
        stride = jnp.maximum(shrinkage, inward / 2)
        length = _lengthened(
            1 / (1 + stride), shrinkage, moving, state, changes, sample_weights, barrier, direction
        )
        return _moved(state, direction, length, stride, moving, derivatives_at)

    final = lax.while_loop(
        lambda state: jnp.any(_unfinished(state, tolerance)),
        step,
        _start(sample_weights, start),
    )
    return final.weights, final.derivatives, final.iterations


@_minimize.defjvp
def _minimize_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Any, Any]:
    """At the optimum ∇F is constant over k: dw = -Z (Zᵀ H Z)⁻¹ Zᵀ d(∇F), w held in d(∇F)."""
    weights, derivatives, iterations = _minimize(*primals)

    def derivatives_at(
        rows: Array, sample_weights: Array, barrier: Array, weights: Array
    ) -> _Derivatives:
        return _derivatives(rows, _mix_rows(rows, weights), sample_weights, barrier, weights)

    at, moved = (*primals[:3], weights), tangents[:3]
    _, held = jax.jvp(derivatives_at, at, (*moved, jnp.zeros_like(weights)))
    diagonal = _barrier_curvature(primals[2], weights)
    weights_dot = -_tangent_solve(derivatives.hessian, diagonal, held.gradient)
    _, derivatives_dot = jax.jvp(derivatives_at, at, (*moved, weights_dot))
    no_tangent = np.zeros(iterations.shape, jax.dtypes.float0)
    return (weights, derivatives, iterations), (weights_dot, derivatives_dot, no_tangent)


def _minimize_nonlinear(
    margins_at: Callable[[Array], Array],
    derivatives_at: Callable[[Array], _Derivatives],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    start: Float[Array, "K"],
    tolerance: Float[Array, ""],
) -> tuple[Float[Array, "K U"], _Derivatives, Int[Array, "U"]]:
    """A stationary point by Newton steps with backtracking."""
    precision = float(np.finfo(barrier.dtype).eps)

    def objective(margins: Array, weights: Array) -> Array:
        losses = jnp.sum(-sample_weights * jax.nn.log_sigmoid(margins), axis=0)
        return losses - jnp.sum(barrier[:, None] * jnp.log(weights), axis=0)

    def step(state: _Newton) -> _Newton:
        moving, direction = _newton_direction(state, barrier, tolerance)
        value = objective(margins_at(state.weights), state.weights)
        slope = jnp.sum(state.derivatives.gradient * direction, axis=0)
        rounding = 4 * precision * jnp.abs(value)

        def too_long(length: Array) -> Array:
            weights = state.weights + length[None] * direction
            descent = value - objective(margins_at(weights), weights)
            return ~(descent >= -1e-4 * length * slope - rounding) & moving & (length > precision)

        def halve(search: tuple[Array, Array]) -> tuple[Array, Array]:
            length = jnp.where(search[1], search[0] / 2, search[0])
            return length, too_long(length)

        shrinkage = _fold(jnp.maximum, -direction / state.weights)
        length = _longest(shrinkage)
        length, _ = lax.while_loop(lambda s: jnp.any(s[1]), halve, (length, too_long(length)))
        length = jnp.where(length > precision, length, 0)
        return _moved(state, direction, length, length * shrinkage, moving, derivatives_at)

    final = lax.while_loop(
        lambda state: jnp.any(_unfinished(state, tolerance)),
        step,
        _start(sample_weights, start),
    )
    return final.weights, final.derivatives, final.iterations


def _start(sample_weights: Float[Array, "n U"], start: Float[Array, "K"]) -> _Newton:
    """Every user at the prior; those without comparisons are there for good.

    Derivatives of 0 make a first step of length 0. So F is evaluated in one place, inside the
    loop, which halves the code to compile.
    """
    size, (count, users) = len(start), sample_weights.shape
    zeros = functools.partial(jnp.zeros, dtype=start.dtype)
    triangle = tuple(zeros((k + 1, users)) for k in range(size))
    return _Newton(
        weights=jnp.broadcast_to(start[:, None], (size, users)),
        derivatives=_Derivatives(zeros((count, users)), zeros((size, users)), triangle),
        last_gap=zeros(users),
        stride=zeros(users),
        moving=jnp.any(sample_weights > 0, axis=0) & (size > 1),
        iterations=jnp.full(users, -1, jnp.int32),
    )


def _unfinished(state: _Newton, tolerance: Float[Array, ""]) -> Bool[Array, "U"]:
    """Users whose gap is unknown, or too large while it can still fall.

    Newton's error squares with each step: once a step is as small as the square root of the
    precision, the next weights are as exact as they get, and a gap that no longer halves is
    rounding.
    """
    _, gap = _centered(state.derivatives.gradient, state.weights)
    precision = math.sqrt(float(np.finfo(gap.dtype).eps))
    precise = (state.stride > 0) & (state.stride <= precision)
    exhausted = (precise & (gap > state.last_gap / 2)) | (state.iterations >= MAX_STEPS)
    return (state.iterations < 0) | (state.moving & (gap > tolerance) & ~exhausted)


def _newton_direction(
    state: _Newton, barrier: Float[Array, "K"], tolerance: Float[Array, ""]
) -> tuple[Bool[Array, "U"], Float[Array, "K U"]]:
    moving = state.moving & _unfinished(state, tolerance)
    gradient, _ = _centered(state.derivatives.gradient, state.weights)
    diagonal = _barrier_curvature(barrier, state.weights)
    return moving, -_tangent_solve(state.derivatives.hessian, diagonal, gradient)


def _moved(
    state: _Newton,
    direction: Float[Array, "K U"],
    length: Float[Array, "U"],
    stride: Float[Array, "U"],
    moving: Bool[Array, "U"],
    derivatives_at: Callable[[Array], _Derivatives],
) -> _Newton:
    weights = state.weights + length[None] * direction
    weights = jnp.where(moving[None], weights / _fold(jnp.add, weights)[None], state.weights)
    return _Newton(
        weights=weights,
        derivatives=derivatives_at(weights),
        last_gap=_centered(state.derivatives.gradient, state.weights)[1],
        stride=stride,
        moving=moving & (length > 0),
        iterations=state.iterations + (moving | (state.iterations < 0)).astype(jnp.int32),
    )


def _longest(shrinkage: Float[Array, "U"]) -> Float[Array, "U"]:
    """The longest step that stays well inside: at most Newton's, no weight below a twentieth."""
    return 1 / jnp.maximum(1, shrinkage / FARTHEST)


def _lengthened(
    length: Float[Array, "U"],
    shrinkage: Float[Array, "U"],
    moving: Bool[Array, "U"],
    state: _Newton,
    changes: Float[Array, "n U"],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    direction: Float[Array, "K U"],
) -> Float[Array, "U"]:
    """A longer step where the slope of F at its end is still negative: F is convex, so it descends.

    Matters for margins beyond 10 nats, where the bound on the curvature is poor: without it a
    margin of 1e4 would move by about 10 nats a step. Bisects the logarithm of the length.
    """
    longest = _longest(shrinkage)

    def undecided(search: tuple[Array, Array]) -> Array:
        descending, limit = search
        return moving & (limit > STEP_RATIO * descending)

    def bisect(search: tuple[Array, Array]) -> tuple[Array, Array]:
        descending, limit = search
        middle = jnp.sqrt(descending * limit)
        wrong = jax.nn.sigmoid(-(state.derivatives.margins + middle[None] * changes))
        slope = -jnp.sum(sample_weights * wrong * changes, axis=0) - jnp.sum(
            barrier[:, None] * direction / (state.weights + middle[None] * direction), axis=0
        )
        descends = undecided(search) & (slope <= 0)
        ascends = undecided(search) & ~(slope <= 0)
        return jnp.where(descends, middle, descending), jnp.where(ascends, middle, limit)

    search = (jnp.minimum(length, longest), longest)
    search = lax.while_loop(lambda s: jnp.any(undecided(s)), bisect, search)
    return search[0]


def _mix_rows(rows: Float[Array, "n K U"], weights: Float[Array, "K U"]) -> Float[Array, "n U"]:
    return _fold(jnp.add, (rows * weights[None]).transpose(1, 0, 2))


def _derivatives(
    rows: Float[Array, "n K U"],
    margins: Float[Array, "n U"],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    weights: Float[Array, "K U"],
) -> _Derivatives:
    """Gradient of F and Hessian of its losses; `rows` are the derivatives of the margins by w."""
    right, wrong = jax.nn.sigmoid(margins), jax.nn.sigmoid(-margins)
    slopes = sample_weights * wrong
    curvatures = slopes * right
    pull = barrier[:, None] / weights
    gradient = _fold_rows(lambda total, row, slope: total - slope[None] * row, -pull, rows, slopes)

    def add_row(
        lower: tuple[Array, ...], row: Float[Array, "K U"], curvature: Float[Array, "U"]
    ) -> tuple[Array, ...]:
        return tuple(
            total + (curvature * row[k])[None] * row[: k + 1] for k, total in enumerate(lower)
        )

    nothing = tuple(jnp.zeros_like(weights[: k + 1]) for k in range(len(barrier)))
    return _Derivatives(margins, gradient, _fold_rows(add_row, nothing, rows, curvatures))


def _bent(
    derivatives: _Derivatives,
    bends: Float[Array, "n K K U"],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    weights: Float[Array, "K U"],
) -> _Derivatives:
    """Adds Σ_j -mask_j σ(-m_j) ∇²m_j, the part of the Hessian that linear margins don't have.

    For users whose whole Hessian is positive definite on the plane Σ_k d_k = 0; the others keep
    Gauss and Newton's. Worked out in relative changes d_k / w_k, where the barrier's part is b_k
    and weights of very different size do no harm. The plane is then that orthogonal to w; the
    Hessian across it has no effect, and is replaced by a large number.
    """
    slopes = sample_weights * jax.nn.sigmoid(-derivatives.margins)
    bend = -jnp.sum(slopes[:, None, None] * bends, axis=0)
    gauss_newton = _square(derivatives.hessian)
    scale = weights[:, None] * weights[None]
    of_barrier = jnp.eye(len(barrier), dtype=barrier.dtype)[:, :, None] * barrier[:, None, None]
    relative = (gauss_newton + bend) * scale + of_barrier
    normal = weights / jnp.sqrt(jnp.sum(weights**2, axis=0))[None]
    across = jnp.sum(relative * normal[None], axis=1)
    height = jnp.sum(across * normal, axis=0) + jnp.sum(jnp.abs(relative), axis=(0, 1))
    relative = relative - normal[:, None] * across[None] - across[:, None] * normal[None]
    relative = relative + height[None, None] * normal[:, None] * normal[None]
    least = jnp.linalg.eigvalsh(relative.transpose(2, 0, 1))[:, 0]
    convex = least > LEAST_CURVATURE * jnp.min(barrier)
    hessian = jnp.where(convex[None, None], (relative - of_barrier) / scale, gauss_newton)
    return derivatives._replace(
        hessian=tuple(hessian[k, : k + 1] for k in range(len(derivatives.hessian)))
    )


def _centered(
    gradient: Float[Array, "K U"], weights: Float[Array, "K U"]
) -> tuple[Float[Array, "K U"], Float[Array, "U"]]:
    """Gradient less its mean under the weights, which is 0 at the optimum, and the gap.

    The part that is constant over k has no effect on the plane Σ_k d_k = 0 but for its rounding.
    """
    centered = gradient - _fold(jnp.add, gradient * weights)[None]
    return centered, -_fold(jnp.minimum, centered)


def _barrier_curvature(
    barrier: Float[Array, "K"], weights: Float[Array, "K U"]
) -> Float[Array, "K U"]:
    """The barrier's part of the Hessian, which is diagonal.

    In exact arithmetic it is a lower bound of every pivot when the Hessian is eliminated, in any
    order. Where rounding takes a pivot below, as with margins of 1e4, the bound stands in.
    """
    return barrier[:, None] / weights / weights


def _tangent_solve(
    lower: tuple[Array, ...], diagonal: Float[Array, "K U"], right: Float[Array, "K U"]
) -> Float[Array, "K U"]:
    """Z (Zᵀ H Z)⁻¹ Zᵀ right: the x with H x + ν 1 = right and Σ_k x_k = 0."""
    if len(lower) > COLUMNS_WRITTEN_OUT:
        return _fold(jnp.add, (_tangent_inverse(lower, diagonal) * right[None]).transpose(1, 0, 2))
    a, y = _solve_written_out(lower, diagonal, right, jnp.ones_like(right))
    return a - y * (_fold(jnp.add, a) / _fold(jnp.add, y))[None]


def _tangent_inverse(
    lower: tuple[Array, ...], diagonal: Float[Array, "K U"]
) -> Float[Array, "K K U"]:
    """Z (Zᵀ H Z)⁻¹ Zᵀ = H⁻¹ - y yᵀ / Σy, y = H⁻¹ 1; H⁻¹ by Gauss and Jordan's elimination."""
    size = len(lower)
    of_barrier = jnp.eye(size, dtype=diagonal.dtype)[:, :, None] * diagonal[None]

    def eliminate(k: Int[Array, ""], system: Float[Array, "K K U"]) -> Float[Array, "K K U"]:
        pivot, column = jnp.maximum(system[k, k], diagonal[k]), system[:, k]
        pivot_row = system[k].at[k].set(1) / pivot[None]
        reduced = system - column[:, None] * pivot_row[None]
        return reduced.at[:, k].set(-column / pivot[None]).at[k].set(pivot_row)

    inverse: Array = lax.fori_loop(0, size, eliminate, _square(lower) + of_barrier)
    y = _fold(jnp.add, inverse)
    return inverse - y[:, None] * (y / _fold(jnp.add, y)[None])[None]


def _square(lower: tuple[Array, ...]) -> Float[Array, "K K U"]:
    """The symmetric matrix of which `lower` holds the triangle."""
    size = len(lower)
    below = jnp.stack([jnp.pad(row, [(0, size - 1 - k), (0, 0)]) for k, row in enumerate(lower)])
    strictly = jnp.tri(size, k=-1, dtype=bool)[:, :, None]
    return below + jnp.where(strictly, below, 0).transpose(1, 0, 2)


def _solve_written_out(
    lower: tuple[Array, ...], diagonal: Float[Array, "K U"], *rights: Float[Array, "K U"]
) -> list[Float[Array, "K U"]]:
    """H⁻¹ right by Cholesky's factors, one scalar at a time: faster than a loop, but K³ terms.

    Each factor ends in a division on purpose: XLA fuses products into their users, computing them
    again for each, but keeps the result of a division.
    """
    factors: list[list[Array]] = []
    for k, row in enumerate(lower):
        factor: list[Array] = []
        for above in range(k):
            known = _dot(factor, factors[above][:above])
            factor.append((row[above] - known) / factors[above][above])
        pivot = row[k] + diagonal[k] - _dot(factor, factor)
        factors.append([*factor, jnp.sqrt(jnp.maximum(pivot, diagonal[k]))])
    solutions = []
    for right in rights:
        forward: list[Array] = []
        for k, factor in enumerate(factors):
            forward.append((right[k] - _dot(factor[:k], forward)) / factor[k])
        backward: list[Array] = []  # from the last to the first
        for k in reversed(range(len(factors))):
            below = [factors[i][k] for i in reversed(range(k + 1, len(factors)))]
            backward.append((forward[k] - _dot(below, backward)) / factors[k][k])
        solutions.append(jnp.stack(backward[::-1]))
    return solutions


def _dot(left: list[Array], right: list[Array]) -> Array | float:
    return sum((a * b for a, b in zip(left, right, strict=True)), start=0.0)


def _fit_from(
    weights: Float[Array, "K U"],
    derivatives: _Derivatives,
    barrier: Float[Array, "K"],
    sample_weights: Float[Array, "n U"],
    iterations: Int[Array, "U"],
) -> SimplexFit:
    covariance = _tangent_inverse(derivatives.hessian, _barrier_curvature(barrier, weights))
    _, gap = _centered(derivatives.gradient, weights)
    exact = ~jnp.any(sample_weights > 0, axis=0) | (len(weights) == 1)
    return SimplexFit(
        weights=weights.T,
        gap=lax.stop_gradient(jnp.where(exact, 0, jnp.maximum(gap, 0))),
        covariance=covariance.transpose(2, 0, 1),
        iterations=iterations,
    )


# Compiled here, although callers compile kernels: a loop outside of compiled code is compiled anew
# at each call, which takes seconds.
@jax.jit
def _fit_in_blocks(
    rows: Float[Array, "n K U"],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    start: Float[Array, "K"],
    tolerance: Float[Array, ""],
) -> SimplexFit:
    """Fits users block by block: a block stays in the cache, and stops when its last user stops."""

    def fit_block(block: tuple[Array, Array]) -> SimplexFit:
        weights, derivatives, iterations = _minimize(*block, barrier, start, tolerance)
        return _fit_from(weights, derivatives, barrier, block[1], iterations)

    count, size, users = rows.shape
    largest = max(NUMBERS_PER_BLOCK // (count * size + 2 * size * size), LEAST_BLOCK)
    if jax.default_backend() != "cpu" or users <= largest:
        return fit_block((rows, sample_weights))
    streams = [
        lax.map(fit_block, stream)
        for stream in zip(_blocks(rows, largest), _blocks(sample_weights, largest), strict=True)
    ]
    fit: SimplexFit = jax.tree.map(
        lambda *parts: jnp.concatenate(parts).reshape(-1, *parts[0].shape[2:])[:users], *streams
    )
    return fit


def _blocks(values: Array, largest: int) -> list[Array]:
    """Users, the last axis, cut into blocks that lead, and those dealt to streams."""
    *others, users = values.shape
    even = math.ceil(users / (STREAMS * math.ceil(users / (STREAMS * largest))))
    # A multiple of 16 for vector registers, an odd one because strides of a power of two collide
    # in the cache.
    block = 16 * (2 * (even // 32) + 1)
    count = STREAMS * math.ceil(users / (STREAMS * block))
    missing = [(0, 0)] * len(others) + [(0, count * block - users)]
    blocks = jnp.moveaxis(jnp.pad(values, missing).reshape(*others, count, block), -2, 0)
    return jnp.split(blocks, STREAMS)


def _fold(operation: Callable[[Array, Array], Array], values: Array) -> Array:
    """Folds the leading axis, written out: XLA's reductions over it are far slower on a CPU."""
    total: Array = functools.reduce(operation, list(values))
    return total


def _fold_rows(operation: Callable[..., Any], start: Any, *values: Array) -> Any:
    """The same for an axis as long as the data: written out a few rows at a time."""
    total, _ = lax.scan(
        lambda total, row: (operation(total, *row), None), start, values, unroll=ROWS_WRITTEN_OUT
    )
    return total


def _cast(fit: SimplexFit, dtype: Any) -> SimplexFit:
    weights, gap, covariance = (x.astype(dtype) for x in fit[:3])
    return SimplexFit(weights, gap, covariance, fit.iterations)


def _dtypes(margins: Array | jax.ShapeDtypeStruct) -> tuple[Any, Any]:
    """Where to compute and what to return: float32 for what is narrower, and the dtype given."""
    compute = jnp.float64 if margins.dtype == jnp.float64 else jnp.float32
    return compute, margins.dtype if jnp.issubdtype(margins.dtype, jnp.floating) else compute


def _check_shapes(
    margins: Array | jax.ShapeDtypeStruct,
    mask: Array,
    prior: Array,
    strength: ArrayLike,
    tolerance: ArrayLike,
) -> None:
    given = f"margins {margins.shape}, mask {mask.shape}, prior {prior.shape}"
    if margins.ndim != 3 or mask.shape != margins.shape[:2] or prior.shape != margins.shape[2:]:
        raise ValueError(f"wanted margins (U, n, K), mask (U, n) and prior (K,), got {given}")
    if not prior.size:
        raise ValueError(f"wanted at least one prototype, got {given}")
    for name, value in (("strength", strength), ("tolerance", tolerance)):
        if jnp.shape(value) != ():
            raise ValueError(f"{name} must be one number, got an array of shape {jnp.shape(value)}")
