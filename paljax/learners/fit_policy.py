"""Fit a policy to groups' rewards: by policy gradients from samples, or by exact expectations.

B prompts a batch, n responses of each, T tokens, Y actions, G groups; R rows of group weights: one
for all prompts, or one a prompt.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from paljax.kernels import leave_one_out, worst_case_weights
from paljax.learners.group_weights import Follow
from paljax.learners.learner import Learner, Metrics
from paljax.learners.objectives import Groups, Objective
from paljax.policies import Params, Policy, Prompts, Samples

# The average of weights is over about the last 1 / (1 + AVERAGE_OVER) of the steps so far
# (polynomial decay; Shamir and Zhang, 2013, arXiv 1212.1824).
AVERAGE_OVER = 8.0


class PromptBatch(NamedTuple):
    """Prompts of one step."""

    prompts: Prompts  # leading axis B
    rows: Int[Array, "B"]  # numbers of the prompts
    weights: Float[Array, "B"]  # >= 0, summing to 1


class Rewards(NamedTuple):
    """The groups' rewards, normalised, as pure functions. The unit is β's; higher is better."""

    of_responses: Callable[[Prompts, Array, Array], Float[Array, "B n G"]]  # prompts, tokens, mask
    of_actions: Callable[[Prompts], Float[Array, "B Y G"]] | None = None


class Rollouts(NamedTuple):
    """How responses are drawn and used; without it, expectations over actions are exact."""

    num_samples: int  # n >= 2 responses a prompt
    updates: int  # of the policy from one set of responses
    clip: float  # ε: ratios beyond 1 ± ε have no gradient


class PolicyOptimizer(NamedTuple):
    """How a policy's parameters move."""

    transformation: optax.GradientTransformation  # clipping, Adam, learning rate
    schedule: optax.Schedule  # step -> factor of the peak rates, in [0, 1]
    learning_rate: float  # at the peak


class PolicyState(NamedTuple):
    """All that the next step needs."""

    params: Params  # of the policy
    reference: Params  # of the policy that the KL is measured from
    average: Params  # polynomial-decay average of params
    mixture: Float[Array, "X Y"]  # the same average of the policy itself; a 0 if not finite
    optimizer: optax.OptState
    log_q: Float[Array, "R G"]  # groups' weights
    utilities: Float[Array, "R G"]  # smoothed
    before: Float[Array, "R G"]  # smoothed, a step ago
    visits: Int[Array, "R"]  # steps in which the row had a prompt
    step: Int[Array, ""]  # steps taken
    key: PRNGKeyArray  # step t draws from fold_in(key, t)


def fit_policy(
    policy: Policy,
    rewards: Rewards,
    groups: Groups,
    objective: Objective,
    *,
    num_prompts: int,
    follow: Follow,
    smoothing: float,
    beta: float,
    rollouts: Rollouts | None,
    optimizer: PolicyOptimizer,
) -> Learner:
    """Maximise q·U(π) - β KL(π ‖ π_ref) over the policy while q goes to the worst-off groups.

    A step takes q as constant. With rollouts a response's reward is r·q - β times its log-ratio to
    the reference, its advantage that minus the mean of the other responses' (an unbiased baseline),
    and the loss PPO's clipped surrogate, summed over tokens. Without, the expectation over all
    actions is differentiated.

    Args:
        policy: The policy; one whose actions can't be enumerated needs rollouts.
        rewards: The groups' rewards.
        groups: Who is to be served.
        objective: How groups are weighed.
        num_prompts: X.
        follow: How groups' weights follow their utilities.
        smoothing: Decay, in [0, 1), of the moving average of utilities that `follow` sees.
        beta: β > 0, in the unit of the rewards.
        rollouts: How responses are drawn; None for exact expectations.
        optimizer: How parameters move.

    Returns:
        A learner on `PolicyState` and `PromptBatch`. Metrics of a step: loss, reward (what is
        maximised), kl in nats, value (of the batch), utility/GROUP, weight/GROUP (in this step),
        learning_rate, grad_norm, and with rollouts length in tokens and clipped, the share of
        ratios beyond ε.

    Raises:
        ValueError: If there are no rollouts and no actions to enumerate either.

    Source:
        MaxMin-RLHF, arXiv 2402.08925, algorithm 1, with weights that move gradually in place of
        the argmin; leave-one-out: arXiv 2402.14740; clipping: PPO, arXiv 1707.06347, equation 7.
    """
    if rollouts is None and (policy.actions is None or rewards.of_actions is None):
        raise ValueError("exact expectations need a policy and rewards of actions to enumerate")
    game = _Game(
        policy,
        rewards,
        groups,
        objective,
        num_prompts,
        follow,
        smoothing,
        beta,
        rollouts,
        optimizer,
    )
    return Learner(partial(_init, game), partial(_step, game))


