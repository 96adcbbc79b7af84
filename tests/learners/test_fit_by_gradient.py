"""The gradient step: what it moves, what it leaves alone, and what its objective is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paljax import models
from paljax.data.batches import Tables, plan_epoch, plan_sizes, to_batch, training_rows
from paljax.data.dataset import Comparisons
from paljax.learners.fit_by_gradient import (
    OptimizerSettings,
    fit_by_gradient,
    prior_penalty,
    weights_of,
)
from paljax.learners.losses import LOSSES, expected_loss
from tests.kernels import twins

NUM_USERS, NUM_ITEMS, WIDTH, K, NUM_ROWS = 9, 14, 4, 3, 40
SHARED = {"hidden_layers": 1, "hidden_width": 5}
PROMPTS = np.random.default_rng(8).normal(size=(2, 3)).astype(np.float32)


def comparisons(seed=0, num_users=6):
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, NUM_ITEMS, NUM_ROWS)
    return Comparisons(
        user=generator.integers(0, num_users, NUM_ROWS).astype(np.int32),
        prompt=np.full(NUM_ROWS, -1, np.int32),
        chosen=chosen.astype(np.int32),
        rejected=((chosen + generator.integers(1, NUM_ITEMS, NUM_ROWS)) % NUM_ITEMS).astype(
            np.int32
        ),
        weight=np.ones(NUM_ROWS, np.float32),
        tie=np.zeros(NUM_ROWS, bool),
        task=np.arange(NUM_ROWS, dtype=np.int32),
    )


def tables():
    return Tables(jax.random.normal(jax.random.key(5), (NUM_ITEMS, WIDTH)), None)


def settings(**changes):
    groups = ("networks", "prototypes", "scale", "user_weights")
    defaults = {
        "learning_rate": dict.fromkeys(groups, 0.05),
        "weight_decay": dict.fromkeys(groups, 0.0),
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "clip_norm": None,
    }
    return OptimizerSettings(**(defaults | changes))


def learner_of(model, prompts=None, **changes):
    options = {"loss": LOSSES["logistic"], "prior_strength": 2.0, "optimizer": settings()}
    return fit_by_gradient(
        model,
        example_items=tables().items[:1],
        example_prompts=prompts,
        num_users=NUM_USERS,
        **(options | changes),
    )


def pal(shared=SHARED, **options):
    settings = {"num_prototypes": K, "latent_width": 6} | options
    return models.build("pal_a", settings, shared=shared)


def batches(batch_size=10, epoch=0, rows=None):
    rows = training_rows(rows or comparisons(), label_smoothing=0.0, weight_by_user=False)
    sizes = plan_sizes(rows, batch_size=batch_size, seed=0)
    plan = plan_epoch(
        rows, sizes=sizes, num_users=NUM_USERS, batch_size=batch_size, seed=0, epoch=epoch
    )
    return [to_batch(tables(), type(plan)(*step)) for step in zip(*plan, strict=True)]


def trained(learner, steps, key=0):
    state, step = learner.init(jax.random.key(key)), jax.jit(learner.step)
    for batch in steps:
        state, metrics = step(state, batch)
    return state, metrics


def test_users_outside_the_batches_keep_the_population_weights_exactly():
    state, _ = trained(learner_of(pal()), batches() + batches(epoch=1))
    np.testing.assert_array_equal(state.user_logits[6:], 0)
    assert np.all(np.any(np.asarray(state.user_logits[:6]) != 0, axis=1))
    population = jax.nn.softmax(state.population)
    weights = weights_of(state.population, state.user_logits)
    np.testing.assert_array_equal(weights[6:], np.tile(population, (3, 1)))
    assert np.all(np.asarray(state.user_optimizer[0].count) == [*counts(), 0, 0, 0])


def counts():
    """In how many of the two epochs' batches each of the six users is."""
    both = [np.asarray(batch.users) for epoch in (0, 1) for batch in batches(epoch=epoch)]
    return [sum(user in users for users in both) for user in range(6)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pal_a", {"user_point": "latent"}),
        ("pal_a", {"user_point": "project_then_mix"}),
        ("pal_a", {"user_point": "mix_then_project"}),
        ("pal_b", {"similarity": "inner"}),
    ],
)
def test_without_its_prototypes_pal_trains_to_the_parameters_of_bradley_terry(name, options):
    steps = batches() + batches(epoch=1)
    alone = learner_of(models.bradley_terry(**SHARED))
    plain, _ = trained(alone, steps)
    # The whole model, its prototypes frozen where they give every item the reward zero.
    frozen = dict.fromkeys(("prototypes", "scale", "user_weights"), 0.0) | {"networks": 0.05}
    model = models.build(name, {"num_prototypes": K, "latent_width": 6} | options, shared=SHARED)
    learner = learner_of(model, optimizer=settings(learning_rate=frozen), prompts=PROMPTS)
    state = learner.init(jax.random.key(0))
    personal = {key: value for key, value in state.params.items() if key != "shared"}
    nothing = jax.tree.map(jnp.zeros_like, personal)
    state = state._replace(params=state.params | nothing)
    for batch in steps:
        prompts = PROMPTS if model.uses_prompts else batch.prompts
        state, _ = learner.step(state, batch._replace(prompts=prompts))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        state.params["shared"],
        plain.params["shared"],
    )
    start = alone.init(jax.random.key(0)).params
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start, plain.params)
    assert min(jax.tree.leaves(moved)) > 0.01


