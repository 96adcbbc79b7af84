"""The reward stage: fit the baseline and the candidates, choose on validation data, refit, score.

Test and unseen users' comparisons are read only after everything is chosen.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from paljax import models
from paljax.checkpoints import Checkpoints
from paljax.config import Config
from paljax.config.reward import ModelSection
from paljax.data.dataset import Comparisons
from paljax.data.encoders import Encoder
from paljax.data.prepare import Prepared
from paljax.evaluation import correctness
from paljax.learners.learner import Learner
from paljax.loop import Log, fit
from paljax.models import Params, PreferenceModel
from paljax.parallel import one_copy
from paljax.predictions import encode
from paljax.processes import of_first
from paljax.reward.judges import Fitted
from paljax.reward.predictors import Trained, join
from paljax.reward.tasks import anchored_to, decaying, fits_by_em, learner_for, task_for
from paljax.runs import CHECKPOINTS
from paljax.stopwatch import Pace, Stopwatch


class Candidate(NamedTuple):
    """A fit with the prior strength that served validation data best."""

    trained: Trained
    weights: NDArray[np.float32]  # [U, K] of all users of the data set
    gap: NDArray[np.float32]  # [U] Frank-Wolfe gap of those weights, in nats
    epochs: int  # that the fit took
    validation_nll: float
    validation_accuracy: float
    validation_losses: NDArray[np.float64]  # [n] of every validation comparison, in nats
    weight_decay: float  # of the networks


class Fitting(NamedTuple):
    """What all fits of a run share."""

    config: Config
    prepared: Prepared
    run_dir: Path
    say: Callable[[str], None]
    progress_bar: bool
    paces: list[Pace]  # of the fits so far; each adds its own
    log: Log
    stop: Callable[[], bool]  # whether the run is asked to stop; the same in all processes
    learners: dict[PreferenceModel, Learner]  # a refit takes its model's, and no new program
    anchor: Params | None = None  # of the shared reward that an anchored model deviates from
    weight_decay: float | None = None  # of the networks, instead of the configured one


def build_model(
    config: Config,
    num_prototypes: int | None,
    item_encoder: Encoder,
    prompt_encoder: Encoder | None,
) -> PreferenceModel:
    """The configured model, or the shared-reward baseline where `num_prototypes` is None."""

    def learned(model: PreferenceModel) -> PreferenceModel:
        of_prompts = prompt_encoder if model.uses_prompts else None
        return models.with_learned_vectors(
            model,
            items=item_encoder.learned_vectors(),
            prompts=of_prompts.learned_vectors() if of_prompts else None,
        )

    shared = learned(configured_model(config.model, None))
    if num_prototypes is None or not is_anchored(config.model):
        return learned(configured_model(config.model, num_prototypes))
    alone = config.model.model_copy(update={"shared": None})
    return models.anchored(learned(configured_model(alone, num_prototypes)), shared)


def is_anchored(section: ModelSection) -> bool:
    """Whether the model's prototypes are deviations from a shared reward that is fitted first."""
    return bool(getattr(section, "anchored", False) and section.personal)


def configured_model(section: ModelSection, num_prototypes: int | None) -> PreferenceModel:
    """The model of a section on vectors, or its shared-reward baseline for None."""
    values = section.model_dump(exclude={"name", "shared", "personal", "anchored"})
    shared_section = getattr(section, "shared", None)
    shared = None if shared_section is None else shared_section.model_dump(exclude={"name"})
    if section.name == "bradley_terry":
        return models.bradley_terry(**values)
    if num_prototypes is None:
        return models.bradley_terry(**(shared or {}))
    values["num_prototypes"] = num_prototypes
    return models.build(section.name, values, shared=shared, personal=section.personal)


