"""The episode step: what its objective is, what may move a user's weights, and that it learns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from paljax import models
from paljax.data.batches import Sizes, Tables
from paljax.data.dataset import Comparisons
from paljax.data.episodes import EpisodeBatch, plan_episodes, to_episode_batch
from paljax.learners.fit_by_episodes import fit_by_episodes
from paljax.learners.losses import LOSSES
from paljax.learners.optimizers import OptimizerSettings

R, ROWS, NUM_ITEMS, WIDTH, K = 4, 6, 11, 5, 3
GROUPS = ("networks", "prototypes", "scale", "user_weights")


def settings(rate=0.05, **changes):
    defaults = {
        "learning_rate": dict.fromkeys(GROUPS, rate),
        "weight_decay": dict.fromkeys(GROUPS, 0.0),
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "clip_norm": None,
    }
    return OptimizerSettings(**(defaults | changes))


def pal(num_prototypes=K, shared=None, **options):
    hyperparameters = {"num_prototypes": num_prototypes, "latent_width": 4, "user_point": "latent"}
    return models.build("pal_a", hyperparameters | options, shared=shared)


def learner_of(model, items, **changes):
    options = {
        "loss": LOSSES["logistic"],
        "label_smoothing": 0.0,
        "prior_strength": 2.0,
        "optimizer": settings(),
    }
    return fit_by_episodes(
        model, example_items=items[:1], example_prompts=None, **(options | changes)
    )


def batch(seed=0, dtype=np.float32):
    """Four users with unequal supports: none, one row, three of six, two of four and padding."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, NUM_ITEMS, (R, ROWS))
    support, query = np.zeros((2, R, ROWS), dtype)
    for user, (fitted, rows) in enumerate([(0, 3), (1, 6), (3, 6), (2, 4)]):
        support[user, :fitted] = generator.uniform(0.5, 2, fitted)
        query[user, fitted:rows] = generator.uniform(0.5, 2, rows - fitted)
    return EpisodeBatch(
        items=jnp.asarray(generator.normal(size=(NUM_ITEMS, WIDTH)).astype(dtype)),
        prompts=None,
        chosen=jnp.asarray(chosen, jnp.int32),
        rejected=jnp.asarray((chosen + generator.integers(1, 9, (R, ROWS))) % NUM_ITEMS, jnp.int32),
        prompt=jnp.zeros((R, ROWS), jnp.int32),
        support=jnp.asarray(support),
        query=jnp.asarray(query),
    )


def as_float64(tree):
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, tree
    )


def state_with(learner, *, population=(0.4, -0.3, 0.1), log_strength=0.5):
    """A first state whose population is not uniform."""
    state = learner.init(jax.random.key(1))
    return state._replace(
        population=jnp.asarray(population), log_strength=jnp.asarray(log_strength)
    )


class Exact(NamedTuple):
    """A learner in float64, with one compiled step."""

    model: Any
    state: Any
    batch: Any
    step: Any


@pytest.fixture(scope="module")
def exact():
    """β₁ = 0 keeps the gradient in Adam's state; the population is not uniform."""
    with jax.enable_x64(True):
        given, model = batch(dtype=np.float64), pal(shared={"hidden_layers": 0})
        learner = learner_of(model, given.items, label_smoothing=0.1, optimizer=settings(beta1=0.0))
        state = as_float64(state_with(learner))
        yield Exact(model, state, given, jax.jit(learner.step))


def twin_loss(model, params, population, log_strength, batch, epsilon=0.0):
    """The objective from its definition, in float64 and loops, by Newton's method on logits."""
    items = np.asarray(
        model.prototype_rewards(params, model.encode_items(params, batch.items), None)
    )
    prior = np.exp(population) / np.exp(population).sum()
    total = mass = 0.0
    for user in range(batch.chosen.shape[0]):
        margins = items[np.asarray(batch.chosen[user])] - items[np.asarray(batch.rejected[user])]
        weights = solved(margins, np.asarray(batch.support[user]), prior, np.exp(log_strength))
        for row, weight in enumerate(np.asarray(batch.query[user])):
            margin = margins[row] @ weights
            loss = (1 - epsilon) * np.logaddexp(0, -margin) + epsilon * np.logaddexp(0, margin)
            total += weight * loss
            mass += weight
    return total / mass


