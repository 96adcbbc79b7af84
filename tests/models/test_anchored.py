"""Rewards that deviate from a shared one: the equation, and what no learner may move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax import models
from paljax.data.batches import Batch
from paljax.data.episodes import EpisodeBatch
from paljax.learners.fit_by_episodes import fit_by_episodes
from paljax.learners.fit_by_gradient import fit_by_gradient
from paljax.learners.losses import LOSSES
from paljax.learners.optimizers import PARAMETER_GROUPS, OptimizerSettings
from paljax.models import ANCHOR, VectorInputs

N, D, K, LATENT, VECTOR = 7, 4, 3, 5, 2


def model():
    """Both parts have a learned vector an item, each its own."""
    personal = models.pal_a(num_prototypes=K, latent_width=LATENT, user_point="latent")
    shared = models.bradley_terry(hidden_layers=1, hidden_width=6, dropout=0.5)
    personal, shared = (
        models.with_learned_vectors(part, items=(N, VECTOR), prompts=None)
        for part in (personal, shared)
    )
    return models.anchored(personal, shared), personal, shared


def inputs():
    features = jax.random.normal(jax.random.key(4), (N, D))
    return VectorInputs(features, jnp.arange(N).at[2].set(-1))


def weights():
    return jax.nn.softmax(jax.random.normal(jax.random.key(5), (N, K)), axis=1)


def initial():
    built = model()[0]
    return built, built.init(jax.random.key(6), inputs(), None)


def test_it_is_its_equation():
    built, params = initial()
    _, personal, shared = model()
    b = shared.encode_items(params[ANCHOR], inputs())
    own = np.asarray(personal.encode_items(params, inputs()), np.float64)
    given = built.rewards(params, built.encode_items(params, inputs()), None, weights())
    for n in range(N):
        w = np.asarray(weights(), np.float64)[n]
        expected = float(b[n]) + sum((w[k] - 1 / K) * own[n, k] for k in range(K))
        np.testing.assert_allclose(given[n], expected, rtol=1e-5, atol=1e-5)


def test_even_weights_give_the_shared_reward_to_the_bit():
    built, params = initial()
    even = jax.nn.softmax(jnp.zeros((N, K)), axis=1)
    given = built.rewards(params, built.encode_items(params, inputs()), None, even)
    shared = model()[2]
    np.testing.assert_array_equal(given, shared.encode_items(params[ANCHOR], inputs()))
    assert built.even_population


def test_rewards_are_mixtures_of_those_of_prototypes():
    built, params = initial()
    encoded = built.encode_items(params, inputs())
    by_prototype = built.prototype_rewards(params, encoded, None)
    assert by_prototype.shape == (N, K)
    mixed = np.sum(np.asarray(by_prototype) * np.asarray(weights()), axis=1)
    given = built.rewards(params, encoded, None, weights())
    np.testing.assert_allclose(given, mixed, rtol=2e-5, atol=2e-5)


def test_dropout_leaves_the_shared_reward_alone():
    built, params = initial()
    dropped = built.encode_items(params, inputs(), dropout_key=jax.random.key(0))
    np.testing.assert_array_equal(
        dropped.anchor, built.encode_items(params, inputs(), dropout_key=None).anchor
    )


def test_one_prototype_leaves_the_shared_reward():
    personal = models.pal_a(num_prototypes=1, latent_width=LATENT)
    shared = models.bradley_terry(hidden_layers=0)
    built = models.anchored(personal, shared)
    items = inputs().features
    params = built.init(jax.random.key(6), items, None)
    given = built.rewards(params, built.encode_items(params, items), None, jnp.ones((N, 1)))
    np.testing.assert_array_equal(given, shared.encode_items(params[ANCHOR], items))


def test_refuses_a_model_that_is_not_linear_in_the_weights():
    cosine = models.pal_a(num_prototypes=K, distance="cosine")
    with pytest.raises(ValueError, match="linear in the weights"):
        models.anchored(cosine, models.bradley_terry())


def settings():
    return OptimizerSettings(
        learning_rate=dict.fromkeys(PARAMETER_GROUPS, 0.1),
        weight_decay=dict.fromkeys(PARAMETER_GROUPS, 0.5),
        schedule="constant",
        warmup_fraction=0.0,
        clip_norm=1.0,
    )


def by_gradient(built):
    learner = fit_by_gradient(
        built,
        example_items=inputs(),
        example_prompts=None,
        num_users=2,
        loss=LOSSES["logistic"],
        prior_strength=1.0,
        optimizer=settings(),
    )
    ones = jnp.ones(4)
    return learner, Batch(
        items=inputs(),
        prompts=None,
        chosen=jnp.array([0, 1, 2, 3]),
        rejected=jnp.array([4, 5, 6, 0]),
        prompt=jnp.zeros(4, jnp.int32),
        user=jnp.array([0, 1, 0, 1]),
        users=jnp.array([0, 1]),
        weight=ones,
        prior_share=ones,
        target=ones,
        present=jnp.ones(4, bool),
    )


def by_episodes(built):
    learner = fit_by_episodes(
        built,
        example_items=inputs(),
        example_prompts=None,
        loss=LOSSES["logistic"],
        label_smoothing=0.0,
        prior_strength=1.0,
        optimizer=settings(),
    )
    return learner, EpisodeBatch(
        items=inputs(),
        prompts=None,
        chosen=jnp.array([[0, 1], [2, 3]]),
        rejected=jnp.array([[4, 5], [6, 0]]),
        prompt=jnp.zeros((2, 2), jnp.int32),
        support=jnp.array([[1.0, 0.0], [1.0, 0.0]]),
        query=jnp.array([[0.0, 1.0], [0.0, 1.0]]),
    )


@pytest.mark.parametrize("fitted", [by_gradient, by_episodes])
def test_a_step_moves_neither_the_shared_reward_nor_the_population(fitted):
    learner, batch = fitted(model()[0])
    first = learner.init(jax.random.key(1))
    then, metrics = jax.jit(learner.step)(first, batch)
    for before, after in zip(
        jax.tree.leaves(first.params[ANCHOR]), jax.tree.leaves(then.params[ANCHOR]), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(then.population, np.zeros(K))
    assert not np.array_equal(first.params["item_vectors"], then.params["item_vectors"])
    assert not np.array_equal(first.params["prototypes"], then.params["prototypes"])
    assert np.isfinite(metrics["grad_norm"])
    assert "grad_norm/frozen" not in metrics
