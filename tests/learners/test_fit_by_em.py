"""EM: its two steps against loops, that the evidence never falls, and that groups are found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from paljax.data.batches import Tables, plan_sizes, to_batch, training_rows
from paljax.data.dataset import Comparisons
from paljax.data.iterations import (
    IterationTables,
    choices_by_user,
    plan_iteration,
    to_iteration,
)
from paljax.learners.fit_by_em import expect, fit_by_em, foresee, groups_with_users
from paljax.learners.fit_by_gradient import fit_by_gradient
from paljax.learners.losses import LOSSES
from paljax.learners.new_users import assign
from paljax.learners.optimizers import OptimizerSettings
from paljax.models import bradley_terry, reward_mixture
from paljax.predictions import encode, member_margins, pair, prototype_margins
from tests.kernels import twins

NUM_USERS, NUM_ITEMS, WIDTH, K = 7, 13, 5, 3
pytestmark = pytest.mark.usefixtures("quick_compilation")
GROUPS = ("networks", "prototypes", "scale", "user_weights")
both_assignments = pytest.mark.parametrize("assignment", ["soft", "hard"])


def settings(rate=0.05, **changes):
    defaults = {
        "learning_rate": dict.fromkeys(GROUPS, rate),
        "weight_decay": dict.fromkeys(GROUPS, 0.0),
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "clip_norm": None,
    }
    return OptimizerSettings(**(defaults | changes))


def linear(num_prototypes=K):
    return reward_mixture(num_prototypes=num_prototypes, hidden_layers=0)


def comparisons(seed=0):
    """Unequal users: one without comparisons, one whose comparison counts nothing, ties."""
    random = np.random.default_rng(seed)
    user = random.permutation(np.repeat(np.arange(NUM_USERS), [3, 9, 0, 1, 12, 1, 4]))
    n = len(user)
    chosen = random.integers(0, NUM_ITEMS, n)
    weight = random.uniform(0.5, 2, n)
    weight[user == 5] = 0
    return Comparisons(
        user=user.astype(np.int32),
        prompt=np.full(n, -1, np.int32),
        chosen=chosen.astype(np.int32),
        rejected=((chosen + random.integers(1, NUM_ITEMS, n)) % NUM_ITEMS).astype(np.int32),
        weight=weight.astype(np.float32),
        tie=random.random(n) < 0.2,
        task=np.arange(n, dtype=np.int32),
    )


def tables(seed=1, num_items=NUM_ITEMS, width=WIDTH):
    items = np.random.default_rng(seed).normal(size=(num_items, width))
    return Tables(jnp.asarray(items, jnp.float32), None)


def iterations(given, of_items, num_users, *, epoch=0, batch_size=None, passes=1, smoothing=0.0):
    """What `step` takes: one iteration, in batches or all comparisons at once."""
    rows = training_rows(given, label_smoothing=smoothing, weight_by_user=False)
    batch_size = batch_size or len(given.user)
    plan = plan_iteration(
        rows,
        sizes=plan_sizes(rows, batch_size=batch_size, seed=0),
        num_users=num_users,
        batch_size=batch_size,
        passes=passes,
        seed=0,
        epoch=epoch,
    )
    choices = choices_by_user(given, num_users=num_users, label_smoothing=smoothing)
    return to_iteration(
        IterationTables(of_items, choices), jax.tree.map(lambda leaf: leaf[0], plan)
    )


def learner_of(model, of_items, num_users, **changes):
    options = {"optimizer": settings()} | changes
    return fit_by_em(
        model,
        example_items=of_items.items[:1],
        example_prompts=None,
        num_users=num_users,
        **options,
    )


def as_float64(tree):
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, tree
    )


def sorted_by_user(given):
    return given.select(np.argsort(given.user, kind="stable"))


@both_assignments
def test_the_e_step_is_its_equation(assignment):
    with jax.enable_x64(True):
        given, of_items, model = comparisons(), as_float64(tables()), linear()
        params = as_float64(model.init(jax.random.key(3), of_items.items, None))
        sizes = np.array([0.5, 0.2, 0.3])
        choices = as_float64(choices_by_user(given, num_users=NUM_USERS, label_smoothing=0.1))
        encoded = encode(model, params, of_items)
        found = expect(
            model,
            params,
            jnp.log(sizes),
            encoded,
            choices,
            NUM_USERS,
            assignment=assignment,
        )
        ordered = sorted_by_user(given)
        margins = prototype_margins(model, params, pair(encoded, ordered))
    expected = twins.expect(
        np.asarray(margins),
        ordered.user,
        ordered.weight.astype(float),
        np.where(ordered.tie, 0.5, np.float64(np.float32(0.9))),
        sizes,
        num_users=NUM_USERS,
        hard=assignment == "hard",
    )
    np.testing.assert_allclose(found.responsibilities, expected.responsibilities, atol=1e-12)
    np.testing.assert_allclose(np.exp(found.log_sizes), expected.sizes, rtol=1e-12)
    np.testing.assert_allclose(found.evidence, expected.evidence, rtol=1e-12)
    for unknown in (2, 5):
        np.testing.assert_allclose(found.responsibilities[unknown], sizes, rtol=1e-12)


def test_the_m_step_descends_the_expected_loss():
    with jax.enable_x64(True):
        given, of_items, model = comparisons(), as_float64(tables()), linear()
        iteration = as_float64(iterations(given, of_items, NUM_USERS, smoothing=0.1))
        learner = learner_of(model, of_items, NUM_USERS)
        state = as_float64(learner.init(jax.random.key(3)))
        _, metrics = jax.jit(learner.step)(state, iteration)
        params = jax.tree.map(lambda leaf: leaf[0], state.params)
        encoded = encode(model, params, of_items)
        choices = iteration.choices
        found = expect(model, params, state.log_sizes[0], encoded, choices, NUM_USERS)
    kernel = np.asarray(params["mixture"]["Dense_0"]["kernel"])
    ordered, items = sorted_by_user(given), np.asarray(of_items.items)
    differences = items[ordered.chosen] - items[ordered.rejected]
    # The M-step's weights have mean one; the factor is common to all comparisons.
    weights = ordered.weight.astype(float) / ordered.weight.mean()
    targets = np.asarray(choices.target)
    belongs = np.asarray(found.responsibilities)[ordered.user]

    def objective(kernel):
        return twins.expected_loss_of_groups(differences @ kernel, belongs, weights, targets)

    gradient = np.empty_like(kernel)
    for place in np.ndindex(*kernel.shape):
        step = np.zeros_like(kernel)
        step[place] = 1e-5
        gradient[place] = (objective(kernel + step) - objective(kernel - step)) / 2e-5
    np.testing.assert_allclose(metrics["loss"], objective(kernel), rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-6)


def planted(sizes, per_user, *, seed=0, scale=3.0, width=6, num_items=60):
    """Users of groups with directions of their own; comparisons are drawn from Bradley-Terry."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    items = random.normal(size=(num_items, width))
    directions = np.linalg.qr(random.normal(size=(width, len(sizes))))[0]
    rewards = scale * items @ directions
    user = np.repeat(np.arange(len(group)), per_user)
    left = random.integers(0, num_items, len(user))
    right = (left + random.integers(1, num_items, len(user))) % num_items
    margin = rewards[left, group[user]] - rewards[right, group[user]]
    prefers_left = random.random(len(user)) < 1 / (1 + np.exp(-margin))
    given = Comparisons(
        user=user.astype(np.int32),
        prompt=np.full(len(user), -1, np.int32),
        chosen=np.where(prefers_left, left, right).astype(np.int32),
        rejected=np.where(prefers_left, right, left).astype(np.int32),
        weight=np.ones(len(user), np.float32),
        tie=np.zeros(len(user), bool),
        task=np.arange(len(user), dtype=np.int32),
    )
    return given, Tables(jnp.asarray(items, jnp.float32), None), group


