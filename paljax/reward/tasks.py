"""Fits of the reward stage as tasks of the training loop: on what, and judged by what."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from paljax.config import Config, EMLearner, EpisodesLearner, OptimizerSection
from paljax.data.batches import (
    Plan,
    Rows,
    Sizes,
    Tables,
    plan_epoch,
    plan_sizes,
    room,
    steps_per_epoch,
    to_batch,
    training_rows,
)
from paljax.data.blocks import Blocks, deal_rows, deal_users, plan_dealt, plan_dealt_sizes
from paljax.data.by_user import one_over_total_weight, weighted_choices
from paljax.data.dataset import Comparisons
from paljax.data.episodes import plan_episodes, to_episode_batch
from paljax.data.iterations import (
    Choices,
    IterationTables,
    choices_by_user,
    plan_iteration,
    to_iteration,
)
from paljax.data.prepare import Prepared
from paljax.errors import UserError, nearest
from paljax.learners.fit_by_em import EMState, best_start, expect, fit_by_em, foresee
from paljax.learners.fit_by_episodes import EpisodeState, fit_by_episodes
from paljax.learners.fit_by_gradient import FitState, fit_by_gradient, weights_of
from paljax.learners.losses import LOSSES
from paljax.learners.new_users import adapt
from paljax.learners.optimizers import OptimizerSettings
from paljax.loop import Task
from paljax.models import Params, PreferenceModel
from paljax.parallel import Parallel, on_devices, one_copy, replicate, rows_of
from paljax.predictions import EncodedTables, encode, pair, pair_margins
from paljax.processes import of_first

Scores = Mapping[str, Any]


class Fitted(NamedTuple):
    """The part of a learner's state that is the fitted model."""

    params: Params
    population: Float[Array, "K"]  # logits of w̄; log η of a fit by EM
    prior_strength: Float[Array, ""] | None  # λ where it was learned, in pseudo-comparisons


def task_for(
    config: Config,
    prepared: Prepared,
    name: str,
    model: PreferenceModel,
    train: Comparisons,
    validation: Comparisons | None,
    *,
    epochs: int,
) -> Task:
    """The task that fits a model as the configuration says.

    Args:
        config: The run's configuration.
        prepared: The run's data.
        name: Of the fit.
        model: What is fitted. One without users' weights is always fitted by gradient.
        train: Comparisons to learn from.
        validation: Comparisons, without ties, that judge every epoch; None trains to the end.
        epochs: How many at most; the schedule ends with the last, so that a refit, too, anneals.

    Returns:
        The task.
    """
    make = _gradient_task
    if isinstance(config.learner, EpisodesLearner) and model.num_prototypes > 1:
        make = _episodes_task
    if fits_by_em(config, model):
        make = _em_task
    return make(config, prepared, name, model, train, validation, epochs)


def fits_by_em(config: Config, model: PreferenceModel) -> bool:
    """Whether users are members of groups; with one group there is nothing to assign."""
    return isinstance(config.learner, EMLearner) and model.num_prototypes > 1


def _gradient_task(
    config: Config,
    prepared: Prepared,
    name: str,
    model: PreferenceModel,
    train: Comparisons,
    validation: Comparisons | None,
    epochs: int,
) -> Task:
    rows = training_rows(
        train,
        label_smoothing=config.loss.label_smoothing,
        weight_by_user=config.loss.weight_by_user,
    )
    num_users = len(prepared.dataset.users)
    batch_size = min(config.training.batch_size, len(rows.weight))
    steps = epochs * steps_per_epoch(len(rows.weight), batch_size)
    parallel = _parallel(config)
    blocks = deal_users(
        np.bincount(rows.comparisons.user, minlength=num_users), _num_blocks(config, parallel)
    )
    learner = fit_by_gradient(
        model,
        example_items=_first(prepared.tables.items),
        example_prompts=_first(prepared.tables.prompts),
        num_users=blocks.num_rows,
        loss=LOSSES[config.loss.name],
        prior_strength=config.prior_strength,
        optimizer=optimizer_settings(config.optimizer, steps),
        devices=parallel.devices,
    )
    return Task(
        name=name,
        learner=learner,
        epoch_batches=_planner(rows, blocks, parallel, batch_size=batch_size, seed=config.seed),
        to_batch=to_batch,
        tables=replicate(prepared.tables, parallel),
        snapshot=_fitted_by_gradient,
        validate=None
        if validation is None
        else _judge_rows(model, prepared, validation, blocks, parallel),
        epochs=epochs,
        patience=config.training.patience,
        checkpoint_every=config.training.checkpoint_every,
        parallel=parallel,
    )