def solved(margins, support, prior, strength):
    """argmin Σ_j s_j log(1 + exp(-Δ_j·w)) - λ Σ_k w̄_k log w_k over logits of w."""

    def objective(logits):
        log_weights = logits - np.logaddexp.reduce(logits)
        losses = np.logaddexp(0, -margins @ np.exp(log_weights))
        return support @ losses - strength * prior @ log_weights

    found = scipy.optimize.minimize(objective, np.log(prior), options={"gtol": 1e-9})
    return scipy.special.softmax(found.x)


def test_loss_is_that_of_the_query_for_weights_solved_on_the_support(exact):
    _, metrics = exact.step(exact.state, exact.batch)
    state = exact.state
    expected = twin_loss(
        exact.model, state.params, np.asarray(state.population), 0.5, exact.batch, epsilon=0.1
    )
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


def gradient_followed(shared, state):
    """The gradient of a first step: with β₁ = 0 it is Adam's first moment, kept by group."""
    moments = {
        jax.tree_util.keystr(path).partition(".mu")[2]: leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer)
    }
    return [
        moments[jax.tree_util.keystr(path)]
        for path, _ in jax.tree_util.tree_leaves_with_path(shared)
    ]


def test_step_follows_the_gradient_through_the_solved_weights(exact):
    """Finite differences of the loss, for every shared number."""
    state = exact.state
    shared = (state.params, (state.population, state.log_strength))
    after, metrics = exact.step(state, exact.batch)
    gradient = gradient_followed(shared, after)

    def loss(leaves):
        params, (population, log_strength) = jax.tree.unflatten(structure, leaves)
        changed = state._replace(params=params, population=population, log_strength=log_strength)
        return float(exact.step(changed, exact.batch)[1]["loss"])

    leaves, structure = jax.tree.flatten(shared)
    width = 1e-4
    for place, (leaf, expected) in enumerate(zip(leaves, gradient, strict=True)):
        for index in np.ndindex(leaf.shape):
            above, below = (
                loss([*leaves[:place], leaf.at[index].add(change), *leaves[place + 1 :]])
                for change in (width, -width)
            )
            difference = (above - below) / (2 * width)
            # The solver stops at a gap of 1e-5 nats, which the differences see.
            np.testing.assert_allclose(expected[index], difference, rtol=1e-4, atol=2e-6)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-12)
    # w̄ and λ act through the solved weights alone.
    *_, population, log_strength = gradient
    assert min(np.min(np.abs(population)), abs(log_strength)) > 1e-4


def test_query_rows_never_influence_the_weights(exact):
    """The loss of all query rows is the mean of their losses one by one."""
    given = exact.batch
    together = float(exact.step(exact.state, given)[1]["loss"])
    alone = 0.0
    for user, row in zip(*np.nonzero(given.query), strict=True):
        weight = given.query[user, row]
        only = given._replace(query=jnp.zeros_like(given.query).at[user, row].set(weight))
        alone += float(weight * exact.step(exact.state, only)[1]["loss"])
    np.testing.assert_allclose(together, alone / float(given.query.sum()), rtol=1e-12)


def test_rows_of_no_weight_have_no_influence(exact):
    given = exact.batch
    absent = (given.support == 0) & (given.query == 0)
    assert absent.sum() == 5
    other = given._replace(
        chosen=jnp.where(absent, 7, given.chosen), rejected=jnp.where(absent, 2, given.rejected)
    )
    _, left = exact.step(exact.state, given)
    _, right = exact.step(exact.state, other)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-12, err_msg=name)