def run(learner, state, batches):
    step = jax.jit(learner.step)
    history = []
    for batch in batches:
        state, metrics = step(state, batch)
        history.append(metrics)
    return state, history


def test_planted_groups_are_recovered_up_to_their_order():
    given, of_items, group = planted([30, 12, 6], 30)
    learner = learner_of(linear(), of_items, len(group), starts=4)
    batches = [
        iterations(given, of_items, len(group), epoch=epoch, batch_size=256) for epoch in range(40)
    ]
    state, _ = run(learner, learner.init(jax.random.key(0)), batches)
    best = int(jnp.argmax(state.evidence))
    params = jax.tree.map(lambda leaf: leaf[best], state.params)
    encoded = encode(linear(), params, of_items)
    joined = assign(
        linear(),
        params,
        jnp.exp(state.log_sizes[best]),
        encoded=encoded,
        comparisons=given,
        num_users=len(group),
    )
    table = np.zeros((K, K))
    np.add.at(table, (np.asarray(joined.weights).argmax(axis=1), group), 1)
    rows, columns = linear_sum_assignment(-table)
    assert table[rows, columns].sum() == len(group)
    sizes = np.exp(np.asarray(state.log_sizes[best]))[rows[np.argsort(columns)]]
    np.testing.assert_allclose(sizes, [30 / 48, 12 / 48, 6 / 48], atol=0.02)


