"""Linear systems on the plane Σ_k x_k = 0, of every user. K prototypes, U users, who come last."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from paljax.kernels.folds import fold

# Prototypes up to which the linear solve of a step is written out: its terms grow with K³, and at
# K = 12 they doubled the compile time of a training step without making it faster.
COLUMNS_WRITTEN_OUT = 8


def tangent_solve(
    lower: tuple[Array, ...], diagonal: Float[Array, "K U"], right: Float[Array, "K U"]
) -> Float[Array, "K U"]:
    """Z (Zᵀ H Z)⁻¹ Zᵀ right: the x with H x + ν 1 = right and Σ_k x_k = 0."""
    if len(lower) > COLUMNS_WRITTEN_OUT:
        return fold(jnp.add, (tangent_inverse(lower, diagonal) * right[None]).transpose(1, 0, 2))
    a, y = _solve_written_out(lower, diagonal, right, jnp.ones_like(right))
    return a - y * (fold(jnp.add, a) / fold(jnp.add, y))[None]


def tangent_inverse(
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

    inverse: Array = lax.fori_loop(0, size, eliminate, square(lower) + of_barrier)
    y = fold(jnp.add, inverse)
    return inverse - y[:, None] * (y / fold(jnp.add, y)[None])[None]


def square(lower: tuple[Array, ...]) -> Float[Array, "K K U"]:
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
