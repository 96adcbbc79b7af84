"""The loop on a learner of one number: when it stops, what it keeps, and how it goes on."""

import json
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax.checkpoints import Checkpoints
from paljax.errors import RunError
from paljax.learners.learner import Learner
from paljax.loop import Task, fit
from paljax.parallel import on_devices
from paljax.runs import MetricsLog

STEPS = 3  # an epoch


class State(NamedTuple):
    params: Any
    step: Any


def step(state, target):
    """Go halfway to the target; the loss is the distance, squared."""
    distance = target - state.params
    metrics = {"step": state.step, "loss": distance**2, "grad_norm": jnp.abs(distance)}
    return State(state.params + 0.5 * distance, state.step + 1), metrics


LEARNER = Learner(
    init=lambda key: State(jax.random.uniform(key) + 10, jnp.zeros((), jnp.int32)), step=step
)


def task(**changes):
    """Targets fall by one an epoch, so that x does too; validation wants x near 7."""
    settings = {
        "name": "toy",
        "learner": LEARNER,
        "epoch_batches": lambda epoch: jnp.full(STEPS, 10.0 - epoch),
        "to_batch": lambda tables, batch: tables + batch,
        "tables": jnp.zeros(()),
        "snapshot": lambda state: state.params,
        "validate": lambda state: {"loss": jnp.abs(state.params - 7.0)},
        "epochs": 12,
        "patience": 3,
        "checkpoint_every": 2,
        "log_every": None,
        "parallel": on_devices("jit", 1),
    }
    return Task(**settings | changes)


def fitted(folder, made, said=None):
    """Fit in a folder; returns the progress, the records and what was said."""
    said = [] if said is None else said
    log = MetricsLog(folder / "metrics.jsonl")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        progress = fit(
            made,
            jax.random.key(0),
            checkpoints=checkpoints,
            log=log,
            say=said.append,
            progress_bar=False,
        )
    return progress, logged(folder), said


