"""Fits of the reward stage as tasks of the training loop: on what, and judged by what."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from paljax.config import Config, EMLearner, EpisodesLearner, OptimizerSection
from paljax.data.batches import (
    Plan,
    Rows,
    Sizes,
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
from paljax.data.episodes import EpisodePlan, plan_episodes, to_episode_batch
from paljax.data.iterations import IterationTables, choices_by_user, plan_iteration, to_iteration
from paljax.data.prepare import Prepared
from paljax.errors import UserError, nearest
from paljax.learners.fit_by_em import fit_by_em
from paljax.learners.fit_by_episodes import fit_by_episodes
from paljax.learners.fit_by_gradient import fit_by_gradient
from paljax.learners.learner import Learner, State
from paljax.learners.losses import LOSSES
from paljax.learners.optimizers import OptimizerSettings, with_weight_decay
from paljax.loop import Task
from paljax.models import ANCHOR, Params, PreferenceModel
from paljax.parallel import Parallel, on_devices, replicate
from paljax.reward.judges import (
    Scores,
    fitted_by_em,
    fitted_by_episodes,
    fitted_by_gradient,
    judge_joined,
    judge_rows,
    judge_starts,
    of_best_start,
)


class Course(NamedTuple):
    """What a learner goes through, and how it is judged."""

    num_steps: int  # an epoch
    epoch_batches: Callable[[int], Any]  # epoch -> pytree of stacked batches
    to_batch: Callable[[Any, Any], Any]
    tables: Any
    snapshot: Callable[[Any], State]
    validate: Callable[[Any], Scores] | None


def learner_for(config: Config, prepared: Prepared, model: PreferenceModel) -> Learner:
    """The learner of a model, for fits of any length: two fits with one learner share programs.

    A model without users' weights is always fitted by gradient.
    """
    examples = {
        "example_items": _first(prepared.tables.items),
        "example_prompts": _first(prepared.tables.prompts),
    }
    loss, optimizer = LOSSES[config.loss.name], optimizer_settings(config.optimizer)
    parallel = _parallel(config, model)
    if fits_by_em(config, model):
        assert isinstance(config.learner, EMLearner)
        return fit_by_em(
            model,
            **examples,
            num_users=len(prepared.dataset.users),
            optimizer=optimizer,
            assignment=config.learner.assignment,
            starts=config.learner.starts,
        )
    if _fits_by_episodes(config, model):
        return fit_by_episodes(
            model,
            **examples,
            loss=loss,
            label_smoothing=config.loss.label_smoothing,
            prior_strength=config.prior_strength,
            optimizer=optimizer,
            devices=parallel.devices,
        )
    return fit_by_gradient(
        model,
        **examples,
        num_users=_blocks(config, prepared, parallel).num_rows,
        loss=loss,
        prior_strength=config.prior_strength,
        optimizer=optimizer,
        devices=parallel.devices,
    )


def task_for(
    config: Config,
    prepared: Prepared,
    name: str,
    model: PreferenceModel,
    learner: Learner,
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
        model: What is fitted.
        learner: Of `learner_for` for this model.
        train: Comparisons to learn from.
        validation: Comparisons, without ties, that judge every epoch; None trains to the end.
        epochs: How many at most; the schedule ends with the last, so that a refit, too, anneals.

    Returns:
        The task.
    """
    course_of = _shuffles
    if _fits_by_episodes(config, model):
        course_of = _episodes
    if fits_by_em(config, model):
        course_of = _iterations
    course = course_of(config, prepared, model, train, validation)
    parallel = _parallel(config, model)
    return Task(
        name=name,
        learner=_spanning(learner, epochs * course.num_steps),
        epoch_batches=course.epoch_batches,
        to_batch=course.to_batch,
        tables=replicate(course.tables, parallel),
        snapshot=course.snapshot,
        validate=course.validate,
        epochs=epochs,
        patience=config.training.patience,
        checkpoint_every=config.training.checkpoint_every,
        log_every=config.training.log_every,
        parallel=parallel,
    )


def decaying(learner: Learner, weight_decay: float) -> Learner:
    """The same learner whose networks decay by so much; no new program."""

    def init(key: PRNGKeyArray) -> Any:
        state = learner.init(key)
        optimizer = with_weight_decay(state.optimizer, "networks", weight_decay)
        return state._replace(optimizer=optimizer)

    return learner._replace(init=init)


def anchored_to(learner: Learner, anchor: Params) -> Learner:
    """The same learner of an anchored model, whose shared reward has these parameters."""

    def init(key: PRNGKeyArray) -> Any:
        state = learner.init(key)
        return state._replace(params=state.params | {ANCHOR: anchor})

    return learner._replace(init=init)


def fits_by_em(config: Config, model: PreferenceModel) -> bool:
    """Whether users are members of groups; with one group there is nothing to assign."""
    return isinstance(config.learner, EMLearner) and model.num_prototypes > 1


def _fits_by_episodes(config: Config, model: PreferenceModel) -> bool:
    return isinstance(config.learner, EpisodesLearner) and model.num_prototypes > 1


def _spanning(learner: Learner, num_steps: int) -> Learner:
    """The same learner with a schedule of so many steps."""

    def init(key: PRNGKeyArray) -> Any:
        return learner.init(key)._replace(num_steps=jnp.asarray(num_steps, jnp.int32))

    return learner._replace(init=init)


