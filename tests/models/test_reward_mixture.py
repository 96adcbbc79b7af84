"""The reward mixture against its equation, and its symmetries."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax import models
from paljax.models import gather, margins, reward_mixture

NUM_ITEMS, WIDTH, HIDDEN, K = 11, 5, 7, 3
ITEMS = jax.random.normal(jax.random.key(0), (NUM_ITEMS, WIDTH))
WEIGHTS = jax.nn.softmax(jax.random.normal(jax.random.key(1), (NUM_ITEMS, K)), axis=1)

every_trunk = pytest.mark.parametrize("trunk", ["common", "separate"])


def build(trunk, num_prototypes=K, hidden_layers=1):
    model = reward_mixture(
        num_prototypes=num_prototypes,
        trunk=trunk,
        hidden_layers=hidden_layers,
        hidden_width=HIDDEN,
    )
    return model, model.init(jax.random.key(2), ITEMS, None)


def gelu(value):
    return value * 0.5 * (1 + math.erf(value / math.sqrt(2)))


@every_trunk
def test_rewards_are_those_of_one_network_a_group(trunk):
    model, params = build(trunk)
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["mixture"])
    expected = np.empty((NUM_ITEMS, K))
    for i in range(NUM_ITEMS):
        for k in range(K):
            hidden, last = layers["Dense_0"], layers["Dense_1"]["kernel"]
            kernel, bias = hidden["kernel"], hidden["bias"]
            if trunk == "separate":
                kernel, bias, last = kernel[k], bias[k], last[k]
            column = 0 if trunk == "separate" else k
            expected[i, k] = sum(
                gelu(bias[h] + sum(float(ITEMS[i, a]) * kernel[a, h] for a in range(WIDTH)))
                * last[h, column]
                for h in range(HIDDEN)
            )
    rewards = model.prototype_rewards(params, model.encode_items(params, ITEMS), None)
    np.testing.assert_allclose(rewards, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(np.asarray(rewards), axis=1).min() > 1e-3, "the groups start apart"


@every_trunk
def test_margins_are_linear_and_change_sign_with_the_sides(trunk):
    model, params = build(trunk)
    encoded = model.encode_items(params, ITEMS)
    chosen, rejected = encoded, gather(encoded, jnp.arange(NUM_ITEMS)[::-1])
    forth = margins(model, params, (chosen, rejected), None, WEIGHTS)
    back = margins(model, params, (rejected, chosen), None, WEIGHTS)
    np.testing.assert_array_equal(forth, -back)
    by_group = model.prototype_rewards(params, encoded, None)
    mixed = np.sum(np.asarray(by_group) * np.asarray(WEIGHTS), axis=1)
    np.testing.assert_allclose(model.rewards(params, encoded, None, WEIGHTS), mixed, rtol=1e-5)


@every_trunk
@pytest.mark.parametrize("hidden_layers", [0, 2])
def test_one_reward_is_bradley_terry(trunk, hidden_layers):
    model, params = build(trunk, num_prototypes=1, hidden_layers=hidden_layers)
    shared = models.bradley_terry(hidden_layers=hidden_layers, hidden_width=HIDDEN)
    inner = params["mixture"]
    if trunk == "separate":
        inner = jax.tree.map(lambda leaf: leaf[0], inner)
    rewards = model.prototype_rewards(params, model.encode_items(params, ITEMS), None)
    expected = shared.encode_items({"shared": inner}, ITEMS)
    np.testing.assert_allclose(rewards[:, 0], expected, rtol=1e-6, atol=1e-6)
