"""Contracts of every preference model, and their equations against the loops of the twins."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax import models
from paljax.models import VectorInputs, gather, margins
from tests.kernels import twins

NUM_ITEMS, ITEM_WIDTH, NUM_PROMPTS, PROMPT_WIDTH, LATENT, K = 11, 5, 4, 7, 6, 3

PAL_A = [
    {"user_point": point, "distance": distance}
    for point, distance in itertools.product(
        ["project_then_mix", "latent", "mix_then_project"], ["squared", "euclidean", "cosine"]
    )
]
PAL_B = [{"similarity": "inner"}, {"similarity": "cosine"}]
PERSONAL = [("pal_a", options) for options in PAL_A] + [("pal_b", options) for options in PAL_B]
SHARED = {"hidden_layers": 1, "hidden_width": 8}


def build(name, options, *, num_prototypes=K, shared=SHARED, **more):
    settings = {"num_prototypes": num_prototypes, "latent_width": LATENT, "hidden_layers": 1}
    return models.build(name, settings | options, shared=shared, **more)


def data(seed=0):
    items, prompts, weights = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            jax.random.split(jax.random.key(seed), 3),
            [(NUM_ITEMS, ITEM_WIDTH), (NUM_PROMPTS, PROMPT_WIDTH), (NUM_ITEMS, K)],
            strict=True,
        )
    )
    prompt_of_item = jnp.arange(NUM_ITEMS) % NUM_PROMPTS
    return items, prompts, prompt_of_item, jax.nn.softmax(weights, axis=1)


def rewards(model, params, weights, seed=0):
    items, prompts, prompt_of_item, _ = data(seed)
    encoded = model.encode_items(params, items)
    encoded_prompts = gather(model.encode_prompts(params, prompts), prompt_of_item)
    return model.rewards(params, encoded, encoded_prompts, weights)


def init(model, seed=3):
    items, prompts, _, _ = data()
    return model.init(jax.random.key(seed), items, prompts)


@pytest.mark.parametrize(("name", "options"), PERSONAL)
def test_prototypes_that_agree_are_one_prototype(name, options):
    """Whatever the weights: the reward of a model with K = 1, which all users share."""
    alone = build(name, options, num_prototypes=1)
    params = init(alone)
    copies = jax.tree.map(lambda leaf: jnp.repeat(leaf, K, axis=0), params["prototypes"])
    *_, weights = data()
    mixed = rewards(build(name, options), params | {"prototypes": copies}, weights)
    shared = rewards(alone, params, jnp.ones((NUM_ITEMS, 1)))
    np.testing.assert_allclose(mixed, shared, rtol=1e-4, atol=1e-4)
    assert np.ptp(np.asarray(shared)) > 1e-2


@pytest.mark.parametrize(("name", "options"), PERSONAL)
def test_with_one_prototype_every_user_has_the_same_reward_bit_for_bit(name, options):
    """Each of many users' weights are softmax of a logit of their own."""
    model = build(name, options, num_prototypes=1)
    params, (items, prompts, prompt_of_item, _) = init(model), data()
    encoded = model.encode_items(params, items)
    of_items = gather(model.encode_prompts(params, prompts), prompt_of_item)

    @jax.jit
    def for_user(logit):
        weights = jnp.broadcast_to(jax.nn.softmax(logit[None]), (NUM_ITEMS, 1))
        return model.rewards(params, encoded, of_items, weights)

    logits = 5 * jax.random.normal(jax.random.key(4), (37,))
    by_user = np.asarray(jax.vmap(for_user)(logits))
    np.testing.assert_array_equal(by_user, np.tile(by_user[0], (len(logits), 1)))
    np.testing.assert_array_equal(for_user(logits[5]), for_user(logits[6]))
    assert np.ptp(by_user[0]) > 1e-2


@pytest.mark.parametrize(("name", "options"), PERSONAL)
def test_swapping_the_sides_negates_the_margin(name, options):
    model = build(name, options)
    params = init(model)
    items, prompts, prompt_of_item, weights = data()
    encoded = model.encode_items(params, items)
    chosen, rejected = encoded, gather(encoded, jnp.arange(NUM_ITEMS)[::-1])
    encoded_prompts = gather(model.encode_prompts(params, prompts), prompt_of_item)
    forth = margins(model, params, (chosen, rejected), encoded_prompts, weights)
    back = margins(model, params, (rejected, chosen), encoded_prompts, weights)
    np.testing.assert_array_equal(forth, -back)
    assert np.abs(forth).max() > 1e-3


