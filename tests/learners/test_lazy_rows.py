"""A lazy step equals a dense one on its rows and leaves the other rows alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from paljax.learners.lazy_rows import lazy_rows

NUM_ROWS, WIDTH = 7, 3


def start():
    table = jax.random.normal(jax.random.key(0), (NUM_ROWS, WIDTH))
    rows = lazy_rows(optax.scale_by_adam())
    return rows, table, rows.init(table)


def test_rows_outside_the_step_do_not_move_by_a_bit():
    rows, table, state = start()
    absent = np.array([0, 2, 3, 5])
    before = jax.tree.map(lambda leaf: np.asarray(leaf[absent]), (table, state))
    for _ in range(3):
        gradients = jnp.ones((4, WIDTH))
        # The last two places are padding.
        table, state = rows.update(gradients, jnp.array([1, 4, 7, 8]), state, table, 0.1)
    after = jax.tree.map(lambda leaf: np.asarray(leaf[absent]), (table, state))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert int(state.count[1]) == int(state.count[4]) == 3
    assert int(state.count[6]) == 0


def test_a_row_that_is_in_every_step_moves_as_under_plain_adam():
    rows, table, state = start()
    adam = optax.adam(0.1)
    plain, plain_state = table[4], adam.init(table[4])
    for number in range(5):
        gradient = jax.random.normal(jax.random.key(number), (WIDTH,))
        both = jnp.stack([jnp.zeros(WIDTH), gradient])
        table, state = rows.update(both, jnp.array([1, 4]), state, table, 0.1)
        updates, plain_state = adam.update(gradient, plain_state, plain)
        plain = optax.apply_updates(plain, updates)
    np.testing.assert_allclose(table[4], plain, rtol=1e-6)


def test_a_row_keeps_its_own_step_count():
    """Adam's bias correction of a row follows the row's steps and not the fit's."""
    rows, table, state = start()
    gradient = jnp.full((1, WIDTH), 0.3)
    for _ in range(10):
        table, state = rows.update(gradient, jnp.array([1]), state, table, 0.1)
    moved, _ = rows.update(gradient, jnp.array([6]), state, table, 0.1)
    # The first Adam step is the learning rate, whatever the size of the gradient.
    np.testing.assert_allclose(table[6] - moved[6], np.full(WIDTH, 0.1), rtol=1e-4)
