"""Weights of all users at once, whoever has how many comparisons."""

import jax
import jax.numpy as jnp
import numpy as np

from paljax import models
from paljax.data.batches import place_tables
from paljax.data.dataset import Comparisons
from paljax.kernels import fit_simplex
from paljax.learners.new_users import GAP_TOLERANCE, adapt
from paljax.predictions import encode, pair, prototype_margins

COUNTS = [5, 0, 300, 5, 30, 30, 65]
ITEMS, K = 50, 3


def test_users_in_blocks_are_fitted_as_each_alone(quick_compilation):
    generator = np.random.default_rng(0)
    values = {"num_prototypes": K, "latent_width": 4}
    model = models.build("pal_a", values, shared=None, personal=True)
    items = generator.standard_normal((ITEMS, 6)).astype(np.float32)
    params = model.init(jax.random.key(0), items, None)
    encoded = encode(model, params, place_tables(items, None))
    user = generator.permutation(np.repeat(np.arange(len(COUNTS)), COUNTS)).astype(np.int32)
    chosen, rejected = generator.integers(0, ITEMS, (2, len(user))).astype(np.int32)
    none = np.full(len(user), -1, np.int32)
    weight = generator.uniform(0.5, 2, len(user)).astype(np.float32)
    rows = Comparisons(user, none, chosen, rejected, weight, none > 0, none + 1)
    population = jnp.array([0.5, 0.3, 0.2])
    settings = {"prior_strength": 2.0, "encoded": encoded}
    found = adapt(model, params, population, comparisons=rows, num_users=len(COUNTS), **settings)
    assert found.certified
    # In float32, of which a sum over hundreds of comparisons loses digits.
    assert (np.asarray(found.gap) <= GAP_TOLERANCE + 1e-6 * np.array(COUNTS)).all()
    np.testing.assert_array_equal(found.weights[1], population)  # who has said nothing
    pairs = pair(encoded, rows)
    margin = np.asarray(prototype_margins(model, params, pairs))
    for number, count in enumerate(COUNTS):
        mine = np.flatnonzero(rows.user == number)
        # Of one shape, so that this is one program.
        padded = np.resize(mine, max(COUNTS)) if count else np.zeros(max(COUNTS), int)
        mask = np.where(np.arange(max(COUNTS)) < count, rows.weight[padded], 0)
        alone = fit_simplex(
            margin[padded][None],
            mask[None],
            prior=population,
            strength=2.0,
            tolerance=GAP_TOLERANCE,
        )
        np.testing.assert_allclose(found.weights[number], alone.weights[0], atol=1e-4)
