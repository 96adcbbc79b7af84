"""Fits of many users, block by block, and what a fit comes to. Axes as in `simplex`."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from paljax.kernels.simplex_newton import minimize
from paljax.kernels.simplex_objective import Derivatives, barrier_curvature, centered
from paljax.kernels.simplex_plane import tangent_inverse

# What a block of users may keep at hand: a quarter of a megabyte of float32, in a second-level
# cache. An accelerator takes all users at once.
NUMBERS_PER_BLOCK = 2**16
# Below this a block costs more to start than to fit.
LEAST_BLOCK = 128
# Loops over blocks that do not depend on each other: XLA runs them on as many cores, while there
# is too little in one block to share. Each is compiled on its own, so no more than these.
STREAMS = 2


class SimplexFit(NamedTuple):
    """Weights of users, and how far they can be trusted."""

    weights: Float[Array, "U K"]  # > 0, each row sums to 1
    gap: Float[Array, "U"]  # Frank-Wolfe gap in nats: F(weights) - min F <= gap when F is convex
    covariance: Float[Array, "U K K"]  # Laplace approximation on the simplex; rows sum to 0
    iterations: Int[Array, "U"]  # Newton steps taken


# Compiled here, although callers compile kernels: a loop outside of compiled code is compiled anew
# at each call, which takes seconds.
@jax.jit
def fit_in_blocks(
    rows: Float[Array, "n K U"],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    start: Float[Array, "K"],
    tolerance: Float[Array, ""],
) -> SimplexFit:
    """Fits users block by block: a block stays in the cache, and stops when its last user stops."""

    def fit_block(block: tuple[Array, Array]) -> SimplexFit:
        weights, derivatives, iterations = minimize(*block, barrier, start, tolerance)
        return fit_from(weights, derivatives, barrier, block[1], iterations)

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


def fit_from(
    weights: Float[Array, "K U"],
    derivatives: Derivatives,
    barrier: Float[Array, "K"],
    sample_weights: Float[Array, "n U"],
    iterations: Int[Array, "U"],
) -> SimplexFit:
    covariance = tangent_inverse(derivatives.hessian, barrier_curvature(barrier, weights))
    _, gap = centered(derivatives.gradient, weights)
    exact = ~jnp.any(sample_weights > 0, axis=0) | (len(weights) == 1)
    return SimplexFit(
        weights=weights.T,
        gap=lax.stop_gradient(jnp.where(exact, 0, jnp.maximum(gap, 0))),
        covariance=covariance.transpose(2, 0, 1),
        iterations=iterations,
    )


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