def _shuffles(
    config: Config,
    prepared: Prepared,
    model: PreferenceModel,
    train: Comparisons,
    validation: Comparisons | None,
) -> Course:
    """Batches of shuffled comparisons."""
    rows = training_rows(
        train,
        label_smoothing=config.loss.label_smoothing,
        weight_by_user=config.loss.weight_by_user,
    )
    batch_size = min(config.training.batch_size, len(rows.weight))
    parallel = _parallel(config, model)
    blocks = _blocks(config, prepared, parallel)
    return Course(
        num_steps=steps_per_epoch(len(rows.weight), batch_size),
        epoch_batches=_planner(rows, blocks, parallel, batch_size=batch_size, seed=config.seed),
        to_batch=to_batch,
        tables=prepared.tables,
        snapshot=fitted_by_gradient,
        validate=None
        if validation is None
        else judge_rows(model, prepared.tables, validation, blocks.row[validation.user], parallel),
    )


def _episodes(
    config: Config,
    prepared: Prepared,
    model: PreferenceModel,
    train: Comparisons,
    validation: Comparisons | None,
) -> Course:
    """Batches of users, each with support and query."""
    section = config.learner
    assert isinstance(section, EpisodesLearner)
    parallel = _parallel(config, model)
    num_users = len(np.unique(train.user))
    users_per_batch = min(section.users_per_batch, num_users)

    def planner(rows: Comparisons) -> Callable[..., EpisodePlan]:
        comparisons, weights = weighted_choices(rows)
        query_weights = weights
        if config.loss.weight_by_user:
            scale = one_over_total_weight(comparisons, weights)
            query_weights = (scale * weights).astype(np.float32)
        return partial(
            plan_episodes,
            comparisons,
            weights,
            query_weights,
            users_per_batch=users_per_batch,
            most_comparisons=section.most_comparisons,
            seed=config.seed,
            num_devices=parallel.num_devices,
            of_votes=prepared.dataset.votes is not None and not prepared.dataset.num_levels,
        )

    # Of all that a refit learns from, so that it needs no program of its own.
    largest = _most_rows(config, prepared)
    first = planner(largest)(sizes=Sizes(0, 0, 0), epoch=0)
    num_items = len(np.unique([largest.chosen, largest.rejected]))
    sizes = Sizes(
        items=room(first.items.shape[1], num_items),
        prompts=room(first.prompts.shape[1], len(np.unique(largest.prompt))),
        users=0,
    )
    plan = planner(train)
    return Course(
        num_steps=steps_per_epoch(num_users, users_per_batch),
        epoch_batches=lambda epoch: plan(sizes=sizes, epoch=epoch),
        to_batch=to_episode_batch,
        tables=prepared.tables,
        snapshot=fitted_by_episodes,
        validate=None if validation is None else judge_joined(model, prepared, train, validation),
    )


def _iterations(
    config: Config,
    prepared: Prepared,
    model: PreferenceModel,
    train: Comparisons,
    validation: Comparisons | None,
) -> Course:
    """Iterations of EM, each an E-step and some passes of an M-step."""
    section = config.learner
    assert isinstance(section, EMLearner)
    smoothing = config.loss.label_smoothing
    rows = training_rows(
        train, label_smoothing=smoothing, weight_by_user=config.loss.weight_by_user
    )
    num_users = len(prepared.dataset.users)
    batch_size = min(config.training.batch_size, len(rows.weight))
    plan = partial(
        plan_iteration,
        rows,
        sizes=plan_sizes(rows, batch_size=batch_size, seed=config.seed),
        num_users=num_users,
        batch_size=batch_size,
        passes=section.passes,
        seed=config.seed,
    )
    judge = judge_starts(model, prepared, train, validation)
    return Course(
        num_steps=section.passes * steps_per_epoch(len(rows.weight), batch_size),
        epoch_batches=lambda epoch: plan(epoch=epoch),
        to_batch=to_iteration,
        tables=IterationTables(
            prepared.tables,
            choices_by_user(train, num_users=num_users, label_smoothing=smoothing),
        ),
        snapshot=lambda state: fitted_by_em(state, judge(state)),
        validate=None if validation is None else lambda state: of_best_start(judge(state)),
    )


def optimizer_settings(section: OptimizerSection) -> OptimizerSettings:
    """How parameters move, as the configuration says."""
    return OptimizerSettings(
        learning_rate=section.learning_rate.model_dump(),
        weight_decay=section.weight_decay.model_dump(),
        schedule=section.schedule,
        warmup_fraction=section.warmup_fraction,
        clip_norm=section.clip_norm,
        beta1=section.beta1,
        beta2=section.beta2,
    )


def _parallel(config: Config, model: PreferenceModel) -> Parallel:
    if not fits_by_em(config, model):
        return on_devices(config.parallel.backend, config.parallel.num_devices)
    if (config.parallel.num_devices or 1) > 1:
        raise UserError(
            f"parallel.num_devices: {config.parallel.num_devices} wanted, learner.name 'em' runs "
            "its starts side by side on one device; give 1 or null"
        )
    return on_devices("jit", 1)


def _most_rows(config: Config, prepared: Prepared) -> Comparisons:
    """All comparisons that a fit of this run learns from, a refit included."""
    rows = prepared.split.learned(refit=config.selection.refit)
    return prepared.dataset.comparisons.select(rows)


def _blocks(config: Config, prepared: Prepared, parallel: Parallel) -> Blocks:
    """L blocks of users, which the devices share equally."""
    blocks = config.parallel.blocks or parallel.num_devices
    if blocks % parallel.num_devices:
        fitting = [count for count in range(1, blocks + 1) if blocks % count == 0]
        raise UserError(
            f"parallel.num_devices: {parallel.num_devices} can't share {blocks} blocks of users "
            f"equally; {nearest('', fitting)}"
        )
    users = _most_rows(config, prepared).user
    return deal_users(np.bincount(users, minlength=len(prepared.dataset.users)), blocks)


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


def _first(inputs: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[:1], inputs)
