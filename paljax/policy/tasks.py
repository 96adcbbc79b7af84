"""The fit of a policy as a task of the training loop."""

from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from paljax.config.policy import PolicyConfig
from paljax.errors import UserError
from paljax.learners.fit_policy import (
    PolicyOptimizer,
    PolicyState,
    PromptBatch,
    Rollouts,
    fit_policy,
)
from paljax.learners.group_weights import GROUP_WEIGHTS
from paljax.learners.objectives import Groups, Objective, build_objective
from paljax.learners.optimizers import annealing
from paljax.loop import Task
from paljax.parallel import on_devices
from paljax.policy.grid import on_grid
from paljax.policy.problems import Problem, Take


def policy_task(config: PolicyConfig, problem: Problem) -> Task:
    """The task that fits a policy as the configuration says.

    A step takes all prompts, or draws some by their weights; what epoch e draws follows from the
    seed and e alone.

    Raises:
        UserError: If the objective does not go with the groups.
    """
    training = config.training
    steps = training.epochs * training.steps_per_epoch
    follow = config.group_weights.model_dump(exclude={"name", "smoothing"})
    learner = fit_policy(
        problem.policy,
        problem.rewards,
        problem.groups,
        configured_objective(config, problem.groups),
        num_prompts=problem.num_prompts,
        follow=GROUP_WEIGHTS[config.group_weights.name](**follow),
        smoothing=config.group_weights.smoothing,
        beta=config.beta,
        rollouts=None if config.rollouts is None else Rollouts(
            config.rollouts.samples, config.rollouts.updates, config.rollouts.clip
        ),
        optimizer=_optimizer(config, problem, steps),
    )  # fmt: skip
    if problem.texts is not None and problem.texts.grid is not None:
        learner = on_grid(learner, problem.texts.grid)

    def epoch_batches(epoch: int) -> Any:
        shape = (training.steps_per_epoch, training.prompts_per_batch or problem.num_prompts)
        if training.prompts_per_batch is None:
            rows = np.tile(np.arange(shape[1]), (shape[0], 1))
            weights = np.tile(problem.prompt_weights, (shape[0], 1))
        else:
            generator = np.random.default_rng([config.seed, epoch])
            rows = generator.choice(problem.num_prompts, shape, p=problem.prompt_weights)
            weights = np.full(shape, 1 / shape[1])
        return rows.astype(np.int32), weights.astype(np.float32)

    return Task(
        name=config.objective.name,
        learner=learner,
        epoch_batches=epoch_batches,
        to_batch=partial(_to_batch, problem.take),
        tables=problem.prompts,
        snapshot=_fitted,
        validate=None,
        epochs=training.epochs,
        patience=None,
        checkpoint_every=training.checkpoint_every,
        log_every=training.log_every,
        parallel=on_devices("jit", 1),
    )


def configured_objective(config: PolicyConfig, groups: Groups) -> Objective:
    """The objective of a run.

    Raises:
        UserError: If the objective does not go with the groups.
    """
    options = config.objective.model_dump(exclude={"name"})
    try:
        return build_objective(config.objective.name, groups, options)
    except ValueError as error:
        raise UserError(f"objective: {error}") from None


def _optimizer(config: PolicyConfig, problem: Problem, steps: int) -> PolicyOptimizer:
    section = config.optimizer
    schedule = partial(annealing, section.schedule, section.warmup_fraction, num_steps=steps)
    clip = optax.identity()
    if section.clip_norm is not None:
        clip = optax.clip_by_global_norm(section.clip_norm)
    adam = optax.chain(
        clip,
        optax.scale_by_adam(section.beta1, section.beta2),
        optax.add_decayed_weights(section.weight_decay),
    )
    # The schedule counts steps, and Optax updates, of which a step may have several.
    updates = 1 if config.rollouts is None else config.rollouts.updates
    rate = optax.scale_by_learning_rate(
        lambda count: section.learning_rate * schedule(count // updates)
    )
    shapes = jax.eval_shape(problem.policy.init, jax.random.key(0))
    transformation = optax.masked(optax.chain(adam, rate), problem.policy.trainable(shapes))
    return PolicyOptimizer(transformation, schedule, section.learning_rate)


def _to_batch(take: Take, prompts: Any, batch: tuple[Any, Any]) -> PromptBatch:
    rows, weights = batch
    return PromptBatch(take(prompts, rows), rows, weights)


def _fitted(state: PolicyState) -> Any:
    return {"last": state.params, "average_weights": state.average, "mixture": state.mixture}