def test_a_model_that_is_not_personal_has_the_shared_part_alone():
    sizes = {"num_prototypes": K, "latent_width": 6}
    model = models.build("pal_a", sizes, shared=SHARED, personal=False)
    items = tables().items
    params = model.init(jax.random.key(0), items, None)
    assert set(params) == {"shared"}
    whole = pal().init(jax.random.key(0), items, None)
    jax.tree.map(np.testing.assert_array_equal, params["shared"], whole["shared"])
    assert model.encode_items(params, items).shape == (NUM_ITEMS,)


def test_objective_is_mean_loss_plus_each_users_prior():
    """The loss of one batch with all rows, against loops over users."""
    rows = comparisons()
    learner = learner_of(pal(), prior_strength=3.0)
    (batch,) = batches(batch_size=NUM_ROWS, rows=rows)
    state = learner.init(jax.random.key(0))
    state = state._replace(
        population=jnp.array([0.3, -0.2, 0.1]),
        user_logits=jax.random.normal(jax.random.key(9), (NUM_USERS, K)),
    )
    _, metrics = learner.step(state, batch)
    model, items = pal(), tables().items
    rewards = np.asarray(
        model.prototype_rewards(state.params, model.encode_items(state.params, items), None)
    )
    population = np.asarray(jax.nn.softmax(state.population))
    total = 0.0
    for user in range(6):
        weights = np.asarray(jax.nn.softmax(state.population + state.user_logits[user]))
        own = np.flatnonzero(rows.user == user)
        for row in own:
            margin = weights @ (rewards[rows.chosen[row]] - rewards[rows.rejected[row]])
            total += twins.loss(float(margin), kind="logistic")
        total += 3.0 * twins.kl(population, weights)
    np.testing.assert_allclose(metrics["loss"], total / NUM_ROWS, rtol=1e-5)


def test_prior_penalty_is_zero_at_the_population_and_positive_elsewhere():
    population = jnp.array([0.4, -1.0, 2.0])
    logits = jnp.array([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0], [1.0, 0.0, 0.0]])
    penalty = prior_penalty(population, logits)
    np.testing.assert_allclose(penalty[:2], 0, atol=1e-6)
    weights = np.asarray(weights_of(population, logits))
    expected = twins.kl(np.asarray(jax.nn.softmax(population)), weights[2])
    np.testing.assert_allclose(penalty[2], expected, rtol=1e-5)


def test_distinct_items_give_the_gradient_of_repeated_ones():
    learner = learner_of(pal())
    (batch,) = batches(batch_size=NUM_ROWS)
    repeated = batch._replace(
        items=jnp.concatenate(
            [
                jnp.take(batch.items, batch.chosen, axis=0),
                jnp.take(batch.items, batch.rejected, axis=0),
            ]
        ),
        chosen=jnp.arange(NUM_ROWS),
        rejected=NUM_ROWS + jnp.arange(NUM_ROWS),
    )
    state = learner.init(jax.random.key(0))
    _, once = learner.step(state, batch)
    _, again = learner.step(state, repeated)
    assert batch.items.shape[0] < 2 * NUM_ROWS
    for name, value in once.items():
        np.testing.assert_allclose(value, again[name], rtol=1e-5, err_msg=name)


