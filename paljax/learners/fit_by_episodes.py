"""Fit a preference model so that users who are fitted to some of their choices predict the others.

R users a batch, n comparisons a user, K prototypes. A user's weights are no parameters here: each
step solves them exactly on the user's support comparisons and differentiates through the solution.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from paljax.data.episodes import EpisodeBatch
from paljax.kernels import fit_simplex, mix
from paljax.learners.devices import ONE_DEVICE, Devices
from paljax.learners.learner import Learner, Metrics
from paljax.learners.losses import Loss, expected_loss
from paljax.learners.optimizers import (
    OptimizerSettings,
    by_group,
    clipped,
    descend,
    gradient_norms,
    rate_factor,
)
from paljax.models import Inputs, Params, PreferenceModel, gather


class EpisodeState(NamedTuple):
    """All that the next step needs."""

    params: Params  # of the preference model
    population: Float[Array, "K"]  # logits of the population's weights w̄
    log_strength: Float[Array, ""]  # log λ; λ in pseudo-comparisons
    optimizer: optax.OptState  # of the three above
    step: Int[Array, ""]  # steps taken
    num_steps: Int[Array, ""]  # that the schedule spans
    key: PRNGKeyArray  # step t draws from fold_in(key, t)


def fit_by_episodes(
    model: PreferenceModel,
    *,
    example_items: Inputs,
    example_prompts: Inputs | None,
    loss: Loss,
    label_smoothing: float,
    prior_strength: float,
    optimizer: OptimizerSettings,
    devices: Devices = ONE_DEVICE,
) -> Learner:
    """Minimise the mean loss of query comparisons for weights fitted to support comparisons.

    Where users' weights are parameters (`fit_by_gradient`), the prototypes of a small data set move
    apart until the prior on the weights costs nothing, and new users are fitted too boldly. Here
    prototypes, the population's weights w̄ and the prior strength λ learn from choices that the
    weights have not seen, so shrinkage is fitted and not set.

    Args:
        model: A preference model whose margins are linear in the weights.
        example_items: Inputs of at least one item; only their widths matter.
        example_prompts: Inputs of at least one prompt, or None.
        loss: A loss on margins, for the query; the support is fitted by the logistic loss.
        label_smoothing: ε in [0, 1/2), for the query.
        prior_strength: Where λ starts, in pseudo-comparisons.
        optimizer: How parameters move; w̄ and log λ move as `user_weights`.
        devices: Those that share a step, each with other users.

    Returns:
        A learner on `EpisodeState` and `EpisodeBatch`. Metrics of a step: those of
        `fit_by_gradient`, on the query, and prior_strength.

    Raises:
        ValueError: If the model's margins are not linear in the weights.

    Source:
        Episodes: Vinyals et al., arXiv 1606.04080; a closed-form inner solution that is
        differentiated: Bertinetto et al., arXiv 1805.08136. The inner problem is that of PAL's new
        users, paljax's design, section 2.3.
    """
    if model.prototype_rewards is None:
        raise ValueError("fit_by_episodes needs a model whose margins are linear in the weights")
    fit = _Fit(
        model, loss, label_smoothing, prior_strength, optimizer, by_group(optimizer), devices
    )
    return Learner(partial(_init, fit, example_items, example_prompts), partial(_step, fit))


class _Fit(NamedTuple):
    """What the steps of a fit share."""

    model: PreferenceModel
    loss: Loss
    label_smoothing: float
    prior_strength: float  # λ at the start
    settings: OptimizerSettings
    shared: optax.GradientTransformation
    devices: Devices


def _init(fit: _Fit, items: Inputs, prompts: Inputs | None, key: PRNGKeyArray) -> EpisodeState:
    params_key, state_key = jax.random.split(key)
    params = fit.model.init(params_key, items, prompts)
    population = jnp.zeros(fit.model.num_prototypes)
    log_strength = jnp.log(jnp.asarray(fit.prior_strength, jnp.float32))
    return EpisodeState(
        params=params,
        population=population,
        log_strength=log_strength,
        optimizer=fit.shared.init((params, (population, log_strength))),
        step=jnp.zeros((), jnp.int32),
        num_steps=jnp.asarray(fit.settings.num_steps, jnp.int32),
        key=state_key,
    )


def _margins(
    model: PreferenceModel, params: Params, batch: EpisodeBatch, dropout_key: PRNGKeyArray
) -> Float[Array, "R n K"]:
    """Margin of every comparison under every prototype's reward, in nats."""
    assert model.prototype_rewards is not None
    items = model.encode_items(params, batch.items, dropout_key=dropout_key)
    prompts = gather(
        model.encode_prompts(params, batch.prompts, dropout_key=dropout_key), batch.prompt.ravel()
    )
    chosen, rejected = (
        model.prototype_rewards(params, gather(items, side.ravel()), prompts)
        for side in (batch.chosen, batch.rejected)
    )
    return (chosen - rejected).reshape(*batch.chosen.shape, model.num_prototypes)


def _objective(
    fit: _Fit,
    shared: tuple[Params, tuple[Float[Array, "K"], Float[Array, ""]]],
    batch: EpisodeBatch,
    dropout_key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Float[Array, "R n"]]:
    """Mean loss of the query under weights that the support determines; all margins."""
    params, (population, log_strength) = shared
    if fit.model.even_population:
        population = jax.lax.stop_gradient(population)
    margins = _margins(fit.model, params, batch, dropout_key)
    fitted = fit_simplex(
        margins,
        batch.support,
        prior=jax.nn.softmax(population),
        strength=jnp.exp(log_strength),
    )
    margin = mix(margins, jnp.broadcast_to(fitted.weights[:, None, :], margins.shape))
    targets = jnp.full(margin.shape, 1 - fit.label_smoothing, margin.dtype)
    losses = expected_loss(fit.loss, margin, targets)
    return _part_of_mean(losses, batch.query, fit.devices), margin


def _step(fit: _Fit, state: EpisodeState, batch: EpisodeBatch) -> tuple[EpisodeState, Metrics]:
    devices, settings = fit.devices, fit.settings
    shared = (state.params, (state.population, state.log_strength))
    dropout_key = devices.own_key(jax.random.fold_in(state.key, state.step))
    slope = jax.value_and_grad(partial(_objective, fit), has_aux=True)
    (loss, margin), gradient = slope(devices.local(shared), batch, dropout_key)
    gradient = devices.total(gradient)
    norms = gradient_norms(gradient)
    gradient = clipped(gradient, norms["grad_norm"], settings)
    factor = rate_factor(settings, state.step, state.num_steps)
    moved, moments = descend(fit.shared, shared, gradient, state.optimizer, factor)
    params, (population, log_strength) = moved
    right = 0.5 * (1 + jnp.sign(margin))
    metrics = {
        "step": state.step,
        "loss": devices.total(loss),
        "accuracy": devices.total(_part_of_mean(right, batch.query, devices)),
        "margin": devices.total(_part_of_mean(margin, batch.query, devices)),
        "prior_strength": jnp.exp(state.log_strength),
        "learning_rate": settings.learning_rate["networks"] * factor,
    }
    state = state._replace(
        params=params,
        population=population,
        log_strength=log_strength,
        optimizer=moments,
        step=state.step + 1,
    )
    return state, metrics | norms


def _part_of_mean(
    values: Float[Array, "R n"], weights: Float[Array, "R n"], devices: Devices
) -> Float[Array, ""]:
    """What this device's users add to the weighted mean over all devices' users."""
    return jnp.sum(values * weights) / jnp.maximum(devices.total(jnp.sum(weights)), 1e-12)
