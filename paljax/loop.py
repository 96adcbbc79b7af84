"""The training loop: it drives any learner, an epoch as one scan, and can be killed at any moment.

An epoch is a pure function of the state and the epoch's number, and the state is all that a
checkpoint holds; a resumed run therefore equals a straight one bit for bit.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool
from numpy.typing import NDArray
from tqdm import tqdm

from paljax.checkpoints import Checkpoints
from paljax.errors import RunError, Stopped
from paljax.learners.learner import Learner, Metrics, State
from paljax.parallel import Backend, Parallel, data_parallel, deal, start


class Progress(NamedTuple):
    """All that a fit needs to go on: what a checkpoint holds."""

    state: State
    best: State  # what `snapshot` took of the state of the best epoch
    epoch: Any  # int32, epochs finished
    best_epoch: Any  # int32, epochs finished when the validation loss was lowest
    best_loss: Any  # float32, the lowest validation loss, in nats


class Task(NamedTuple):
    """What is fitted, on what, for how long."""

    name: str  # of the fit, in metrics and messages
    learner: Learner
    epoch_batches: Callable[[int], Any]  # epoch -> pytree of stacked batches, leading axis S
    to_batch: Callable[[Any, Any], Any]  # (tables, one of these batches) -> what `step` takes
    tables: Any  # arrays that stay on the device
    snapshot: Callable[[State], State]  # the part of the state that is the fitted model
    validate: (
        Callable[[State], Mapping[str, Any]] | None
    )  # -> loss and more; None: train to the end
    epochs: int
    patience: int | None  # epochs without a better validation loss
    checkpoint_every: int  # epochs
    log_every: int | None  # steps; None: once an epoch
    parallel: Parallel  # the devices that share the fit; `tables` are on each of them


class Log(Protocol):
    """Where the records of a run go."""

    def rewind(self, fit: str, epoch: int) -> None:
        """Forget the epochs of a fit after this one."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record."""