def test_the_order_of_users_does_not_matter(exact):
    given = exact.batch
    order = np.array([2, 0, 3, 1])
    fields = ("chosen", "rejected", "prompt", "support", "query")
    shuffled = given._replace(**{name: getattr(given, name)[order] for name in fields})
    _, left = exact.step(exact.state, given)
    _, right = exact.step(exact.state, shuffled)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-12, err_msg=name)


def test_the_order_of_prototypes_does_not_matter(exact):
    state = exact.state
    order = np.array([2, 0, 1])
    prototypes = state.params["prototypes"][order]
    permuted = state._replace(
        params=state.params | {"prototypes": prototypes}, population=state.population[order]
    )
    (left, metrics), (right, others) = (exact.step(s, exact.batch) for s in (state, permuted))
    np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], others["grad_norm"], rtol=1e-4)
    np.testing.assert_allclose(left.population[order], right.population, rtol=1e-5)


def test_refuses_a_model_that_is_not_linear_in_the_weights():
    with pytest.raises(ValueError, match="linear in the weights"):
        learner_of(pal(distance="cosine"), batch().items)


def two_groups(num_users, *, apart, seed=0):
    """Users who follow a direction (or, for odd users, its opposite where they are apart)."""
    generator = np.random.default_rng(seed)
    items = generator.normal(size=(60, WIDTH)).astype(np.float32)
    values = 4 * items @ np.eye(WIDTH, dtype=np.float32)[0]
    user = np.repeat(np.arange(num_users), 12)
    left = generator.integers(0, 60, len(user))
    right = (left + generator.integers(1, 60, len(user))) % 60
    sign = np.where(apart & (user % 2 == 1), -1, 1)
    noise = generator.logistic(size=len(user))
    first = sign * (values[left] - values[right]) + noise > 0
    chosen, rejected = np.where(first, left, right), np.where(first, right, left)
    return items, Comparisons(
        user=user.astype(np.int32),
        prompt=np.full(len(user), -1, np.int32),
        chosen=chosen.astype(np.int32),
        rejected=rejected.astype(np.int32),
        weight=np.ones(len(user), np.float32),
        tie=np.zeros(len(user), bool),
        task=np.arange(len(user), dtype=np.int32),
    )


def trained(items, comparisons, num_prototypes, epochs=40):
    """Train and return the state and the last epoch's metrics."""
    learner = learner_of(pal(num_prototypes), items)
    tables = Tables(jnp.asarray(items), None)

    @jax.jit
    def run(state, plans):
        return jax.lax.scan(
            lambda state, plan: learner.step(state, to_episode_batch(tables, plan)), state, plans
        )

    state = learner.init(jax.random.key(0))
    for epoch in range(epochs):
        plans = plan_episodes(
            comparisons,
            comparisons.weight,
            comparisons.weight,
            sizes=Sizes(len(items), 1, 0),
            users_per_batch=20,
            most_comparisons=12,
            seed=0,
            epoch=epoch,
        )
        state, metrics = run(state, plans)
    return state, {name: float(np.mean(values)) for name, values in metrics.items()}


def test_learns_two_groups_who_want_the_opposite():
    """One reward for all can do no better than a coin; a few choices tell the groups apart."""
    items, given = two_groups(40, apart=True)
    _, shared = trained(items, given, num_prototypes=1)
    state, personal = trained(items, given, num_prototypes=2)
    # Without support, as 2 of 13 query rows are, any model tosses a coin.
    assert shared["accuracy"] < 0.6
    assert personal["accuracy"] > 0.7
    # Users who differ are fitted boldly.
    assert float(state.log_strength) < np.log(2.0) - 0.1


def test_users_who_are_all_alike_are_shrunk_more():
    items, given = two_groups(40, apart=False)
    state, metrics = trained(items, given, num_prototypes=2)
    assert float(state.log_strength) > np.log(2.0) + 0.1
    assert metrics["prior_strength"] > 2.0
