"""Damped Newton on the simplex: steps, their lengths, and when to stop. Axes as in `simplex`.

Users are the last axis; each moves by itself and stops by itself.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from paljax.kernels.folds import fold, fold_rows
from paljax.kernels.simplex_objective import (
    Derivatives,
    barrier_curvature,
    centered,
    derivatives_of,
    mix_rows,
)
from paljax.kernels.simplex_plane import tangent_solve

# Newton needs 4 to 15 steps for margins up to 10 nats and up to 80 for margins of 1e4.
MAX_STEPS = 100
# A damped step is lengthened when a longer one, up to this factor, may still descend.
STEP_RATIO = 2.0
# The part of the way to the simplex's boundary that a step may take.
FARTHEST = 0.95


class _Newton(NamedTuple):
    """The state of the iteration, users last."""

    weights: Float[Array, "K U"]
    derivatives: Derivatives  # at `weights`
    last_gap: Float[Array, "U"]  # before the last step
    stride: Float[Array, "U"]  # of the last step: the largest relative or log-odds change
    moving: Bool[Array, "U"]
    iterations: Int[Array, "U"]  # -1 before `derivatives` are known


@jax.custom_jvp
def minimize(
    rows: Float[Array, "n K U"],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    start: Float[Array, "K"],
    tolerance: Float[Array, ""],
) -> tuple[Float[Array, "K U"], Derivatives, Int[Array, "U"]]:
    """The optimum by damped Newton steps, F there, and the steps that each user took."""

    def derivatives_at(weights: Array) -> Derivatives:
        return derivatives_of(rows, mix_rows(rows, weights), sample_weights, barrier, weights)

    def step(state: _Newton) -> _Newton:
        moving, direction = _newton_direction(state, barrier, tolerance)
        changes = mix_rows(rows, direction)
        shrinkage = fold(jnp.maximum, -direction / state.weights)  # r of the docstring
        inward = fold_rows(  # R
            jnp.maximum, jnp.zeros_like(shrinkage), -changes * jnp.sign(state.derivatives.margins)
        )
        stride = jnp.maximum(shrinkage, inward / 2)
        length = _lengthened(
            1 / (1 + stride), shrinkage, moving, state, changes, sample_weights, barrier, direction
        )
        # A weight that grows by much is not at rest either, however small it is.
        change = jnp.maximum(stride, fold(jnp.maximum, jnp.abs(direction) / state.weights))
        return _moved(state, direction, length, change, moving, derivatives_at)

    final = lax.while_loop(
        lambda state: jnp.any(_unfinished(state, tolerance)),
        step,
        _start(sample_weights, start),
    )
    return final.weights, final.derivatives, final.iterations


@minimize.defjvp
def _minimize_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Any, Any]:
    """At the optimum ∇F is constant over k: dw = -Z (Zᵀ H Z)⁻¹ Zᵀ d(∇F), w held in d(∇F)."""
    weights, derivatives, iterations = minimize(*primals)

    def derivatives_at(
        rows: Array, sample_weights: Array, barrier: Array, weights: Array
    ) -> Derivatives:
        return derivatives_of(rows, mix_rows(rows, weights), sample_weights, barrier, weights)

    at, moved = (*primals[:3], weights), tangents[:3]
    _, held = jax.jvp(derivatives_at, at, (*moved, jnp.zeros_like(weights)))
    diagonal = barrier_curvature(primals[2], weights)
    weights_dot = -tangent_solve(derivatives.hessian, diagonal, held.gradient)
    _, derivatives_dot = jax.jvp(derivatives_at, at, (*moved, weights_dot))
    no_tangent = np.zeros(iterations.shape, jax.dtypes.float0)
    return (weights, derivatives, iterations), (weights_dot, derivatives_dot, no_tangent)


def minimize_nonlinear(
    margins_at: Callable[[Array], Array],
    derivatives_at: Callable[[Array], Derivatives],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    start: Float[Array, "K"],
    tolerance: Float[Array, ""],
) -> tuple[Float[Array, "K U"], Derivatives, Int[Array, "U"]]:
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

        shrinkage = fold(jnp.maximum, -direction / state.weights)
        length = _longest(shrinkage)
        length, _ = lax.while_loop(lambda s: jnp.any(s[1]), halve, (length, too_long(length)))
        length = jnp.where(length > precision, length, 0)
        change = length * fold(jnp.maximum, jnp.abs(direction) / state.weights)
        return _moved(state, direction, length, change, moving, derivatives_at)

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
        derivatives=Derivatives(zeros((count, users)), zeros((size, users)), triangle),
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
    _, gap = centered(state.derivatives.gradient, state.weights)
    precision = math.sqrt(float(np.finfo(gap.dtype).eps))
    precise = (state.stride > 0) & (state.stride <= precision)
    exhausted = (precise & (gap > state.last_gap / 2)) | (state.iterations >= MAX_STEPS)
    return (state.iterations < 0) | (state.moving & (gap > tolerance) & ~exhausted)


def _newton_direction(
    state: _Newton, barrier: Float[Array, "K"], tolerance: Float[Array, ""]
) -> tuple[Bool[Array, "U"], Float[Array, "K U"]]:
    moving = state.moving & _unfinished(state, tolerance)
    gradient, _ = centered(state.derivatives.gradient, state.weights)
    diagonal = barrier_curvature(barrier, state.weights)
    return moving, -tangent_solve(state.derivatives.hessian, diagonal, gradient)


def _moved(
    state: _Newton,
    direction: Float[Array, "K U"],
    length: Float[Array, "U"],
    stride: Float[Array, "U"],
    moving: Bool[Array, "U"],
    derivatives_at: Callable[[Array], Derivatives],
) -> _Newton:
    weights = state.weights + length[None] * direction
    # A step keeps at least a twentieth of every weight: less, or a negative weight, is rounding,
    # and below the other bound the barrier's curvature would overflow.
    smallest = math.sqrt(float(np.finfo(weights.dtype).tiny))
    kept = jnp.maximum((1 - FARTHEST) / 2 * state.weights, smallest)
    weights = jnp.maximum(weights, kept)
    weights = jnp.where(moving[None], weights / fold(jnp.add, weights)[None], state.weights)
    return _Newton(
        weights=weights,
        derivatives=derivatives_at(weights),
        last_gap=centered(state.derivatives.gradient, state.weights)[1],
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
        # A length that rounding has made 0 can't be lengthened by any factor.
        return moving & (descending > 0) & (limit > STEP_RATIO * descending)

    def bisect(search: tuple[Array, Array]) -> tuple[Array, Array]:
        descending, limit = search
        # Two roots: the product of the lengths may be too small for float32.
        middle = jnp.sqrt(descending) * jnp.sqrt(limit)
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