def fit_candidates(
    fitting: Fitting, name: str, model: PreferenceModel, decays: Sequence[float] | None = None
) -> list[Candidate]:
    """Fit on the training part; one candidate for every prior strength, scored on validation.

    Args:
        fitting: Of the run.
        name: Of the fit, and of its checkpoints.
        model: What is fitted.
        decays: Weight decays of the networks, each of which is a fit; None: the configured one.

    Returns:
        All candidates.
    """
    if decays is not None:
        return [
            candidate
            for decay in decays
            for candidate in fit_candidates(
                fitting._replace(weight_decay=decay), f"{name} decay={decay:g}", model
            )
        ]
    train, validation = _rows(fitting, refit=False), _validation(fitting)
    fitted, epochs = _fit(fitting, name, model, train, validation, fitting.config.training.epochs)
    return [
        _with_strength(fitting, model, fitted, strength, train, validation, epochs)
        for strength in _strengths(fitting.config, model, fitted)
    ]


def fit_shared(fitting: Fitting, name: str) -> list[Candidate]:
    """Fit the shared reward, once for every weight decay that it may choose from."""
    config, prepared = fitting.config, fitting.prepared
    model = build_model(config, None, prepared.item_encoder, prepared.prompt_encoder)
    return fit_candidates(fitting, name, model, config.selection.shared_weight_decay)


def best_of(candidates: Iterable[Candidate]) -> Candidate:
    """The candidate with the highest likelihood of the validation part."""
    return min(candidates, key=lambda candidate: candidate.validation_nll)


def prefer_shared(fitting: Fitting, shared: Candidate, personal: Candidate) -> bool:
    """Whether validation data leave it open that a reward of one's own is worth having.

    Personalisation must lower the validation loss by more than two standard errors of the
    difference: where people don't differ, the best epoch of the best of many candidates is a little
    better by chance. Errors are over users; where the split holds out items or topics, so that what
    was learned is asked of new ones, over these, too, and the larger counts. One user alone, or one
    topic, differs from no other.

    Args:
        fitting: Of the run.
        shared: The shared reward.
        personal: The best personalised candidate.

    Returns:
        True where the shared reward is the answer.
    """
    gains = shared.validation_losses - personal.validation_losses
    groupings = _what_differs(fitting)
    if any(len(np.unique(members)) < 2 for members in groupings):
        return True
    error = max(error_of_mean(gains, members) for members in groupings)
    return bool(gains.mean() <= 2 * error)


def _what_differs(fitting: Fitting) -> list[NDArray[Any]]:
    """Members of every validation comparison of which the scored ones will be others."""
    rows = _validation(fitting)
    groupings: list[NDArray[Any]] = [rows.user[:, None]]
    if fitting.config.splits.name == "items":
        groupings.append(np.sort(np.stack([rows.chosen, rows.rejected], axis=1), axis=1))
    if fitting.config.splits.name == "topic":
        dataset = fitting.prepared.dataset
        assert dataset.topic is not None
        of_validation = fitting.prepared.split.rows("validation")
        topic = dataset.topic[of_validation[~dataset.comparisons.tie[of_validation]]]
        groupings.append(np.unique(topic.astype(str), return_inverse=True)[1][:, None])
    return groupings


def error_of_mean(values: NDArray[np.float64], members: NDArray[Any]) -> float:
    """Standard error of the mean of values that depend on each other where they share a member.

    The sum of the products of all deviations, two by two, that share one: with one member a value
    the cluster-robust error, with two (the items of a pair) the dyadic-robust one.

    Args:
        values: [n].
        members: Numbers of each value's members, [n, 1] or [n, 2], the lower first.

    Source:
        Aronow, Samii and Assenova, Cluster-robust variance estimation for dyadic data, 2015.
    """
    deviations = values - values.mean()
    count = int(members.max()) + 1
    sums = sum(np.bincount(column, deviations, count) for column in members.T)
    total = float(np.square(sums).sum())
    if members.shape[1] == 2:
        # Values of one pair share both members and were counted twice.
        pair = np.unique(members, axis=0, return_inverse=True)[1].ravel()
        total -= float(np.square(np.bincount(pair, deviations)).sum())
    return float(np.sqrt(max(total, 0.0)) / len(values))