@both_assignments
def test_the_evidence_never_falls_when_the_m_step_converges(assignment):
    with jax.enable_x64(True):
        given, of_items, group = planted([9, 5, 3], 8, scale=1.5)
        of_items = as_float64(of_items)
        optimizer = settings(0.01, schedule="cosine", num_steps=12 * 300)
        learner = learner_of(
            linear(), of_items, len(group), optimizer=optimizer, assignment=assignment, starts=2
        )
        state = as_float64(learner.init(jax.random.key(5)))
        # Full batches: 300 gradient steps in each of a dozen M-steps.
        batch = as_float64(iterations(given, of_items, len(group), passes=300))
        evidence = []
        step = jax.jit(learner.step)
        for _ in range(12):
            state, _ = step(state, batch)
            evidence.append(np.asarray(state.evidence))
    rises = np.diff(evidence, axis=0)
    assert rises.min() >= -1e-9
    assert (evidence[-1] - evidence[0]).min() > 0.05


def test_renaming_users_and_groups_changes_nothing_else():
    given, of_items, model = comparisons(), tables(), linear()
    learner = learner_of(model, of_items, NUM_USERS)
    state = learner.init(jax.random.key(3))
    iteration = iterations(given, of_items, NUM_USERS)
    after, metrics = jax.jit(learner.step)(state, iteration)

    names = np.random.default_rng(0).permutation(NUM_USERS).astype(np.int32)
    renamed = iterations(given._replace(user=names[given.user]), of_items, NUM_USERS)
    same, again = jax.jit(learner.step)(state, renamed)
    np.testing.assert_allclose(again["evidence"], metrics["evidence"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), same.params, after.params
    )

    order = jnp.array([2, 0, 1])
    moved = state._replace(
        params=jax.tree.map(lambda leaf: leaf[..., order], state.params),
        log_sizes=jnp.log(jnp.array([[0.5, 0.2, 0.3]]))[:, order],
    )
    unmoved = state._replace(log_sizes=jnp.log(jnp.array([[0.5, 0.2, 0.3]])))
    first, _ = jax.jit(learner.step)(unmoved, iteration)
    second, _ = jax.jit(learner.step)(moved, iteration)
    np.testing.assert_allclose(second.log_sizes, first.log_sizes[:, order], atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[..., order], atol=2e-6),
        second.params,
        first.params,
    )


def test_one_group_is_bradley_terry():
    given, of_items = comparisons(), tables()
    given = given._replace(weight=np.ones_like(given.weight))
    optimizer = settings(0.02)
    learner = learner_of(linear(1), of_items, NUM_USERS, optimizer=optimizer)
    state = learner.init(jax.random.key(3))
    shared = fit_by_gradient(
        bradley_terry(hidden_layers=0),
        example_items=of_items.items[:1],
        example_prompts=None,
        num_users=NUM_USERS,
        loss=LOSSES["logistic"],
        prior_strength=2.0,
        optimizer=optimizer,
    )
    start = shared.init(jax.random.key(4))
    kernel = {"shared": jax.tree.map(lambda leaf: leaf[0], state.params["mixture"])}
    start = start._replace(params=kernel)
    for epoch in range(3):
        iteration = iterations(given, of_items, NUM_USERS, epoch=epoch, batch_size=11)
        state, metrics = jax.jit(learner.step)(state, iteration)
        for number in range(len(iteration.plan.present)):
            plan = jax.tree.map(lambda leaf, number=number: leaf[number], iteration.plan)
            start, _ = jax.jit(shared.step)(start, to_batch(of_items, plan))
    np.testing.assert_allclose(
        state.params["mixture"]["Dense_0"]["kernel"][0],
        start.params["shared"]["Dense_0"]["kernel"],
        atol=1e-6,
    )
    assert metrics["groups_with_users"] == 1