def _episodes_task(
    config: Config,
    prepared: Prepared,
    name: str,
    model: PreferenceModel,
    train: Comparisons,
    validation: Comparisons | None,
    epochs: int,
) -> Task:
    section = config.learner
    assert isinstance(section, EpisodesLearner)
    comparisons, weights = weighted_choices(train)
    query_weights = weights
    if config.loss.weight_by_user:
        scale = one_over_total_weight(comparisons, weights)
        query_weights = (scale * weights).astype(np.float32)
    parallel = _parallel(config)
    num_users = len(np.unique(comparisons.user))
    users_per_batch = min(section.users_per_batch, num_users)
    plan = partial(
        plan_episodes,
        comparisons,
        weights,
        query_weights,
        users_per_batch=users_per_batch,
        most_comparisons=section.most_comparisons,
        seed=config.seed,
        num_devices=parallel.num_devices,
    )
    first = plan(sizes=Sizes(0, 0, 0), epoch=0)
    num_items = len(np.unique([comparisons.chosen, comparisons.rejected]))
    sizes = Sizes(
        items=room(first.items.shape[1], num_items),
        prompts=room(first.prompts.shape[1], len(np.unique(comparisons.prompt))),
        users=0,
    )
    learner = fit_by_episodes(
        model,
        example_items=_first(prepared.tables.items),
        example_prompts=_first(prepared.tables.prompts),
        loss=LOSSES[config.loss.name],
        label_smoothing=config.loss.label_smoothing,
        prior_strength=config.prior_strength,
        optimizer=optimizer_settings(
            config.optimizer, epochs * steps_per_epoch(num_users, users_per_batch)
        ),
        devices=parallel.devices,
    )
    return Task(
        name=name,
        learner=learner,
        epoch_batches=lambda epoch: plan(sizes=sizes, epoch=epoch),
        to_batch=to_episode_batch,
        tables=replicate(prepared.tables, parallel),
        snapshot=_fitted_by_episodes,
        validate=None if validation is None else _judge_joined(model, prepared, train, validation),
        epochs=epochs,
        patience=config.training.patience,
        checkpoint_every=config.training.checkpoint_every,
        parallel=parallel,
    )


def _em_task(
    config: Config,
    prepared: Prepared,
    name: str,
    model: PreferenceModel,
    train: Comparisons,
    validation: Comparisons | None,
    epochs: int,
) -> Task:
    section = config.learner
    assert isinstance(section, EMLearner)
    if (config.parallel.num_devices or 1) > 1:
        raise UserError(
            f"parallel.num_devices: {config.parallel.num_devices} wanted, learner.name 'em' runs "
            "its starts side by side on one device; give 1 or null"
        )
    smoothing = config.loss.label_smoothing
    rows = training_rows(
        train, label_smoothing=smoothing, weight_by_user=config.loss.weight_by_user
    )
    num_users = len(prepared.dataset.users)
    batch_size = min(config.training.batch_size, len(rows.weight))
    sizes = plan_sizes(rows, batch_size=batch_size, seed=config.seed)
    steps = epochs * section.passes * steps_per_epoch(len(rows.weight), batch_size)
    learner = fit_by_em(
        model,
        example_items=_first(prepared.tables.items),
        example_prompts=_first(prepared.tables.prompts),
        num_users=num_users,
        optimizer=optimizer_settings(config.optimizer, steps),
        assignment=section.assignment,
        starts=section.starts,
    )
    judge = _judge_starts(model, prepared, train, validation)
    return Task(
        name=name,
        learner=learner,
        epoch_batches=lambda epoch: plan_iteration(
            rows,
            sizes=sizes,
            num_users=num_users,
            batch_size=batch_size,
            passes=section.passes,
            seed=config.seed,
            epoch=epoch,
        ),
        to_batch=to_iteration,
        tables=IterationTables(
            prepared.tables,
            choices_by_user(train, num_users=num_users, label_smoothing=smoothing),
        ),
        snapshot=lambda state: _fitted_by_em(state, judge(state)),
        validate=None if validation is None else lambda state: _of_best_start(judge(state)),
        epochs=epochs,
        patience=config.training.patience,
        checkpoint_every=config.training.checkpoint_every,
        parallel=on_devices("jit", 1),
    )


def optimizer_settings(section: OptimizerSection, num_steps: int) -> OptimizerSettings:
    """Schedule and rates of a fit of `num_steps` steps."""
    warmup = math.ceil(section.warmup_fraction * num_steps)
    after = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, max(num_steps - warmup, 1)),
        "linear": optax.linear_schedule(1.0, 0.0, max(num_steps - warmup, 1)),
    }[section.schedule]
    # From 1 / (warmup + 1): a first step with rate zero would be lost.
    before = optax.linear_schedule(1 / (warmup + 1), 1.0, warmup)
    return OptimizerSettings(
        learning_rate=section.learning_rate.model_dump(),
        weight_decay=section.weight_decay.model_dump(),
        schedule=optax.join_schedules([before, after], [warmup]),
        clip_norm=section.clip_norm,
        beta1=section.beta1,
        beta2=section.beta2,
    )


def _parallel(config: Config) -> Parallel:
    return on_devices(config.parallel.backend, config.parallel.num_devices)


def _num_blocks(config: Config, parallel: Parallel) -> int:
    """L, which the devices share equally."""
    blocks = config.parallel.blocks or parallel.num_devices
    if blocks % parallel.num_devices:
        fitting = [count for count in range(1, blocks + 1) if blocks % count == 0]
        raise UserError(
            f"parallel.num_devices: {parallel.num_devices} can't share {blocks} blocks of users "
            f"equally; {nearest('', fitting)}"
        )
    return blocks


