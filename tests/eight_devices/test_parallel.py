"""Fits that devices share: the same steps on any number of them, and no row of a user travels."""

import re
import shutil
from functools import cache

import jax
import numpy as np
import pytest

from paljax.checkpoints import Checkpoints
from paljax.config import parse
from paljax.data.blocks import deal_users
from paljax.data.prepare import prepare
from paljax.errors import UserError
from paljax.loop import epoch_program, fit
from paljax.parallel import deal, on_devices, start
from paljax.reward.fits import build_model
from paljax.reward.tasks import learner_for, task_for
from paljax.runs import MetricsLog

EPOCHS = 2
LEARNERS = {
    "gradient": {"name": "gradient"},
    "episodes": {"name": "episodes", "users_per_batch": 7, "most_comparisons": 4},
}

pytestmark = pytest.mark.usefixtures("quick_compilation")


def small_task(learner="gradient", *, num_users=23, epochs=EPOCHS, **parallel):
    """A real task of the reward stage; 23 users and 53 comparisons a batch divide by nothing."""
    settings = parse(
        {
            "stage": "reward",
            "data": {"name": "synthetic", "num_users": num_users, "comparisons_per_user": 11},
            "model": {
                "name": "pal_a",
                "num_prototypes": 3,
                # Elsewhere the last bias cancels, and Adam moves it by noise.
                "user_point": "latent",
                "latent_width": 5,
                "hidden_layers": 1,
                "shared": {"hidden_layers": 0},
            },
            "learner": LEARNERS[learner],
            "training": {"epochs": epochs, "batch_size": 53, "checkpoint_every": 1},
            "loss": {"weight_by_user": True},
            "parallel": {"blocks": 8} | parallel,
        },
        where="test",
    )
    prepared = prepare(settings, uses_prompts=False)
    model = build_model(settings, 3, prepared.item_encoder, None)
    comparisons = prepared.dataset.comparisons
    train, validation = (
        comparisons.select(prepared.split.rows(part)) for part in ("train", "validation")
    )
    # Users with few and many comparisons, so that blocks differ.
    kept = np.random.default_rng(1).random(len(train.user)) < (1 + train.user % 4) / 4
    learner = learner_for(settings, prepared, model)
    return task_for(
        settings, prepared, "small", model, learner, train.select(kept), validation, epochs=epochs
    )


def one_epoch(task):
    """The state and metrics after one epoch."""
    run = epoch_program(task)
    state = start(task.learner, jax.random.key(0), task.parallel)
    return run(state, deal(task.epoch_batches(0), task.parallel), task.tables)


@cache
def first_epoch(learner, *, num_devices):
    return one_epoch(small_task(learner, num_devices=num_devices))


def fitted(task, folder):
    with Checkpoints(folder) as checkpoints:
        return fit(
            task,
            jax.random.key(0),
            checkpoints=checkpoints,
            log=MetricsLog(folder.with_suffix(".jsonl")),
            say=print,
            progress_bar=False,
        )


def leaves(tree):
    """NumPy arrays by path; keys as their bits."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def assert_close(left, right, tolerance=1e-4):
    left, right = leaves(left), leaves(right)
    assert left.keys() == right.keys()
    for name, values in left.items():
        scale = max(float(np.abs(right[name]).max(initial=0)), 1e-3)
        np.testing.assert_allclose(
            values, right[name], rtol=0, atol=tolerance * scale, err_msg=name
        )


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("num_devices", [2, 8])
def test_devices_take_the_steps_of_one(learner, num_devices):
    """State and metrics: Adam hides a gradient that is N times too large, its moments do not."""
    alone = first_epoch(learner, num_devices=1)
    assert_close(first_epoch(learner, num_devices=num_devices), alone)
    assert float(alone[1]["grad_norm"][0]) > 0


def test_one_device_behind_shard_map_and_pmap_takes_the_same_steps():
    task, alone = small_task(num_devices=1), first_epoch("gradient", num_devices=1)
    for backend in ("shard_map", "pmap"):
        lonely = on_devices("shard_map", 1)._replace(backend=backend)
        assert_close(one_epoch(task._replace(parallel=lonely)), alone)


@pytest.mark.parametrize("learner", LEARNERS)
def test_pmap_and_shard_map_give_the_same_numbers(learner):
    left = leaves(first_epoch(learner, num_devices=8))
    right = leaves(one_epoch(small_task(learner, backend="pmap")))
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)


def collectives(num_users):
    """Kinds and shapes of what devices send each other in one compiled epoch."""
    task = small_task(num_users=num_users)
    state = start(task.learner, jax.random.key(0), task.parallel)
    batches = jax.tree.map(lambda leaf: leaf[:16], task.epoch_batches(0))
    given = (state, deal(batches, task.parallel), task.tables)
    compiled = epoch_program(task).lower(*given).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return sorted(re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", compiled))


def test_no_collective_grows_with_the_number_of_users():
    few, many = collectives(23), collectives(400)
    assert few == many
    assert {kind for _, kind in few} == {"all-reduce"}


def test_a_checkpoint_of_eight_devices_goes_on_with_others(tmp_path):
    straight = fitted(small_task(), tmp_path / "straight")
    begun = small_task()
    fitted(begun._replace(epochs=1), tmp_path / "begun")
    for num_devices in (2, 1, 4):
        folder = tmp_path / f"on {num_devices}"
        shutil.copytree(tmp_path / "begun", folder)
        task = small_task(num_devices=num_devices)
        assert_close(fitted(task, folder), straight, tolerance=1e-3)


def test_blocks_are_balanced_and_hold_every_user_once():
    counts = np.random.default_rng(0).integers(0, 50, 101)
    blocks = deal_users(counts, 8)
    assert len(set(blocks.row.tolist())) == 101
    assert blocks.row.max() < blocks.num_rows
    load = np.bincount(blocks.row // blocks.places, weights=counts, minlength=8)
    assert load.max() - load.min() <= counts.max()
    np.testing.assert_array_equal(deal_users(counts, 1).row, np.arange(101))


@pytest.mark.parametrize(
    ("parallel", "line"),
    [
        ({"num_devices": 9}, "parallel.num_devices: 9 wanted, JAX has 8 .*null for all"),
        ({"backend": "jit", "num_devices": 2}, "'jit' drives one device, 2 .*'shard_map'"),
        ({"num_devices": 3}, "3 can't share 8 blocks of users equally; choose one of '1', '2'"),
    ],
)
def test_devices_that_do_not_fit_are_told_in_one_line(parallel, line):
    with pytest.raises(UserError, match=line):
        small_task(**parallel)