@both_assignments
def test_a_group_without_users_stays_empty_and_harms_nobody(assignment):
    given, of_items, group = planted([8, 5], 6)
    learner = learner_of(linear(), of_items, len(group), assignment=assignment)
    state = learner.init(jax.random.key(3))
    # Margins of the last group are so wrong that nobody can be in it.
    params = jax.tree.map(lambda leaf: leaf.at[..., 2].set(1e4), state.params)
    state = state._replace(params=params)
    for epoch in range(3):
        state, metrics = jax.jit(learner.step)(
            state, iterations(given, of_items, len(group), epoch=epoch)
        )
    assert all(np.isfinite(value) for value in metrics.values())
    alive = np.exp(state.log_sizes[0]) * len(group) >= 0.5
    assert not alive[2]
    assert metrics["groups_with_users"] == alive.sum()
    assert state.log_sizes[0, 2] == -jnp.inf
    kernel = state.params["mixture"]["Dense_0"]["kernel"][0]
    np.testing.assert_array_equal(kernel[:, 2], 1e4)
    assert np.isfinite(kernel).all()
    joined = assign(
        linear(),
        jax.tree.map(lambda leaf: leaf[0], state.params),
        jnp.exp(state.log_sizes[0]),
        encoded=encode(linear(), jax.tree.map(lambda leaf: leaf[0], state.params), of_items),
        comparisons=given,
        num_users=len(group) + 1,
    )
    np.testing.assert_array_equal(joined.weights[:, 2], 0)
    assert all(np.isfinite(leaf).all() for leaf in joined[:4])


def test_groups_with_users_are_counted():
    log_sizes = jnp.log(jnp.array([0.6, 0.36, 0.04, 0.0]))
    assert groups_with_users(log_sizes, jnp.ones(20, bool)) == 3
    assert groups_with_users(log_sizes, jnp.ones(10, bool)) == 2  # the third: 0.4 of a user


def test_a_start_that_diverges_is_left_behind():
    given, of_items = comparisons(), tables()
    learner = learner_of(linear(), of_items, NUM_USERS, starts=3)
    state = learner.init(jax.random.key(3))
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), state.params)
    state, metrics = jax.jit(learner.step)(
        state._replace(params=broken), iterations(given, of_items, NUM_USERS)
    )
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["finite_starts"] == 2
    assert metrics["evidence"] == state.evidence[1:].max()


def test_new_users_are_assigned_by_their_support_alone():
    given, of_items, model = comparisons(), tables(), linear()
    params = model.init(jax.random.key(3), of_items.items, None)
    encoded, sizes = encode(model, params, of_items), jnp.array([0.5, 0.2, 0.3])
    joined = assign(model, params, sizes, encoded=encoded, comparisons=given, num_users=NUM_USERS)
    ordered = sorted_by_user(given)
    expected = twins.expect(
        np.asarray(prototype_margins(model, params, pair(encoded, ordered))),
        ordered.user,
        ordered.weight,
        np.where(ordered.tie, 0.5, 1.0),
        np.asarray(sizes),
        num_users=NUM_USERS,
    )
    np.testing.assert_allclose(joined.weights, expected.responsibilities, atol=2e-6)
    np.testing.assert_allclose(joined.weights[2], sizes, rtol=1e-6)
    one = np.asarray(joined.weights[0], float)
    np.testing.assert_allclose(joined.covariance[0], np.diag(one) - np.outer(one, one), atol=1e-6)
    # The prediction is the posterior predictive, and not the margin of the mean reward.
    rows = joined.weights[ordered.user]
    predicted = member_margins(model, params, pair(encoded, ordered), rows)
    margins = np.asarray(prototype_margins(model, params, pair(encoded, ordered)), float)
    logs = np.log(np.asarray(rows, float))
    np.testing.assert_allclose(predicted, twins.log_odds(margins, logs), rtol=1e-4, atol=1e-5)


def test_foresight_is_the_evidence_of_held_out_choices_under_each_users_own_prior():
    given, of_items, model = comparisons(), tables(), linear()
    params = model.init(jax.random.key(3), of_items.items, None)
    encoded = encode(model, params, of_items)
    known = np.random.default_rng(1).dirichlet(np.ones(K), NUM_USERS)
    choices = choices_by_user(given, num_users=NUM_USERS)
    found = foresee(
        model, params, jnp.log(jnp.asarray(known, jnp.float32)), encoded, choices, NUM_USERS
    )
    ordered = sorted_by_user(given)
    margins = np.asarray(prototype_margins(model, params, pair(encoded, ordered)), float)
    targets = np.where(ordered.tie, 0.5, 1.0)
    total = 0.0
    for user in range(NUM_USERS):
        own = ordered.user == user
        alone = (
            twins.expect(
                margins[own],
                ordered.user[own] * 0,
                ordered.weight[own],
                targets[own],
                known[user],
                num_users=1,
            )
            if ordered.weight[own].sum()
            else None
        )
        total += 0 if alone is None else alone.evidence * ordered.weight[own].sum()
    np.testing.assert_allclose(found.evidence, total / ordered.weight.sum(), rtol=1e-5)