def _planner(
    rows: Rows, blocks: Blocks, parallel: Parallel, *, batch_size: int, seed: int
) -> Callable[[int], Plan]:
    """Plan epochs: of all rows together, or of each device's own."""
    if blocks.num_blocks == 1:
        sizes = plan_sizes(rows, batch_size=batch_size, seed=seed)
        return lambda epoch: plan_epoch(
            rows,
            sizes=sizes,
            num_users=blocks.num_rows,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
        )
    dealt = deal_rows(rows, blocks, num_devices=parallel.num_devices, batch_size=batch_size)
    sizes = plan_dealt_sizes(dealt, seed=seed)
    return lambda epoch: plan_dealt(dealt, sizes=sizes, seed=seed, epoch=epoch)


def _judge_rows(
    model: PreferenceModel,
    prepared: Prepared,
    validation: Comparisons,
    blocks: Blocks,
    parallel: Parallel,
) -> Callable[[FitState], Scores]:
    """Score validation comparisons for the users' weights of the state."""
    rows = blocks.row[validation.user]

    @jax.jit
    def scores(fitted: Fitted, logits: Float[Array, "n K"], tables: Tables) -> Scores:
        pairs = pair(encode(model, fitted.params, tables), validation)
        weights = weights_of(fitted.population, logits)
        return _scores(pair_margins(model, fitted.params, pairs, weights))

    def judge(state: FitState) -> Scores:
        fitted = one_copy(_fitted_by_gradient(state))
        judged: Scores = scores(fitted, rows_of(state.user_logits, rows, parallel), prepared.tables)
        return judged

    return judge


def _judge_joined(
    model: PreferenceModel, prepared: Prepared, train: Comparisons, validation: Comparisons
) -> Callable[[EpisodeState], Scores]:
    """Score validation comparisons for weights that are fitted to all training comparisons."""
    users = jnp.asarray(validation.user)
    num_users = len(prepared.dataset.users)

    @jax.jit
    def scores(params: Params, encoded: EncodedTables, weights: Float[Array, "U K"]) -> Scores:
        pairs = pair(encoded, validation)
        return _scores(pair_margins(model, params, pairs, jnp.take(weights, users, axis=0)))

    def judge(state: EpisodeState) -> Scores:
        fitted = one_copy(_fitted_by_episodes(state))
        assert fitted.prior_strength is not None
        encoded = encode(model, fitted.params, prepared.tables)
        joined = adapt(
            model,
            fitted.params,
            jax.nn.softmax(fitted.population),
            prior_strength=fitted.prior_strength,
            encoded=encoded,
            comparisons=train,
            num_users=num_users,
        )
        judged: Scores = of_first(scores(fitted.params, encoded, joined.weights))
        return judged

    return judge


def _judge_starts(
    model: PreferenceModel,
    prepared: Prepared,
    train: Comparisons,
    validation: Comparisons | None,
) -> Callable[[EMState], Scores]:
    """Score every start: by the evidence of its users' validation comparisons, given what the
    training comparisons say about their groups; by that of the training comparisons without any.
    """
    num_users = len(prepared.dataset.users)
    if validation is None:
        return lambda state: {"loss": -state.evidence}
    seen = choices_by_user(train, num_users=num_users)
    held_out = choices_by_user(validation, num_users=num_users)

    @jax.jit
    def scores(state: EMState, tables: Tables, seen: Choices, held_out: Choices) -> Scores:
        def of_start(params: Params, log_sizes: Array) -> Scores:
            encoded = encode(model, params, tables)
            known = expect(model, params, log_sizes, encoded, seen, num_users).responsibilities
            found = foresee(model, params, jnp.log(known), encoded, held_out, num_users)
            return {"loss": -found.evidence, "accuracy": found.accuracy}

        return jax.vmap(of_start)(state.params, state.log_sizes)

    return lambda state: scores(state, prepared.tables, seen, held_out)


def _scores(margins: Float[Array, "n"]) -> Scores:
    return {
        "loss": jnp.mean(jax.nn.softplus(-margins)),
        "accuracy": jnp.mean(0.5 * (1 + jnp.sign(margins))),
    }


def _fitted_by_gradient(state: FitState) -> Fitted:
    return Fitted(state.params, state.population, None)


def _fitted_by_episodes(state: EpisodeState) -> Fitted:
    return Fitted(state.params, state.population, jnp.exp(state.log_strength))


def _fitted_by_em(state: EMState, scores: Scores) -> Fitted:
    """The best start; η takes the place of the population's weights."""
    best = best_start(-jnp.asarray(scores["loss"]))
    params, log_sizes = jax.tree.map(lambda leaf: leaf[best], (state.params, state.log_sizes))
    return Fitted(params, log_sizes, None)


def _of_best_start(scores: Scores) -> Scores:
    best = best_start(-jnp.asarray(scores["loss"]))
    return {name: values[best] for name, values in scores.items()}


def _first(inputs: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[:1], inputs)