def refit(fitting: Fitting, name: str, chosen: Candidate) -> Candidate:
    """Train as selected on training and validation data together; the selection stays."""
    fitting = fitting._replace(weight_decay=chosen.weight_decay)
    rows = _rows(fitting, refit=True)
    model, strength = chosen.trained.model, chosen.trained.prior_strength
    fitted, _ = _fit(fitting, name, model, rows, None, chosen.epochs)
    again = _with_strength(fitting, model, fitted, strength, rows, _scored(rows), chosen.epochs)
    return again._replace(
        validation_nll=chosen.validation_nll,
        validation_accuracy=chosen.validation_accuracy,
        validation_losses=chosen.validation_losses,
        weight_decay=chosen.weight_decay,
    )


def _rows(fitting: Fitting, *, refit: bool) -> Comparisons:
    """What a fit learns from."""
    prepared = fitting.prepared
    return prepared.dataset.comparisons.select(prepared.split.learned(refit=refit))


def _validation(fitting: Fitting) -> Comparisons:
    prepared = fitting.prepared
    return _scored(prepared.dataset.comparisons.select(prepared.split.rows("validation")))


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
) -> tuple[Fitted, int]:
    """The fitted model and how many epochs it took.

    The best epoch where the fit may stop early. Else the last: its learning rate has annealed, and
    the best of many noisy validation losses would say little.
    """
    learners, config, prepared = fitting.learners, fitting.config, fitting.prepared
    if model not in learners:
        learners[model] = learner_for(config, prepared, model)
    learner = learners[model]
    if fitting.anchor is not None:
        learner = anchored_to(learner, fitting.anchor)
    if fitting.weight_decay is not None:
        learner = decaying(learner, fitting.weight_decay)
    task = task_for(config, prepared, name, model, learner, train, validation, epochs=epochs)
    with Checkpoints(fitting.run_dir / CHECKPOINTS / name.replace(" ", "_")) as checkpoints:
        watch = Stopwatch(fitting.log)
        progress = fit(
            task,
            jax.random.key(fitting.config.seed),
            checkpoints=checkpoints,
            log=watch,
            say=fitting.say,
            progress_bar=fitting.progress_bar,
            stop=fitting.stop,
        )
    pace = watch.pace(len(train.user))
    fitting.paces.append(pace)
    fitting.say(
        f"{name}: {int(progress.epoch)} epochs, best {int(progress.best_epoch)}, "
        f"{pace.train_s:.1f} s and {pace.compile_s:.1f} s to compile"
    )
    if task.patience is None:
        return one_copy(task.snapshot(progress.state)), int(progress.epoch)
    return one_copy(progress.best), int(progress.best_epoch)


def _with_strength(
    fitting: Fitting,
    model: PreferenceModel,
    snapshot: Fitted,
    strength: float | None,
    train: Comparisons,
    validation: Comparisons,
    epochs: int,
) -> Candidate:
    """Solve every user's weights on the training part for one λ and score the validation part.

    As users who join later are fitted; the weights that a learner trained with only served to train
    networks and prototypes.
    """
    prepared = fitting.prepared
    population = jax.nn.softmax(snapshot.population)
    trained = Trained(model, snapshot.params, population, strength)
    num_users = len(prepared.dataset.users)
    joined = join(trained, prepared.tables, train, num_users, room=prepared.room)
    encoded = encode(model, snapshot.params, prepared.tables)
    margins = trained.margins(encoded, validation, joined.weights).astype(np.float64)
    losses = of_first(np.logaddexp(0, -margins))
    accuracy = of_first(correctness(margins).mean())
    return Candidate(
        trained=trained,
        weights=np.asarray(joined.weights),
        gap=np.asarray(joined.gap),
        epochs=epochs,
        validation_nll=float(losses.mean()),
        validation_accuracy=float(accuracy),
        validation_losses=losses,
        weight_decay=_weight_decay(fitting),
    )


def _weight_decay(fitting: Fitting) -> float:
    if fitting.weight_decay is not None:
        return fitting.weight_decay
    return fitting.config.optimizer.weight_decay.networks


def _strengths(config: Config, model: PreferenceModel, fitted: Fitted) -> Sequence[float | None]:
    """λ to choose from: what the fit has learned, or the configured grid; None for members."""
    if fits_by_em(config, model):
        return [None]
    if model.num_prototypes == 1:
        return [config.prior_strength]
    if fitted.prior_strength is not None:
        return [float(fitted.prior_strength)]
    return config.selection.prior_strength