def logged(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def newest(folder):
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.latest()


def truncate(folder, number):
    """Halve every file of a checkpoint."""
    files = [path for path in (folder / "checkpoints" / str(number)).rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_stops_when_patience_is_over_and_keeps_the_best_epoch(tmp_path):
    progress, records, _ = fitted(tmp_path, task())
    losses = [record["validation_loss"] for record in records]
    best = int(np.argmin(losses)) + 1
    assert best == int(progress.best_epoch)
    assert 1 < best < 12
    assert len(records) == int(progress.epoch) == best + 3
    assert float(progress.best_loss) == losses[best - 1]
    # The snapshot is of that epoch and not of the last state, whose memory was used again.
    assert abs(float(progress.best) - 7.0) == losses[best - 1]
    assert abs(float(progress.state.params) - 7.0) == losses[-1] > losses[best - 1]


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_patience_is_in_epochs(patience, tmp_path):
    progress, _, _ = fitted(tmp_path, task(patience=patience))
    assert int(progress.epoch) - int(progress.best_epoch) == patience


@pytest.mark.parametrize("changes", [{"validate": None}, {"patience": None}])
def test_without_validation_or_patience_it_trains_to_the_end(changes, tmp_path):
    progress, records, _ = fitted(tmp_path, task(**changes))
    assert [record["epoch"] for record in records] == list(range(1, 13))
    if "validate" in changes:
        assert int(progress.best_epoch) == 12
        assert_equal(progress.best, progress.state.params)
    else:
        assert int(progress.best_epoch) < 12


def test_every_epoch_is_planned_once_ahead_of_the_records_of_the_one_before(tmp_path):
    happened = []

    def plan(epoch):
        happened.append(f"plan {epoch}")
        return jnp.full(STEPS, 10.0 - epoch)

    class Log(MetricsLog):
        def append(self, record):
            happened.append(f"record {record['epoch'] - 1}")

    with Checkpoints(tmp_path) as checkpoints:
        made = task(epoch_batches=plan, epochs=3, patience=None)
        log = Log(tmp_path / "metrics.jsonl")
        key = jax.random.key(0)
        fit(made, key, checkpoints=checkpoints, log=log, say=print, progress_bar=False)
    order = ["plan 0", "plan 1", "record 0", "plan 2", "record 1", "record 2"]
    assert happened == order


def test_metrics_are_means_over_the_steps_of_an_epoch(tmp_path):
    _, records, _ = fitted(tmp_path, task())
    state, losses = LEARNER.init(jax.random.key(0)), []
    for _ in range(STEPS):
        state, metrics = step(state, 10.0)
        losses.append(float(metrics["loss"]))
    assert records[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert records[0]["step"] == STEPS
    assert records[-1]["step"] == STEPS * len(records)


def test_an_epoch_can_be_logged_in_parts(tmp_path):
    """Two of three steps and the last; what an epoch is judged by stays the mean of all three."""
    (tmp_path / "whole").mkdir()
    whole, epochs, _ = fitted(tmp_path / "whole", task(validate=None))
    parts, records, _ = fitted(tmp_path, task(validate=None, log_every=2))
    assert_equal(parts, whole)
    assert [record["step"] for record in records[:4]] == [2, 3, 5, 6]
    assert [record["epoch"] for record in records[:4]] == pytest.approx([2 / 3, 1, 5 / 3, 2])
    pairs = zip(records[::2], records[1::2], strict=True)
    means = [(2 * two["loss"] + one["loss"]) / 3 for two, one in pairs]
    assert means == pytest.approx([record["loss"] for record in epochs], rel=1e-6)
    (tmp_path / "judged").mkdir()
    _, records, _ = fitted(tmp_path / "judged", task(log_every=2))
    validated = ["validation_loss" in record for record in records]
    assert validated == [False, True] * (len(records) // 2) != []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(bad, tmp_path):
    def batches(epoch):
        return jnp.full(STEPS, 10.0 - epoch).at[1].add(bad if epoch == 5 else 0.0)

    with pytest.raises(RunError) as caught:
        fitted(tmp_path, task(epoch_batches=batches, validate=None))
    # The second step of the sixth epoch, by the number that the log would give it.
    assert re.search(r"toy: step 17: not finite: grad_norm, loss", str(caught.value))
    assert newest(tmp_path) == 4
    assert [record["epoch"] for record in logged(tmp_path)] == [1, 2, 3, 4, 5]
    # Mended, it goes on from there.
    progress, _, said = fitted(tmp_path, task(validate=None))
    assert said == ["toy: continues after epoch 4"]
    (tmp_path / "other").mkdir()
    straight, _, _ = fitted(tmp_path / "other", task(validate=None))
    assert_equal(progress, straight)


def test_parameters_that_the_last_update_broke_are_never_kept(tmp_path):
    def overflow(state, target):
        moved, metrics = step(state, target)
        broken = jnp.where(moved.step == 5 * STEPS, jnp.inf, 1.0)
        return moved._replace(params=moved.params * broken), metrics

    learner = LEARNER._replace(step=overflow)
    with pytest.raises(RunError, match="toy: epoch 5: not finite: parameters; the last good"):
        fitted(tmp_path, task(learner=learner, validate=None))
    assert newest(tmp_path) == 4


def test_a_validation_loss_that_is_not_finite_ends_the_run(tmp_path):
    def validate(state):
        return {"loss": jnp.where(state.step > 4 * STEPS, jnp.nan, 1.0)}

    with pytest.raises(RunError, match="toy: epoch 5: not finite: validation_loss"):
        fitted(tmp_path, task(validate=validate, patience=None))
    assert newest(tmp_path) == 4


def test_it_goes_on_from_the_newest_checkpoint_and_forgets_later_epochs(tmp_path):
    straight, records, _ = fitted(tmp_path, task())
    other = tmp_path / "other"
    other.mkdir()
    fitted(other, task(epochs=4))
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    # Killed in the sixth epoch, while it wrote the record; another fit's records stay.
    foreign = json.dumps({"fit": "another", "epoch": 9}) + "\n"
    (other / "metrics.jsonl").write_text(foreign + "".join(lines[:5]) + lines[5][:17])
    progress, again, said = fitted(other, task())
    assert said == ["toy: continues after epoch 4"]
    assert_equal(progress, straight)
    assert again == [json.loads(foreign), *records]


def test_a_finished_fit_is_only_read(tmp_path):
    first, records, _ = fitted(tmp_path, task())
    second, again, _ = fitted(tmp_path, task())
    assert_equal(first, second)
    assert again == records


def test_a_damaged_checkpoint_is_told_and_the_one_before_goes_on(tmp_path):
    straight, records, _ = fitted(tmp_path, task())
    truncate(tmp_path, newest(tmp_path))
    progress, again, said = fitted(tmp_path, task())
    assert_equal(progress, straight)
    assert again == records
    damaged, goes_on = said
    assert "can't be read" in damaged
    assert "\n" not in damaged
    assert re.fullmatch(r"toy: continues after epoch \d+", goes_on)
    # What was done again has taken the damaged one's place.
    assert fitted(tmp_path, task())[2] == [f"toy: continues after epoch {len(records)}"]


def test_where_all_checkpoints_are_damaged_it_starts_anew(tmp_path):
    straight, records, _ = fitted(tmp_path, task())
    for folder in (tmp_path / "checkpoints").iterdir():
        truncate(tmp_path, folder.name)
    progress, again, said = fitted(tmp_path, task())
    assert_equal(progress, straight)
    assert again == records
    assert len(said) == 2