@pytest.mark.parametrize(("name", "options"), PERSONAL)
def test_linear_models_mix_their_prototype_rewards(name, options):
    model = build(name, options)
    params = init(model)
    _, prompts, prompt_of_item, weights = data()
    linear = options in ({"similarity": "inner"}, *PAL_A[0:4:3])
    assert (model.prototype_rewards is not None) == linear
    if linear:
        encoded = model.encode_items(params, data()[0])
        encoded_prompts = gather(model.encode_prompts(params, prompts), prompt_of_item)
        by_prototype = model.prototype_rewards(params, encoded, encoded_prompts)
        assert by_prototype.shape == (NUM_ITEMS, K)
        mixed = np.sum(np.asarray(by_prototype) * np.asarray(weights), axis=1)
        np.testing.assert_allclose(rewards(model, params, weights), mixed, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "options"), PERSONAL)
def test_permuting_prototypes_and_weights_together_changes_nothing(name, options):
    model = build(name, options)
    params = init(model)
    *_, weights = data()
    order = jnp.array([2, 0, 1])
    moved = params | {"prototypes": jax.tree.map(lambda leaf: leaf[order], params["prototypes"])}
    before, after = rewards(model, params, weights), rewards(model, moved, weights[:, order])
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)
    wrong = rewards(model, moved, weights)
    assert np.abs(np.asarray(wrong) - np.asarray(before)).max() > 1e-3