class _Game(NamedTuple):
    """What the steps of a fit share: the policy maximises, the groups' weights minimise."""

    policy: Policy
    rewards: Rewards
    groups: Groups
    objective: Objective
    num_prompts: int
    follow: Follow
    smoothing: float
    beta: float
    rollouts: Rollouts | None
    optimizer: PolicyOptimizer


class _Seen(NamedTuple):
    """Responses (n sampled ones, or all Y actions) before the policy moves."""

    rewards: Float[Array, "B n G"]  # of the groups
    shares: Float[Array, "B n"]  # of the expectation over responses; sum to 1
    log_ratio: Float[Array, "B n"]  # to the reference, nats
    drawn: Samples | None = None


def _init(game: _Game, key: PRNGKeyArray) -> PolicyState:
    params_key, state_key = jax.random.split(key)
    params = game.policy.init(params_key)
    weights = game.objective.weights
    num_rows = game.num_prompts if game.objective.by_prompt else 1
    return PolicyState(
        params=params,
        reference=game.policy.reference(params),
        average=jax.tree.map(jnp.array, params),
        mixture=_whole(game.policy, params, game.num_prompts),
        optimizer=game.optimizer.transformation.init(params),
        log_q=jnp.tile(jnp.where(weights > 0, jnp.log(weights), -jnp.inf), (num_rows, 1)),
        utilities=jnp.zeros((num_rows, len(weights))),
        before=jnp.zeros((num_rows, len(weights))),
        visits=jnp.zeros(num_rows, jnp.int32),
        step=jnp.zeros((), jnp.int32),
        key=state_key,
    )


def _step(game: _Game, state: PolicyState, batch: PromptBatch) -> tuple[PolicyState, Metrics]:
    objective, beta = game.objective, game.beta
    seen = _enumerated(game, state, batch) if game.rollouts is None else _drawn(game, state, batch)
    rows = batch.rows if objective.by_prompt else jnp.zeros_like(batch.rows)
    by_prompt = jnp.einsum("bn,bng->bg", seen.shares, seen.rewards)
    factor = jnp.asarray(game.optimizer.schedule(state.step))
    # Groups are weighed by what earlier batches said of them. Weights that have seen the batch lean
    # to whom its draws happen to serve least: with them the gradient is biased, most where they
    # move far in a step.
    q = jnp.exp(jnp.take(state.log_q, rows, axis=0))
    wanted = objective.of_response(seen.rewards, q[:, None, :])
    state, measured = _improve(game, state, batch, seen, wanted)
    state = _reweigh(game, state, by_prompt, rows, batch.weights, factor)

    utilities, weights = batch.weights @ by_prompt, batch.weights @ q
    kl = batch.weights @ jnp.sum(seen.shares * seen.log_ratio, axis=1)
    worst = worst_case_weights(utilities, cap=objective.cap) @ utilities
    metrics = {
        "step": state.step,
        "reward": batch.weights @ jnp.sum(seen.shares * wanted, axis=1) - beta * kl,
        "kl": kl,
        "value": worst - beta * kl,
        "learning_rate": game.optimizer.learning_rate * factor,
    }
    metrics |= {f"utility/{name}": utilities[g] for g, name in enumerate(game.groups.names)}
    metrics |= {f"weight/{name}": weights[g] for g, name in enumerate(game.groups.names)}
    return state._replace(step=state.step + 1), metrics | measured


