"""A reward run on a stream: comparisons and embeddings larger than memory, users' rows within it.

One device, the gradient learner, as many epochs as are configured: nothing is chosen and nothing
refitted, since a stream is gone through once or a few times. Users' weights are those that training
left; held-out comparisons are a sample taken row by row, so what a user says twice can be in both.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jaxtyping import Array, Float
from numpy.typing import NDArray

from paljax import locking, runs, stopping, storage
from paljax.checkpoints import Checkpoints
from paljax.commands import on_terminal, say
from paljax.config import StreamConfig
from paljax.data.streaming import (
    Embeddings,
    Order,
    Sample,
    StreamBatches,
    Survey,
    hold_out,
    open_shards,
    samples,
    survey,
    to_stream_batch,
)
from paljax.evaluation import accuracy_by_user, accuracy_gain, calibration, score, summary
from paljax.learners.fit_by_gradient import FitState, fit_by_gradient, weights_of
from paljax.learners.losses import LOSSES
from paljax.loop import Task, fit
from paljax.models import PreferenceModel
from paljax.parallel import on_devices
from paljax.predictions import encode, pair, pair_margins
from paljax.report import write_report
from paljax.reward.fits import configured_model
from paljax.reward.judges import fitted_by_gradient, judge_rows
from paljax.reward.predictors import Trained
from paljax.reward.results import count_parameters
from paljax.reward.tasks import optimizer_settings
from paljax.reward.trained_model import save_parameters
from paljax.stopwatch import Pace, Stopwatch, timing

BASELINE = "bradley_terry"
USERS_AT_ONCE = 1_000_000  # whose weights are computed and written


class Stream(NamedTuple):
    """Data of a run."""

    order: Order
    survey: Survey
    items: Embeddings
    prompts: Embeddings | None
    validation: Sample
    test: Sample
    facts: dict[str, Any]  # for metrics.json


def run(config: StreamConfig, run_dir: Path) -> None:
    """Train on a stream; the run directory is made when the data are known to be good.

    Args:
        config: The run's configuration.
        run_dir: The run directory, empty or absent; what a killed run left there is continued.

    Raises:
        UserError: If the data or the configuration are wrong.
        RunError: If a loss stops being finite.
        Stopped: If the run was asked to stop.
    """
    started = time.perf_counter()
    stream = open_stream(config)
    with locking.held(run_dir), stopping.noticed() as asked:
        runs.require_usable(run_dir, config, resume=True)
        inputs = _inputs(stream)
        runs.require_same_inputs(run_dir, inputs)
        runs.open_run(run_dir, config, inputs)
        paces: list[Pace] = []
        states: dict[str, FitState] = {}
        fitted = {BASELINE: configured_model(config.model, None)}
        if config.model.name != BASELINE:
            number = config.model.num_prototypes if config.model.personal else 1
            fitted[config.model.name] = configured_model(config.model, number)
        for name, model in fitted.items():
            task = stream_task(config, stream, name, model)
            watch = Stopwatch(runs.MetricsLog(run_dir / runs.METRICS_LOG))
            with Checkpoints(run_dir / runs.CHECKPOINTS / name) as checkpoints:
                progress = fit(
                    task,
                    jax.random.key(config.seed),
                    checkpoints=checkpoints,
                    log=watch,
                    say=say,
                    progress_bar=on_terminal(),
                    stop=asked,
                )
            states[name] = progress.state
            paces.append(watch.pace(config.training.steps_per_epoch * config.training.batch_size))
        ended = time.perf_counter()
        metrics = _conclude(config, stream, fitted, states, run_dir)
        metrics["timing"] = timing(paces) | {
            "fit_s": ended - started,
            "evaluate_s": time.perf_counter() - ended,
        }
        storage.write_json(run_dir / runs.METRICS, metrics)
        write_report([run_dir], run_dir / runs.REPORT)
    _tell(metrics)


def open_stream(config: StreamConfig) -> Stream:
    """Open shards and embeddings, look at every row once, and read the held-out sample."""
    data, uses_prompts = config.data, config.model.name == "pal_b"
    shards = open_shards(Path(data.comparisons))
    items = Embeddings(Path(data.items), key="data.items")
    prompts = None
    if uses_prompts:
        assert data.prompts is not None
        prompts = Embeddings(Path(data.prompts), key="data.prompts")
    held_out = hold_out(shards, data.held_out)
    surveyed = survey(
        shards,
        held_out,
        num_users=data.num_users,
        num_items=items.count,
        num_prompts=None if prompts is None else prompts.count,
    )
    order = Order(shards, held_out, window=data.window, seed=config.seed)
    validation, test = samples(shards, held_out, items, prompts)
    training = config.training
    rows = training.epochs * training.steps_per_epoch * training.batch_size
    facts = {
        "comparisons": shards.num_rows,
        "users": data.num_users,
        "items": items.count,
        "split": {
            "train": order.num_rows,
            "validation": len(validation.comparisons.user),
            "test": len(test.comparisons.user),
        },
        "passes": rows / order.num_rows,
    }
    return Stream(order, surveyed, items, prompts, validation, test, facts)


def stream_task(config: StreamConfig, stream: Stream, name: str, model: PreferenceModel) -> Task:
    """The task that fits a model to a stream.

    Args:
        config: The run's configuration.
        stream: Its data.
        name: Of the fit.
        model: What is fitted.

    Returns:
        The task. Users' rows lie on one device and are kept once, so that no epoch but the last can
        be the best: there is no patience.
    """
    training, prompts = config.training, stream.prompts
    parallel = on_devices("jit", 1)
    learner = fit_by_gradient(
        model,
        example_items=np.zeros((1, stream.items.width), np.float32),
        example_prompts=None if prompts is None else np.zeros((1, prompts.width), np.float32),
        num_users=config.data.num_users,
        loss=LOSSES[config.loss.name],
        prior_strength=config.prior_strength,
        optimizer=optimizer_settings(config.optimizer)._replace(
            num_steps=training.epochs * training.steps_per_epoch
        ),
    )
    validation = stream.validation
    users = validation.comparisons.user
    return Task(
        name=name,
        learner=learner,
        epoch_batches=StreamBatches(
            stream.order,
            stream.survey,
            stream.items,
            stream.prompts,
            batch_size=training.batch_size,
            steps=training.steps_per_epoch,
            epochs=training.epochs,
            label_smoothing=config.loss.label_smoothing,
        ),
        to_batch=to_stream_batch,
        tables=None,
        snapshot=fitted_by_gradient,
        validate=judge_rows(model, validation.tables, validation.comparisons, users, parallel),
        epochs=training.epochs,
        patience=None,
        checkpoint_every=training.checkpoint_every,
        log_every=training.log_every,
        parallel=parallel,
    )


def _inputs(stream: Stream) -> dict[str, str]:
    """Digests of what a stream is read from, by key of the configuration."""
    found = {
        "data.comparisons": f"{stream.facts['comparisons']} rows, {stream.survey.digest:08x}",
        "data.items": stream.items.digest(),
    }
    if stream.prompts is not None:
        found["data.prompts"] = stream.prompts.digest()
    return found


def _conclude(
    config: StreamConfig,
    stream: Stream,
    fitted: Mapping[str, PreferenceModel],
    states: Mapping[str, FitState],
    run_dir: Path,
) -> dict[str, Any]:
    """Score the test sample, write users' weights, and say what was found."""
    name, test = config.model.name, stream.test
    settings = {"resamples": config.evaluation.resamples, "seed": config.seed}
    users = test.comparisons.user
    margins = {other: _margins(fitted[other], states[other], test) for other in fitted}
    weights = _weights(states[name], users)
    groups = np.array([f"prototype {k + 1}" for k in np.argmax(weights, axis=1)], object)
    scores = {other: score(margins[other], users, groups, **settings) for other in fitted}
    state, model = states[name], fitted[name]
    trained = Trained(model, state.params, jax.nn.softmax(state.population), config.prior_strength)
    save_parameters(run_dir, trained)
    shares, strongest = _write_weights(run_dir, state)
    membership = {"exclusive": False, "users": strongest.tolist()}
    storage.write_json(
        run_dir / runs.ANALYSIS,
        {
            "calibration": {other: calibration(margins[other]) for other in fitted},
            "population": np.asarray(trained.population).tolist(),
            "prototypes": [{"share": float(share)} for share in shares],
            "membership": membership,
        },
    )
    accuracy = accuracy_by_user(margins[name], users, num_users=config.data.num_users)
    storage.write_table(run_dir / runs.USERS, _users_table(stream, users, state, accuracy))
    metrics: dict[str, Any] = {
        "model": name,
        "parameters": count_parameters(trained),
        "test": scores[name],
        "unseen": {},
        "baselines": {BASELINE: {"test": scores[BASELINE], "unseen": {}}},
        "groups": "prototype",
        "data": stream.facts,
    }
    if name != BASELINE:
        gain = accuracy_gain(margins[name], margins[BASELINE], users, **settings)
        metrics["gain"] = {"test": gain, "unseen": {}}
    return metrics


