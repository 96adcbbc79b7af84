"""Fit a preference model and its users' weights by minibatch gradients.

B comparisons a batch, I distinct items, M distinct prompts and R distinct users in it, U users in
all, K prototypes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from paljax.data.batches import Batch
from paljax.learners.devices import ONE_DEVICE, Devices, part_of_mean
from paljax.learners.lazy_rows import LazyRows, lazy_rows
from paljax.learners.learner import Learner, Metrics
from paljax.learners.losses import Loss, expected_loss
from paljax.learners.optimizers import (
    OptimizerSettings,
    adamw,
    by_group,
    clipped,
    descend,
    gradient_norms,
    rate_factor,
)
from paljax.models import Inputs, Params, PreferenceModel, gather, margins


class FitState(NamedTuple):
    """All that the next step needs."""

    params: Params  # of the preference model
    population: Float[Array, "K"]  # logits of the population's weights w̄
    optimizer: optax.OptState  # of params and population
    user_logits: Float[Array, "U K"]  # W, relative to the population's: w = softmax(population + W)
    user_optimizer: optax.OptState  # leading axis U
    step: Int[Array, ""]  # steps taken
    num_steps: Int[Array, ""]  # that the schedule spans
    key: PRNGKeyArray  # step t draws from fold_in(key, t)


def weights_of(population: Float[Array, "K"], logits: Float[Array, "R K"]) -> Float[Array, "R K"]:
    """Weights on the simplex of users with these logits relative to the population's."""
    return jax.nn.softmax(population[None, :] + logits, axis=1)


def prior_penalty(population: Float[Array, "K"], logits: Float[Array, "R K"]) -> Float[Array, "R"]:
    """KL(w̄ ‖ w) in nats: zero for a user who has the population's weights.

    Source:
        paljax's design, section 2.3: the log-density of a Dirichlet with concentration 1 + λ w̄,
        up to a constant and the factor λ.
    """
    log_population = jax.nn.log_softmax(population)
    log_weights = jax.nn.log_softmax(population[None, :] + logits, axis=1)
    return (log_population[None, :] - log_weights) @ jnp.exp(log_population)


def fit_by_gradient(
    model: PreferenceModel,
    *,
    example_items: Inputs,
    example_prompts: Inputs | None,
    num_users: int,
    loss: Loss,
    prior_strength: float,
    optimizer: OptimizerSettings,
    devices: Devices = ONE_DEVICE,
) -> Learner:
    """Minimise Σ_j ω_j ℓ(m_j) + λ Σ_u KL(w̄ ‖ w_u) over networks, prototypes and user weights.

    A user's logits are kept relative to the population's. A user who is in no batch keeps the row
    of zeros with which it started, and so has the population's weights exactly.

    Args:
        model: The preference model.
        example_items: Inputs of at least one item; only their widths matter.
        example_prompts: Inputs of at least one prompt, or None.
        num_users: U.
        loss: A loss on margins.
        prior_strength: λ >= 0, in pseudo-comparisons.
        optimizer: How parameters move.
        devices: Those that share a step. Each has its own users' rows and comparisons, and its
            batches number users by their place among its own.

    Returns:
        A learner on `FitState` and `Batch`. Metrics of a step: its number, loss and margin in nats,
        accuracy, learning_rate (of the networks), grad_norm, and grad_norm/GROUP for each
        parameter group.

    Source:
        PAL, arXiv 2406.08469, equation 3; prior and lazy rows: paljax's design, section 2.3.
    """
    fit = _Fit(
        model,
        num_users,
        loss,
        prior_strength,
        optimizer,
        by_group(optimizer),
        lazy_rows(adamw(optimizer, "user_weights")),
        devices,
    )
    return Learner(
        partial(_init, fit, example_items, example_prompts),
        partial(_step, fit),
        of_users=("user_logits", "user_optimizer"),
    )


class _Fit(NamedTuple):
    """What the steps of a fit share."""

    model: PreferenceModel
    num_users: int
    loss: Loss
    prior_strength: float
    settings: OptimizerSettings
    shared: optax.GradientTransformation  # of params and population
    rows: LazyRows  # of the users' logits
    devices: Devices


def _init(fit: _Fit, items: Inputs, prompts: Inputs | None, key: PRNGKeyArray) -> FitState:
    params_key, state_key = jax.random.split(key)
    params = fit.model.init(params_key, items, prompts)
    population = jnp.zeros(fit.model.num_prototypes)
    user_logits = jnp.zeros((fit.num_users, fit.model.num_prototypes))
    return FitState(
        params=params,
        population=population,
        optimizer=fit.shared.init((params, population)),
        user_logits=user_logits,
        user_optimizer=fit.rows.init(user_logits),
        step=jnp.zeros((), jnp.int32),
        num_steps=jnp.asarray(fit.settings.num_steps, jnp.int32),
        key=state_key,
    )


def _objective(
    fit: _Fit,
    shared: tuple[Params, Float[Array, "K"]],
    logits: Float[Array, "R K"],
    batch: Batch,
    dropout_key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Float[Array, "B"]]:
    """Mean of ω_j ℓ(m_j) and the user's share of the prior over all devices' rows; the margins."""
    model, (params, population) = fit.model, shared
    if model.even_population:
        population = jax.lax.stop_gradient(population)
    encoded_items = model.encode_items(params, batch.items, dropout_key=dropout_key)
    encoded_prompts = model.encode_prompts(params, batch.prompts, dropout_key=dropout_key)
    items = gather(encoded_items, batch.chosen), gather(encoded_items, batch.rejected)
    weights = gather(weights_of(population, logits), batch.user)
    margin = margins(model, params, items, gather(encoded_prompts, batch.prompt), weights)
    penalty = gather(prior_penalty(population, logits), batch.user)
    losses = (
        batch.weight * expected_loss(fit.loss, margin, batch.target)
        + fit.prior_strength * batch.prior_share * penalty
    )
    return part_of_mean(losses, batch.present, fit.devices), margin


def _step(fit: _Fit, state: FitState, batch: Batch) -> tuple[FitState, Metrics]:
    devices, settings = fit.devices, fit.settings
    shared = (state.params, state.population)
    logits = jnp.take(state.user_logits, batch.users, axis=0, mode="clip")
    dropout_key = devices.own_key(jax.random.fold_in(state.key, state.step))
    slope = jax.value_and_grad(partial(_objective, fit), argnums=(0, 1), has_aux=True)
    (loss, margin), gradients = slope(devices.local(shared), logits, batch, dropout_key)
    gradients = (devices.total(gradients[0]), gradients[1])
    norms = gradient_norms(*gradients, devices=devices)
    of_shared, of_rows = clipped(gradients, norms["grad_norm"], settings)

    factor = rate_factor(settings, state.step, state.num_steps)
    (params, population), moments = descend(fit.shared, shared, of_shared, state.optimizer, factor)
    rate = settings.learning_rate["user_weights"] * factor
    user_logits, user_moments = fit.rows.update(
        of_rows, batch.users, state.user_optimizer, state.user_logits, rate
    )
    right = 0.5 * (1 + jnp.sign(margin))
    metrics = {
        "step": state.step,
        "loss": devices.total(loss),
        "accuracy": devices.total(part_of_mean(right, batch.present, devices)),
        "margin": devices.total(part_of_mean(margin, batch.present, devices)),
        "learning_rate": settings.learning_rate["networks"] * factor,
    }
    state = state._replace(
        params=params,
        population=population,
        optimizer=moments,
        user_logits=user_logits,
        user_optimizer=user_moments,
        step=state.step + 1,
    )
    return state, metrics | norms