def _drawn(game: _Game, state: PolicyState, batch: PromptBatch) -> _Seen:
    """n responses of each prompt, sampled."""
    policy, rollouts = game.policy, game.rollouts
    assert rollouts is not None
    key = jax.random.fold_in(state.key, state.step)
    drawn = policy.sample(state.params, key, batch.prompts, rollouts.num_samples)
    # In bfloat16 a sampler rounds otherwise, token by token, than a whole pass does: both sides of
    # the log-ratio are from one function, so that rounding makes no KL.
    log_policy, log_reference = (
        policy.log_probs(params, batch.prompts, drawn.tokens, drawn.mask)
        for params in (state.params, state.reference)
    )
    rewards = game.rewards.of_responses(batch.prompts, drawn.tokens, drawn.mask)
    shares = jnp.full(rewards.shape[:2], 1 / rollouts.num_samples)
    return _Seen(rewards, shares, jnp.sum(log_policy - log_reference, axis=2), drawn)


def _enumerated(game: _Game, state: PolicyState, batch: PromptBatch) -> _Seen:
    """All actions at each prompt, with their probabilities."""
    assert game.rewards.of_actions is not None
    log_policy = _log_policy(game.policy, state.params, batch.prompts)
    log_reference = _log_policy(game.policy, state.reference, batch.prompts)
    # What the reference forbids, no tilt allows: -inf minus -inf is no number.
    allowed = log_reference > -jnp.inf
    log_ratio = jnp.where(allowed, log_policy - jnp.where(allowed, log_reference, 0), 0)
    return _Seen(game.rewards.of_actions(batch.prompts), jnp.exp(log_policy), log_ratio)


def _reweigh(
    game: _Game,
    state: PolicyState,
    by_prompt: Float[Array, "B G"],
    rows: Int[Array, "B"],
    weights: Float[Array, "B"],
    factor: Float[Array, ""],
) -> PolicyState:
    """Move the weights of the rows that have a prompt in the batch, and no others."""
    if not game.objective.adapts:
        return state
    num_rows = len(state.visits)
    mass = jax.ops.segment_sum(weights, rows, num_segments=num_rows)
    total = jax.ops.segment_sum(weights[:, None] * by_prompt, rows, num_segments=num_rows)
    here = (mass > 0)[:, None]
    utilities = total / jnp.where(here, mass[:, None], 1)
    # A mean of the first visits, then a moving average: no bias towards the zeros at the start.
    keep = jnp.minimum(game.smoothing, state.visits / (state.visits + 1))[:, None]
    smoothed = keep * state.utilities + (1 - keep) * utilities
    before = jnp.where(state.visits[:, None] > 0, state.utilities, smoothed)
    moved = jax.vmap(game.follow, in_axes=(0, 0, 0, None, None))(
        state.log_q, smoothed, before, factor, game.objective.cap
    )
    return state._replace(
        log_q=jnp.where(here, moved, state.log_q),
        utilities=jnp.where(here, smoothed, state.utilities),
        before=jnp.where(here, before, state.before),
        visits=state.visits + here[:, 0],
    )