def test_padding_changes_nothing():
    learner = learner_of(pal())
    state = learner.init(jax.random.key(0))
    (batch,) = batches(batch_size=NUM_ROWS)
    padded = batch._replace(
        users=jnp.concatenate([batch.users, NUM_USERS + jnp.arange(2, dtype=jnp.int32)]),
        **{
            name: jnp.concatenate([getattr(batch, name), getattr(batch, name)[:3]])
            for name in ("chosen", "rejected", "prompt", "user", "weight", "target", "prior_share")
        },
        present=jnp.concatenate([batch.present, jnp.zeros(3, bool)]),
    )
    one, _ = learner.step(state, batch)
    other, _ = learner.step(state, padded)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        (one.params, one.population, one.user_logits),
        (other.params, other.population, other.user_logits),
    )


def test_step_is_traced_once_over_epochs():
    learner, traces = learner_of(pal()), []

    def step(state, batch):
        traces.append(1)
        return learner.step(state, batch)

    run, state = jax.jit(step), learner.init(jax.random.key(0))
    for epoch in range(3):
        for batch in batches(epoch=epoch, batch_size=8):
            state, _ = run(state, batch)
    assert len(traces) == 1


@pytest.mark.parametrize("group", ["networks", "prototypes", "user_weights"])
def test_a_learning_rate_of_zero_freezes_its_group_alone(group):
    rates = dict.fromkeys(("networks", "prototypes", "scale", "user_weights"), 0.05) | {group: 0.0}
    learner = learner_of(pal(), optimizer=settings(learning_rate=rates))
    before = learner.init(jax.random.key(0))
    after, _ = trained(learner, batches())
    parts = {
        "networks": lambda state: (state.params["projector"], state.params["shared"]),
        "prototypes": lambda state: state.params["prototypes"],
        "user_weights": lambda state: (state.population, state.user_logits),
    }
    for name, part in parts.items():
        pairs = zip(jax.tree.leaves(part(before)), jax.tree.leaves(part(after)), strict=True)
        same = all(np.array_equal(a, b) for a, b in pairs)
        assert same == (name == group), name


def test_clipping_bounds_the_update_of_plain_gradient_directions():
    """Adam hides the scale of a gradient, so look at its first moment: (1 - β₁) times it."""
    learner = learner_of(pal(), optimizer=settings(clip_norm=1e-3))
    state, metrics = trained(learner, batches()[:1])
    moments = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            (state.optimizer, state.user_optimizer)
        )
        if any(getattr(key, "name", None) == "mu" for key in path)
    ]
    assert float(metrics["grad_norm"]) > 1e-2
    np.testing.assert_allclose(optax.tree.norm(moments), 0.1 * 1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", list(LOSSES))
@pytest.mark.parametrize("target", [1.0, 0.5, 0.9])
def test_losses_are_their_equations(kind, target):
    margins = np.array([-1e4, -3.0, -1.0, 0.0, 0.3, 0.999, 1.0, 1.7, 40.0, 1e4])
    expected = [twins.loss(float(margin), kind=kind, target=target) for margin in margins]
    targets = jnp.full(len(margins), target)
    actual = expected_loss(LOSSES[kind], jnp.asarray(margins, jnp.float32), targets)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    slopes = jax.vmap(jax.grad(lambda m: LOSSES[kind](m[None])[0]))(
        jnp.asarray(margins, jnp.float32)
    )
    assert np.isfinite(slopes).all()
    assert np.all(np.asarray(slopes) <= 0)


def test_weighting_by_user_gives_every_user_the_same_total():
    rows = comparisons()._replace(weight=np.linspace(0.5, 2, NUM_ROWS, dtype=np.float32))
    counted = training_rows(rows, label_smoothing=0.1, weight_by_user=True)
    totals = np.bincount(rows.user, weights=counted.weight)
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)
    np.testing.assert_allclose(counted.weight.mean(), 1, rtol=1e-5)
    priors = np.bincount(rows.user, weights=counted.prior_share)
    # The prior keeps its meaning in pseudo-comparisons: it scales with the user's comparisons.
    own = np.bincount(rows.user, weights=rows.weight)
    np.testing.assert_allclose(priors * own, totals, rtol=1e-5)
    np.testing.assert_allclose(counted.target, 0.9)