def fit(
    task: Task,
    key: Any,
    *,
    checkpoints: Checkpoints,
    log: Log,
    say: Callable[[str], None],
    progress_bar: bool,
    stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train until the epochs are over or the validation loss has stopped falling.

    Args:
        task: What to fit.
        key: Initialises the learner.
        checkpoints: Where the fit's checkpoints are; the newest is continued from.
        log: Takes the records of a finished epoch; epochs that are done again are first forgotten.
        say: Takes what a person should know, in one line.
        progress_bar: Show one.
        stop: Asked after every epoch; true saves and ends the fit. All processes must agree.

    Returns:
        The final progress; `best` is the fitted model.

    Raises:
        RunError: If a loss or gradient stops being finite. The last good checkpoint stays.
        Stopped: If `stop` said so.
    """
    first = _start(task, key)
    restored = checkpoints.restore_newest(first, say=say)
    progress = first if restored is None else restored
    log.rewind(task.name, int(progress.epoch))
    if int(progress.epoch):
        say(f"{task.name}: continues after epoch {int(progress.epoch)}")
    run_epoch, ahead = epoch_program(task), _Ahead(task)
    for epoch in _epochs(task, progress, progress_bar):
        state, metrics = run_epoch(progress.state, ahead.batches(epoch), task.tables)
        ahead.plan(epoch + 1)
        of_steps = _finite(metrics, task.name)
        train_loss = float(of_steps["loss"].mean())
        progress, scores = _judge(task, progress, state, epoch + 1, train_loss)
        for record in _records(task, epoch, of_steps, scores):
            log.append(record)
        stopped = stop()
        if (epoch + 1) % task.checkpoint_every == 0 or _is_over(task, progress) or stopped:
            checkpoints.save(epoch + 1, progress)
        if stopped:
            raise Stopped(
                f"{task.name}: asked to stop, saved after epoch {epoch + 1}; the same command goes "
                "on from there"
            )
        if _is_over(task, progress):
            break
    return progress


def _start(task: Task, key: Any) -> Progress:
    state = start(task.learner, key, task.parallel)
    return Progress(
        state=state,
        best=_copy(task.snapshot(state)),
        epoch=np.zeros((), np.int32),
        best_epoch=np.zeros((), np.int32),
        best_loss=np.full((), np.inf, np.float32),
    )


def epoch_program(task: Task) -> Callable[[State, Any, Any], tuple[State, Metrics]]:
    """The compiled epoch, (state, batches, tables) -> (state, metrics of every step).

    Tasks with one `step` and one shape of batches share a compiled program.
    """
    return _epoch_program(
        cast(Hashable, task.learner.step),
        task.to_batch,
        task.parallel.mesh,
        task.parallel.backend,
        task.learner.of_users,
    )


@lru_cache
def _epoch_program(
    step: Any,  # a `Step`, and a function of (tables, batch); the cache asks for what is hashable
    to_batch: Any,
    mesh: Mesh,
    backend: Backend,
    of_users: tuple[str, ...],
) -> Callable[[State, Any, Any], tuple[State, Metrics]]:
    def scan(state: State, batches: Any, tables: Any) -> tuple[State, Metrics]:
        return jax.lax.scan(
            lambda state, batch: step(state, to_batch(tables, batch)), state, batches
        )

    return data_parallel(scan, mesh, backend, of_users=of_users)


class _Ahead:
    """Plans the next epoch while the devices are busy with this one."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._planned: dict[int, Any] = {}

    def plan(self, epoch: int) -> None:
        """Plan an epoch, if the fit has one more, and forget those before."""
        if epoch < self._task.epochs:
            self._planned = {epoch: deal(self._task.epoch_batches(epoch), self._task.parallel)}

    def batches(self, epoch: int) -> Any:
        """Of an epoch, planned ahead or now."""
        if epoch not in self._planned:
            self.plan(epoch)
        return self._planned[epoch]


def _epochs(task: Task, progress: Progress, show: bool) -> Iterator[int]:
    done = task.epochs if _is_over(task, progress) else int(progress.epoch)
    with tqdm(
        total=task.epochs, initial=done, desc=task.name, unit="epoch", disable=not show, leave=False
    ) as bar:
        for epoch in range(done, task.epochs):
            yield epoch
            bar.update()


def _is_over(task: Task, progress: Progress) -> bool:
    waited = int(progress.epoch) - int(progress.best_epoch)
    out_of_patience = task.patience is not None and waited >= task.patience
    return int(progress.epoch) >= task.epochs or out_of_patience


def _judge(
    task: Task, progress: Progress, state: State, epoch: int, train_loss: float
) -> tuple[Progress, Mapping[str, Any]]:
    """Score the epoch on validation data; without any, the newest epoch is the best."""
    scores = {} if task.validate is None else task.validate(state)
    broken = [f"validation_{key}" for key, score in scores.items() if not np.isfinite(score)]
    if not _sound(state):  # the last update may break it with a finite gradient
        broken.append("parameters")
    if broken:
        raise _not_finite(f"{task.name}: epoch {epoch}", broken)
    loss = float(scores["loss"]) if scores else train_loss
    progress = progress._replace(state=state, epoch=np.asarray(epoch, np.int32))
    if not scores or loss < float(progress.best_loss):
        progress = progress._replace(
            best=_copy(task.snapshot(state)),
            best_epoch=progress.epoch,
            best_loss=np.asarray(loss, np.float32),
        )
    return progress, scores


@jax.jit
def _sound(state: State) -> Bool[Array, ""]:
    """Whether all parameters are finite, and all else is a number; the log of an empty share is."""
    numbers = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    sound = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)]
    sound += [jnp.all(leaf < jnp.inf) for leaf in numbers]  # false of a NaN
    return jnp.all(jnp.asarray(sound))


def _copy(tree: Any) -> Any:
    # The next epoch takes over the memory of the state that this came from.
    return jax.tree.map(jnp.copy, tree)


def _finite(metrics: Metrics, name: str) -> dict[str, NDArray[Any]]:
    """The metrics of an epoch's steps on the host; refuses the first step that is not finite."""
    on_host = {key: np.asarray(values) for key, values in metrics.items()}
    finite = np.stack([np.isfinite(values) for values in on_host.values()])
    if not finite.all():
        first = int(np.argmin(finite.all(axis=0)))
        broken = [key for key, fine in zip(on_host, finite[:, first], strict=True) if not fine]
        raise _not_finite(f"{name}: step {int(on_host['step'][first]) + 1}", broken)
    return on_host


def _not_finite(where: str, what: list[str]) -> RunError:
    return RunError(
        f"{where}: not finite: {', '.join(what)}; the last good checkpoint is kept; "
        "a lower learning rate or a clip_norm may help"
    )


def _records(
    task: Task, epoch: int, of_steps: Mapping[str, NDArray[Any]], scores: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Means over every `log_every` steps; what is left, and validation, is the epoch's last."""
    num_steps = len(of_steps["step"])
    begins = range(0, num_steps, task.log_every or num_steps)
    for begin, end in zip(begins, [*begins[1:], num_steps], strict=True):
        last = end == num_steps
        validation = {f"validation_{key}": float(score) for key, score in scores.items()}
        yield {
            "fit": task.name,
            "step": int(of_steps["step"][end - 1]) + 1,
            "epoch": epoch + 1 if last else epoch + end / num_steps,
            **{
                key: float(values[begin:end].mean())
                for key, values in of_steps.items()
                if key != "step"
            },
            **(validation if last else {}),
        }