def _improve(
    game: _Game, state: PolicyState, batch: PromptBatch, seen: _Seen, wanted: Float[Array, "B n"]
) -> tuple[PolicyState, Metrics]:
    """Move the policy towards what is wanted, and its averages after it."""
    gains = wanted - game.beta * seen.log_ratio
    loss = _expected_loss if game.rollouts is None else _surrogate_loss
    slope = jax.value_and_grad(partial(loss, game, batch, seen, gains), has_aux=True)

    def update(carry: tuple[Params, Any, Any], first: Array) -> tuple[Any, Metrics]:
        params, moments, old = carry
        (value, (measured, old)), gradient = slope(params, old, first)
        updates, moments = game.optimizer.transformation.update(gradient, moments, params)
        measured = measured | {"loss": value, "grad_norm": optax.tree.norm(gradient)}
        return (optax.apply_updates(params, updates), moments, old), measured

    times = 1 if game.rollouts is None else game.rollouts.updates
    old = None if seen.drawn is None else seen.drawn.log_probs
    start, first = (state.params, state.optimizer, old), jnp.arange(times) == 0
    (params, moments, _), measured = jax.lax.scan(update, start, first)
    share = (1 + AVERAGE_OVER) / (state.step + 1 + AVERAGE_OVER)
    average = jax.tree.map(lambda old, new: old + share * (new - old), state.average, params)
    whole = _whole(game.policy, params, game.num_prompts)
    mixture = state.mixture + share * (whole - state.mixture)
    metrics = {name: jnp.mean(values) for name, values in measured.items()}
    if seen.drawn is not None:
        lengths = jnp.sum(seen.drawn.mask, axis=2)
        metrics["length"] = batch.weights @ jnp.mean(lengths, axis=1)
    return state._replace(
        params=params, optimizer=moments, average=average, mixture=mixture
    ), metrics


def _expected_loss(
    game: _Game,
    batch: PromptBatch,
    seen: _Seen,
    gains: Float[Array, "B Y"],
    params: Params,
    old: None,
    first: Array,
) -> tuple[Float[Array, ""], tuple[Metrics, None]]:
    """-E_x Σ_y π(y | x) gain(x, y), whose gradient is that of -E reward + β KL."""
    log_policy = _log_policy(game.policy, params, batch.prompts)
    expected = jnp.sum(jnp.exp(log_policy) * jax.lax.stop_gradient(gains), axis=1)
    return -(batch.weights @ expected), ({}, old)


def _surrogate_loss(
    game: _Game,
    batch: PromptBatch,
    seen: _Seen,
    gains: Float[Array, "B n"],
    params: Params,
    old: Float[Array, "B n T"],
    first: Array,
) -> tuple[Float[Array, ""], tuple[Metrics, Float[Array, "B n T"]]]:
    """PPO's clipped surrogate with leave-one-out advantages, summed over tokens.

    Ratios are to the first update's own pass: another program's bfloat16 would clip some of them.
    """
    drawn, rollouts = seen.drawn, game.rollouts
    assert drawn is not None
    assert rollouts is not None
    advantages = leave_one_out(gains)[:, :, None]
    log_probs = game.policy.log_probs(params, batch.prompts, drawn.tokens, drawn.mask)
    old = jnp.where(first, jax.lax.stop_gradient(log_probs), old)
    ratio = jnp.exp(log_probs - old)
    clipped = jnp.clip(ratio, 1 - rollouts.clip, 1 + rollouts.clip)
    surrogate = jnp.minimum(ratio * advantages, clipped * advantages)
    by_response = jnp.sum(jnp.where(drawn.mask, surrogate, 0), axis=2)
    beyond = jnp.sum(drawn.mask & (ratio != clipped)) / jnp.sum(drawn.mask)
    return -(batch.weights @ jnp.mean(by_response, axis=1)), ({"clipped": beyond}, old)


def _log_policy(policy: Policy, params: Params, prompts: Prompts) -> Float[Array, "B Y"]:
    assert policy.actions is not None
    return policy.actions.log_policy(params, prompts)


def _whole(policy: Policy, params: Params, num_prompts: int) -> Float[Array, "X Y"]:
    """All probabilities, where the actions can be enumerated."""
    if policy.actions is None:
        return jnp.zeros((1, 1))  # checkpoints hold no empty arrays
    return jnp.exp(_log_policy(policy, params, jnp.arange(num_prompts)))
