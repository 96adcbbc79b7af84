"""The reward stage: fit the baseline and the candidates, choose on validation data, refit, score.

Test and unseen users' comparisons are read only after everything is chosen.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from paljax import models
from paljax.checkpoints import Checkpoints
from paljax.config import Config, OptimizerSection
from paljax.data.batches import (
    Plan,
    Rows,
    plan_epoch,
    plan_sizes,
    steps_per_epoch,
    to_batch,
    training_rows,
)
from paljax.data.dataset import Comparisons
from paljax.data.encoders import Encoder
from paljax.data.prepare import Prepared
from paljax.evaluation import correctness
from paljax.learners.fit_by_gradient import FitState, OptimizerSettings, fit_by_gradient, weights_of
from paljax.learners.losses import LOSSES
from paljax.loop import Progress, Task, fit
from paljax.models import PreferenceModel
from paljax.predictions import encode, pair, pair_margins
from paljax.predictors import Trained, join
from paljax.runs import CHECKPOINTS, METRICS_LOG, MetricsLog


class Snapshot(NamedTuple):
    """The part of a fit's state that is the fitted model."""

    params: models.Params
    population: Any  # [K] logits
    user_logits: Any  # [U, K] relative to the population's


class Candidate(NamedTuple):
    """A fit with the prior strength that served validation data best."""

    trained: Trained
    weights: NDArray[np.float32]  # [U, K] of all users of the data set
    gap: NDArray[np.float32]  # [U] Frank-Wolfe gap of those weights, in nats
    epochs: int  # of the best epoch
    validation_nll: float
    validation_accuracy: float


class Fitting(NamedTuple):
    """What all fits of a run share."""

    config: Config
    prepared: Prepared
    run_dir: Path
    say: Callable[[str], None]
    progress_bar: bool


def build_model(
    config: Config,
    num_prototypes: int | None,
    item_encoder: Encoder,
    prompt_encoder: Encoder | None,
) -> PreferenceModel:
    """The configured model, or the shared-reward baseline where `num_prototypes` is None."""
    section = config.model.model_dump(exclude={"name", "shared", "personal"})
    shared_section = getattr(config.model, "shared", None)
    shared = None if shared_section is None else shared_section.model_dump(exclude={"name"})
    if config.model.name == "bradley_terry":
        model = models.bradley_terry(**section)
    elif num_prototypes is None:
        model = models.bradley_terry(**(shared or {}))
    else:
        section["num_prototypes"] = num_prototypes
        personal = config.model.personal
        model = models.build(config.model.name, section, shared=shared, personal=personal)
    return models.with_learned_vectors(
        model,
        items=item_encoder.learned_vectors(),
        prompts=prompt_encoder.learned_vectors() if prompt_encoder and model.uses_prompts else None,
    )


def fit_candidates(fitting: Fitting, name: str, model: PreferenceModel) -> list[Candidate]:
    """Fit on the training part; one candidate for every prior strength, scored on validation."""
    train, validation = _part(fitting, "train"), _scored(_part(fitting, "validation"))
    progress = _fit(fitting, name, model, train, validation, fitting.config.training.epochs)
    epochs = int(progress.best_epoch)
    return [
        _with_strength(fitting, model, progress.best, strength, train, validation, epochs)
        for strength in _strengths(fitting.config, model)
    ]


def best_of(candidates: Iterable[Candidate]) -> Candidate:
    """The candidate with the highest likelihood of the validation part."""
    return min(candidates, key=lambda candidate: candidate.validation_nll)


def refit(fitting: Fitting, name: str, chosen: Candidate) -> Candidate:
    """Train as selected on training and validation data together; the selection stays."""
    rows = _part(fitting, "train", "validation")
    model, strength = chosen.trained.model, chosen.trained.prior_strength
    progress = _fit(fitting, name, model, rows, None, chosen.epochs)
    again = _with_strength(
        fitting, model, progress.best, strength, rows, _scored(rows), chosen.epochs
    )
    return again._replace(
        validation_nll=chosen.validation_nll, validation_accuracy=chosen.validation_accuracy
    )


def _part(fitting: Fitting, *parts: str) -> Comparisons:
    prepared = fitting.prepared
    return prepared.dataset.comparisons.select(prepared.split.rows(*parts))


def _scored(comparisons: Comparisons) -> Comparisons:
    """Without ties: they have no preferred side."""
    return comparisons.select(~comparisons.tie)