@pytest.mark.parametrize("options", PAL_A)
def test_pal_a_is_its_equation(options):
    model = build("pal_a", options, shared=None)
    params = init(model)
    items, _, _, weights = data()
    projector = jax.tree.map(np.asarray, params["projector"])

    def project(x):
        hidden = np.asarray(x) @ projector["Dense_0"]["kernel"] + projector["Dense_0"]["bias"]
        hidden = np.asarray(jax.nn.gelu(hidden, approximate=False))
        return hidden @ projector["Dense_1"]["kernel"] + projector["Dense_1"]["bias"]

    log_scale = float(params.get("log_scale", 0.0))
    expected = []
    for x, w in zip(items, weights, strict=True):
        z = project(x)
        if options["user_point"] == "mix_then_project":
            # One point instead of a mixture: the twin's mixture of one prototype.
            prototypes = project(w @ params["prototypes"])[None, :]
            w = np.ones(1)
        elif options["user_point"] == "latent":
            prototypes = np.asarray(params["prototypes"])
        else:
            prototypes = project(params["prototypes"])
        reward = twins.reward_pal_a(
            z, prototypes, np.asarray(w), distance=options["distance"], log_scale=log_scale
        )
        if options["distance"] == "squared":
            # The model leaves out the item-free -‖u‖².
            u = np.asarray(w) @ prototypes
            reward += u @ u
        expected.append(reward)
    actual = rewards(model, params, weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", PAL_B)
def test_pal_b_is_its_equation(options):
    model = build("pal_b", options | {"hidden_layers": 0}, shared=None)
    params = init(model)
    items, prompts, prompt_of_item, weights = data()
    dense, maps = params["projector"]["Dense_0"], params["prototypes"]["Dense_0"]
    log_scale = float(params.get("log_scale", 0.0))
    expected = []
    for n in range(NUM_ITEMS):
        z = np.asarray(items[n] @ dense["kernel"] + dense["bias"])
        c = prompts[prompt_of_item[n]]
        g = np.stack([np.asarray(c @ maps["kernel"][k] + maps["bias"][k]) for k in range(K)])
        expected.append(
            twins.reward_pal_b(
                z, g, np.asarray(weights[n]), similarity=options["similarity"], log_scale=log_scale
            )
        )
    np.testing.assert_allclose(rewards(model, params, weights), expected, rtol=1e-4, atol=1e-4)


def test_shared_part_starts_as_bradley_terry_and_adds_to_the_reward():
    shared, personal = models.bradley_terry(**SHARED), build("pal_a", PAL_A[0], shared=None)
    both = build("pal_a", PAL_A[0])
    params = init(both)
    chex.assert_trees_all_equal(params["shared"], init(shared)["shared"])
    *_, weights = data()
    together = rewards(both, params, weights)
    apart = rewards(shared, params, weights) + rewards(personal, params, weights)
    np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_scale_is_capped():
    model = build("pal_b", {"similarity": "cosine"}, shared=None)
    *_, weights = data()
    capped = init(model) | {"log_scale": jnp.log(100.0)}
    beyond = capped | {"log_scale": jnp.asarray(9.0)}
    np.testing.assert_allclose(
        rewards(model, capped, weights), rewards(model, beyond, weights), rtol=1e-5
    )


@pytest.mark.parametrize(("name", "options"), PERSONAL)
def test_gradients_are_finite_where_an_item_is_at_the_users_point(name, options):
    model = build(name, options | {"hidden_layers": 0})
    params = init(model)
    zero = jax.tree.map(jnp.zeros_like, params)
    corner = jnp.broadcast_to(jnp.eye(K)[0], (NUM_ITEMS, K))
    for point in (params, zero):
        gradient = jax.grad(lambda p: jnp.sum(rewards(model, p, corner)))(point)
        chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize(("name", "options"), [("pal_a", PAL_A[0]), ("pal_b", PAL_B[0])])
def test_dropout_only_acts_with_a_key(name, options):
    model = build(name, options | {"dropout": 0.5})
    params, (items, prompts, *_) = init(model), data()
    for encode, inputs in ((model.encode_items, items), (model.encode_prompts, prompts)):
        still = encode(params, inputs)
        chex.assert_trees_all_equal(still, encode(params, inputs))
        moved = encode(params, inputs, dropout_key=jax.random.key(0))
        different = jax.tree.map(lambda a, b: bool(np.any(a != b)), still, moved)
        assert jax.tree.leaves(different)[-1:] in ([True], [])
    # PAL-A has nothing to drop in prompts; PAL-B's prompt maps drop too.
    assert (model.encode_prompts(params, prompts) is None) == (name == "pal_a")


def test_learned_vectors_join_the_features_and_unknown_items_have_none():
    model = models.with_learned_vectors(
        models.pal_a(num_prototypes=K, latent_width=LATENT), items=(8, 2), prompts=None
    )
    inputs = VectorInputs(jnp.ones((3, ITEM_WIDTH)), jnp.array([7, -1, 0]))
    params = model.init(jax.random.key(0), inputs, None)
    assert params["projector"]["Dense_0"]["kernel"].shape == (ITEM_WIDTH + 2, LATENT)
    encoded = model.encode_items(params, inputs)
    without = params | {"item_vectors": jnp.zeros((8, 2))}
    plain = model.encode_items(without, inputs)
    np.testing.assert_array_equal(encoded[1], plain[1])
    assert not np.allclose(encoded[0], plain[0])
    assert not np.allclose(encoded[0], encoded[2])


@pytest.mark.parametrize("user_point", ["project_then_mix", "latent", "mix_then_project"])
def test_tiny_euclidean_distances_far_from_the_origin(user_point):
    """Distances of a thousandth between points a thousand away, in float32."""
    width = 4
    options = {"user_point": user_point, "distance": "euclidean", "hidden_layers": 0}
    model = build("pal_a", options | {"latent_width": width}, shared=None)
    generator = np.random.default_rng(0)
    near = 1000 + 1e-2 * generator.normal(size=(NUM_ITEMS + K, width)).astype(np.float32)
    identity = {"Dense_0": {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}}
    params = {"projector": identity, "prototypes": jnp.asarray(near[NUM_ITEMS:])}
    *_, weights = data()
    encoded = model.encode_items(params, jnp.asarray(near[:NUM_ITEMS]))
    found = model.rewards(params, encoded, None, weights)
    wide = near.astype(np.float64)
    user = np.asarray(weights, np.float64) @ wide[NUM_ITEMS:]
    expected = -np.linalg.norm(wide[:NUM_ITEMS] - user, axis=1)
    np.testing.assert_allclose(found, expected, rtol=0.02)
