"""Groups of a reward run, and what they want."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax import models
from paljax.data.encoders import Encoder
from paljax.data.encoders.numbers import Indicators, StandardisedNumbers
from paljax.errors import UserError
from paljax.policy.clusters import k_means
from paljax.policy.group_rewards import group_rewards
from paljax.reward.predictors import Trained
from paljax.reward.trained_model import TrainedModel

pytestmark = pytest.mark.usefixtures("quick_compilation")
WIDTH, PROMPT_WIDTH, K, NUM_ITEMS, NUM_PROMPTS = 4, 2, 3, 7, 5
RANDOM = np.random.default_rng(0)
ITEMS = RANDOM.normal(size=(NUM_ITEMS, WIDTH)).astype(np.float32)
PROMPTS = RANDOM.normal(size=(NUM_PROMPTS, PROMPT_WIDTH)).astype(np.float32)
# Nobody has prototype 2.
WEIGHTS = {
    "ann": [0.8, 0.1, 0.1],
    "ben": [0.6, 0.3, 0.1],
    "cay": [0.1, 0.2, 0.7],
    "dee": [0.0, 0.1, 0.9],
    "eve": [0.2, 0.1, 0.7],
}
LABELS = {"ann": "left", "ben": "right", "cay": "right", "dee": "left"}


def plain(width, shift=0.5):
    none = Indicators(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))
    mean, scale = np.full(width, shift, np.float32), np.full(width, 2.0, np.float32)
    return Encoder({"numbers": StandardisedNumbers(mean, scale, none)})


def trained(name="reward_mixture", labels=LABELS, **options):
    model = models.build(name, {"num_prototypes": K} | options, shared=None)
    params = model.init(jax.random.key(0), jnp.zeros((1, WIDTH)), jnp.zeros((1, PROMPT_WIDTH)))
    return TrainedModel(
        config=None,
        trained=Trained(model, params, jnp.full(K, 1 / K), None),
        item_encoder=plain(WIDTH),
        prompt_encoder=plain(PROMPT_WIDTH) if model.uses_prompts else None,
        user_weights={user: np.asarray(row, np.float32) for user, row in WEIGHTS.items()},
        user_labels=labels,
    )


def rewards_at(model, weights, items=ITEMS, prompts=None):
    """Reward of each item for one user with these weights, from the model itself."""
    inner, params = model.trained.model, model.trained.params
    encoded = inner.encode_items(params, (items - 0.5) / 2)
    given = None if prompts is None else inner.encode_prompts(params, (prompts - 0.5) / 2)
    repeated = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), (len(items), K))
    return np.asarray(inner.rewards(params, encoded, given, repeated))


def test_prototypes_without_people_are_dropped_and_named():
    model = trained()
    found = group_rewards(model)
    assert found.groups.names == found.groups.columns == ("prototype 1", "prototype 3")
    assert found.groups.dropped == ("prototype 2",)
    assert found.groups.people.tolist() == [2, 3]
    np.testing.assert_array_equal(found.groups.matrix, np.eye(2))
    rewards = found(ITEMS)
    for column, corner in enumerate([[1, 0, 0], [0, 0, 1]]):
        np.testing.assert_allclose(rewards[:, column], rewards_at(model, corner), atol=1e-5)
    assert group_rewards(model, least_people=3).groups.dropped == ("prototype 1", "prototype 2")


MODELS = [
    ("reward_mixture", {}),
    ("pal_a", {"latent_width": 3}),
    ("pal_a", {"latent_width": 3, "distance": "cosine"}),
]


@pytest.mark.parametrize(("name", "options"), MODELS)
@pytest.mark.parametrize("by", ["users", "clusters", "labels"])
def test_the_matrix_turns_columns_into_groups(name, options, by):
    model = trained(name, **options)
    found = group_rewards(model, by, num_clusters=2)
    expected = {
        "users": list(WEIGHTS.values()),
        "clusters": [np.mean([WEIGHTS[u] for u in ("cay", "dee", "eve")], axis=0),
                     np.mean([WEIGHTS[u] for u in ("ann", "ben")], axis=0)],
        "labels": [np.mean([WEIGHTS[u] for u in ("ann", "dee")], axis=0),
                   np.mean([WEIGHTS[u] for u in ("ben", "cay")], axis=0)],
    }[by]  # fmt: skip
    names = {
        "users": tuple(WEIGHTS),
        "clusters": ("cluster 1", "cluster 2"),
        "labels": ("left", "right"),
    }[by]
    assert found.groups.names == names
    assert (
        found.groups.people.tolist() == {"users": [1] * 5, "clusters": [3, 2], "labels": [2, 2]}[by]
    )
    of_groups = np.asarray(found(ITEMS)) @ found.groups.matrix.T
    assert of_groups.shape == (NUM_ITEMS, len(names))
    for column, weights in enumerate(expected):
        np.testing.assert_allclose(of_groups[:, column], rewards_at(model, weights), atol=1e-5)


def test_a_table_has_every_item_under_every_prompt():
    model = trained("pal_b", latent_width=3)
    found = group_rewards(model)
    table = found.table(ITEMS, PROMPTS)
    assert table.shape == (NUM_PROMPTS, NUM_ITEMS, 2)
    for place in range(NUM_PROMPTS):
        repeated = np.repeat(PROMPTS[place : place + 1], NUM_ITEMS, axis=0)
        np.testing.assert_allclose(table[place], found(ITEMS, repeated), atol=1e-5)
        expected = rewards_at(model, [0, 0, 1], prompts=repeated)
        np.testing.assert_allclose(table[place, :, 1], expected, atol=1e-5)
    with pytest.raises(UserError, match="looks at prompts"):
        found(ITEMS)
    assert group_rewards(trained()).table(ITEMS).shape == (1, NUM_ITEMS, 2)
    assert group_rewards(trained()).table(ITEMS, PROMPTS).shape == (NUM_PROMPTS, NUM_ITEMS, 2)


def test_encoded_inputs_have_the_same_rewards_under_jit():
    found = group_rewards(trained(), "clusters")
    inputs, prompts = found.encode(ITEMS, None)
    compiled = jax.jit(lambda inputs: found.of_inputs(inputs, prompts))(inputs)
    np.testing.assert_allclose(compiled, found(ITEMS), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"by": "prototype"}, "did you mean 'prototypes'"),
        ({"by": "clusters", "num_clusters": 6}, "num_clusters: 6 is wrong: wanted 1 to 5 clusters"),
        ({"by": "labels"}, "no column 'group'"),
        ({"least_people": 9}, "least_people: 9 is wrong: the prototype that most people have"),
    ],
)
def test_groups_that_are_not_there_are_told(options, told):
    with pytest.raises(UserError, match=told):
        group_rewards(trained(labels={}), **options)


def test_items_of_another_width_are_told():
    with pytest.raises(UserError, match="items have 3 numbers, the model was trained on 4"):
        group_rewards(trained())(ITEMS[:, :3])


def test_k_means_finds_planted_clusters_and_keeps_its_seed():
    random = np.random.default_rng(0)
    alpha = np.array([[20, 1, 1], [1, 20, 1], [1, 1, 20]])
    cluster = np.repeat([2, 0, 1], [30, 12, 6])
    weights = np.stack([random.dirichlet(alpha[c]) for c in cluster])
    found = k_means(weights, 3, seed=1)
    assert np.bincount(found.cluster).tolist() == [30, 12, 6]
    np.testing.assert_array_equal(found.cluster, np.repeat([0, 1, 2], [30, 12, 6]))
    for c in range(3):
        np.testing.assert_allclose(found.centers[c], weights[found.cluster == c].mean(axis=0))
    again = k_means(weights, 3, seed=1)
    np.testing.assert_array_equal(again.centers, found.centers)
    by_loops = sum(
        ((w - found.centers[c]) ** 2).sum() for w, c in zip(weights, found.cluster, strict=True)
    )
    np.testing.assert_allclose(found.spread, by_loops)
    everyone = k_means(weights[:6], 6)
    assert sorted(everyone.cluster.tolist()) == list(range(6))