def _fit(
    fitting: Fitting,
    name: str,
    model: PreferenceModel,
    train: Comparisons,
    validation: Comparisons | None,
    epochs: int,
) -> Progress:
    config, prepared = fitting.config, fitting.prepared
    rows = training_rows(
        train,
        label_smoothing=config.loss.label_smoothing,
        weight_by_user=config.loss.weight_by_user,
    )
    batch_size = min(config.training.batch_size, len(rows.weight))
    task = Task(
        name=name,
        learner=fit_by_gradient(
            model,
            example_items=_first(prepared.tables.items),
            example_prompts=_first(prepared.tables.prompts),
            num_users=len(prepared.dataset.users),
            loss=LOSSES[config.loss.name],
            prior_strength=config.prior_strength,
            optimizer=_optimizer(
                config.optimizer,
                config.training.epochs * steps_per_epoch(len(rows.weight), batch_size),
            ),
        ),
        epoch_batches=_epoch_batches(rows, len(prepared.dataset.users), batch_size, config.seed),
        to_batch=to_batch,
        tables=prepared.tables,
        snapshot=_snapshot,
        validate=None if validation is None else _validation(model, prepared, validation),
        epochs=epochs,
        patience=config.training.patience,
        checkpoint_every=config.training.checkpoint_every,
    )
    log = MetricsLog(fitting.run_dir / METRICS_LOG)
    with Checkpoints(fitting.run_dir / CHECKPOINTS / name.replace(" ", "_")) as checkpoints:
        newest = checkpoints.latest() or 0
        log.rewind(name, newest)
        if newest:
            fitting.say(f"{name}: continues after epoch {newest}")
        started = time.perf_counter()
        progress = fit(
            task,
            jax.random.key(config.seed),
            checkpoints=checkpoints,
            log=lambda record: log.append([record]),
            progress_bar=fitting.progress_bar,
        )
    fitting.say(
        f"{name}: {int(progress.epoch)} epochs, best {int(progress.best_epoch)}, "
        f"{time.perf_counter() - started:.1f} s"
    )
    return progress


def _with_strength(
    fitting: Fitting,
    model: PreferenceModel,
    snapshot: Snapshot,
    strength: float,
    train: Comparisons,
    validation: Comparisons,
    epochs: int,
) -> Candidate:
    """Solve every user's weights on the training part for one λ and score the validation part."""
    prepared = fitting.prepared
    population = jax.nn.softmax(snapshot.population)
    trained = Trained(model, snapshot.params, population, strength)
    joined = join(trained, prepared.tables, train, len(prepared.dataset.users))
    pairs = pair(encode(model, snapshot.params, prepared.tables), validation)
    rows = jnp.take(joined.weights, jnp.asarray(validation.user), axis=0)
    margins = np.asarray(pair_margins(model, snapshot.params, pairs, rows), np.float64)
    return Candidate(
        trained=trained,
        weights=np.asarray(joined.weights),
        gap=np.asarray(joined.gap),
        epochs=epochs,
        validation_nll=float(np.logaddexp(0, -margins).mean()),
        validation_accuracy=float(correctness(margins).mean()),
    )


def _strengths(config: Config, model: PreferenceModel) -> list[float]:
    return config.selection.prior_strength if model.num_prototypes > 1 else [config.prior_strength]


def _validation(
    model: PreferenceModel, prepared: Prepared, validation: Comparisons
) -> Callable[[FitState], Mapping[str, Any]]:
    pairs_of = partial(pair, comparisons=validation)
    users = jnp.asarray(validation.user)

    @jax.jit
    def scores(state: FitState, tables: Any) -> dict[str, Any]:
        pairs = pairs_of(encode(model, state.params, tables))
        weights = weights_of(state.population, jnp.take(state.user_logits, users, axis=0))
        margins = pair_margins(model, state.params, pairs, weights)
        return {
            "loss": jnp.mean(jax.nn.softplus(-margins)),
            "accuracy": jnp.mean(0.5 * (1 + jnp.sign(margins))),
        }

    return lambda state: scores(state, prepared.tables)


def _epoch_batches(rows: Rows, num_users: int, batch_size: int, seed: int) -> Callable[[int], Plan]:
    sizes = plan_sizes(rows, batch_size=batch_size, seed=seed)
    return lambda epoch: plan_epoch(
        rows, sizes=sizes, num_users=num_users, batch_size=batch_size, seed=seed, epoch=epoch
    )


def _optimizer(section: OptimizerSection, num_steps: int) -> OptimizerSettings:
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


def _snapshot(state: FitState) -> Snapshot:
    return Snapshot(state.params, state.population, state.user_logits)


def _first(inputs: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[:1], inputs)
