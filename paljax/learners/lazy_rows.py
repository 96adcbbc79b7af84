"""Row-sparse optimisation of a table: a step reads and writes only the rows that it is given.

U rows in the table, R rows in a step, K columns. The cost of a step depends on R and not on U, and
the other rows and their optimiser state do not move by a bit.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from paljax.models import gather


class LazyRows(NamedTuple):
    """An optax transformation that runs on each row by itself, with a step count a row."""

    init: Callable[[Float[Array, "U K"]], optax.OptState]  # table -> state, leading axis U
    # (gradients [R, K], rows [R], state, table, learning_rate) -> (table, state)
    update: Callable[
        [
            Float[Array, "R K"],
            Int[Array, "R"],
            optax.OptState,
            Float[Array, "U K"],
            Float[Array, ""],
        ],
        tuple[Float[Array, "U K"], optax.OptState],
    ]


def lazy_rows(transformation: optax.GradientTransformation) -> LazyRows:
    """Run an optax transformation lazily on the rows of a table.

    A dense Adam costs O(U K) a step and moves rows without a gradient by their old moments; here
    moments, step counts and values of absent rows stay as they are.

    Args:
        transformation: What each row runs, before the learning rate: that follows the steps of the
            whole fit and not those of a row. It must treat rows independently (Adam does, clipping
            by the norm of the whole table does not).

    Returns:
        A pair of pure functions. Rows must be distinct and sorted; a row number >= U is padding
        and is neither read nor written.
    """

    def init(table: Float[Array, "U K"]) -> optax.OptState:
        return jax.vmap(transformation.init)(table)

    def update(
        gradients: Float[Array, "R K"],
        rows: Int[Array, "R"],
        state: optax.OptState,
        table: Float[Array, "U K"],
        learning_rate: Float[Array, ""],
    ) -> tuple[Float[Array, "U K"], optax.OptState]:
        last = table.shape[0] - 1
        here_table, here_state = gather((table, state), jnp.minimum(rows, last))
        updates, here_state = jax.vmap(transformation.update)(gradients, here_state, here_table)
        here_table = here_table - learning_rate * updates
        updated: tuple[Array, optax.OptState] = jax.tree.map(
            lambda whole, part: whole.at[rows].set(
                part, mode="drop", unique_indices=True, indices_are_sorted=True
            ),
            (table, state),
            (here_table, here_state),
        )
        return updated

    return LazyRows(init, update)