def _margins(model: PreferenceModel, state: FitState, sample: Sample) -> NDArray[np.float32]:
    pairs = pair(encode(model, state.params, sample.tables), sample.comparisons)
    weights = jnp.asarray(_weights(state, sample.comparisons.user))
    return np.asarray(pair_margins(model, state.params, pairs, weights))


def _weights(state: FitState, users: NDArray[np.int32]) -> NDArray[np.float32]:
    """Weights of some users, [n, K]."""
    found: Float[Array, "n K"] = weights_of(
        state.population, jnp.take(state.user_logits, users, axis=0)
    )
    return np.asarray(found)


def _write_weights(run_dir: Path, state: FitState) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Write all users' weights, [U, K], part by part.

    Returns:
        Mean weights, [K], and how many users each prototype is the strongest of, [K].
    """
    num_users, num_prototypes = state.user_logits.shape
    total, strongest = np.zeros(num_prototypes), np.zeros(num_prototypes, np.int64)

    def write(path: Path) -> None:
        weights = np.lib.format.open_memmap(
            path, "w+", dtype=np.float32, shape=(num_users, num_prototypes)
        )
        for start in range(0, num_users, USERS_AT_ONCE):
            stop = min(start + USERS_AT_ONCE, num_users)
            part = _weights(state, np.arange(start, stop, dtype=np.int32))
            weights[start:stop] = part
            total[:] += part.sum(axis=0, dtype=np.float64)
            strongest[:] += np.bincount(np.argmax(part, axis=1), minlength=num_prototypes)
        weights.flush()

    storage.write_file(run_dir / runs.WEIGHTS, write)
    return total / num_users, strongest


def _users_table(
    stream: Stream, users: NDArray[np.int32], state: FitState, accuracy: NDArray[np.float64]
) -> storage.Table:
    """users.parquet: the users of the test sample; weights.npy has all users' weights."""
    sampled = np.unique(users)
    return storage.Table(
        columns={
            "user_id": [str(user) for user in sampled],
            "role": ["seen"] * len(sampled),
            "n_comparisons": stream.survey.comparisons[sampled],
            "weights": _weights(state, sampled).tolist(),
            "accuracy": accuracy[sampled],
        },
        types={
            "user_id": pa.string(),
            "role": pa.string(),
            "n_comparisons": pa.int32(),
            "weights": pa.list_(pa.float32()),
            "accuracy": pa.float32(),
        },
    )


def _tell(metrics: Mapping[str, Any]) -> None:
    facts = metrics["data"]
    say(
        f"{facts['passes']:.2f} passes through {facts['split']['train']:,} comparisons; test "
        "accuracy on a held-out sample, 95 % interval over users:"
    )
    blocks = {metrics["model"]: metrics["test"]} | {
        name: block["test"] for name, block in metrics["baselines"].items()
    }
    for name, block in blocks.items():
        say(summary(name, block))
