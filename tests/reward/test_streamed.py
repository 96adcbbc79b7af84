"""Runs on a stream: resumed bit for bit, equal to training in memory, wrong data told in a line."""

import json
import re

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from paljax import runs, train
from paljax.checkpoints import Checkpoints
from paljax.config import parse
from paljax.data.batches import Sizes, Tables, list_batches, to_batch
from paljax.data.streaming import Embeddings, StreamBatches
from paljax.errors import Stopped
from paljax.loop import fit
from paljax.reward.fits import configured_model
from paljax.reward.streamed import open_stream, stream_task
from tests.data.streaming.planted import NUM_USERS, columns, write_parquet

pytestmark = pytest.mark.usefixtures("quick_compilation")


def config(folder, **training):
    return {
        "stage": "stream",
        "data": {
            "comparisons": str(folder / "shards"),
            "items": str(folder / "items.npy"),
            "num_users": NUM_USERS,
            "window": 400,
            "held_out": 150,
        },
        "model": {
            "name": "pal_a",
            "num_prototypes": 2,
            "latent_width": 4,
            "hidden_layers": 0,
            "dropout": 0.1,
            "shared": {"hidden_layers": 0},
        },
        "prior_strength": 0.1,
        "optimizer": {"learning_rate": {"networks": 0.03, "user_weights": 0.3}},
        "training": {"steps_per_epoch": 20, "epochs": 6, "batch_size": 64, "checkpoint_every": 1}
        | training,
        "evaluation": {"resamples": 100},
    }


@pytest.fixture
def folder(tmp_path):
    values, items = columns(3000, noise=0.05)
    write_parquet(tmp_path / "shards", values)
    np.save(tmp_path / "items.npy", items)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config(tmp_path)), encoding="utf-8")
    return tmp_path


class Records(list):
    """A log in memory."""

    def rewind(self, fit, epoch):
        self[:] = [record for record in self if record["epoch"] <= epoch]


def fitted(settings, folder, log, *, stop_after=None):
    """Open the stream anew, as a process that starts does, and fit."""
    stream = open_stream(settings)
    model = configured_model(settings.model, 2)
    task = stream_task(settings, stream, "fit", model)
    with Checkpoints(folder) as checkpoints:
        return fit(
            task,
            jax.random.key(0),
            checkpoints=checkpoints,
            log=log,
            say=lambda line: None,
            progress_bar=False,
            stop=lambda: len(log) == stop_after,
        )


def numbers(progress):
    state = progress.state._replace(key=jax.random.key_data(progress.state.key))
    return jax.tree.leaves(state)


def test_a_resumed_stream_ends_as_the_straight_one_bit_for_bit(folder):
    settings = parse(config(folder, epochs=5), where="test")
    straight, cut = Records(), Records()
    whole = fitted(settings, folder / "straight", straight)
    with pytest.raises(Stopped, match="saved after epoch 2"):
        fitted(settings, folder / "cut", cut, stop_after=2)
    resumed = fitted(settings, folder / "cut", cut)
    assert int(resumed.epoch) == 5
    for one, other in zip(numbers(whole), numbers(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert straight == cut


def test_a_stream_trains_as_memory_does(folder):
    """The same rows as a plan with all items on the device end in the same parameters."""
    record = config(folder, epochs=2, steps_per_epoch=6)
    # Dropout draws by the room for items, and rooms differ here. Where prototypes are projected as
    # items are, the last bias changes nothing, and Adam makes steps of its gradient's rounding.
    record["model"] |= {"dropout": 0.0, "user_point": "latent"}
    settings = parse(record, where="test")
    found = fitted(settings, folder / "fit", Records())
    stream = open_stream(settings)
    task = stream_task(settings, stream, "fit", configured_model(settings.model, 2))
    batches = task.epoch_batches
    assert isinstance(batches, StreamBatches)
    tables = Tables(np.load(folder / "items.npy"), None)
    state = task.learner.init(jax.random.key(0))
    step = jax.jit(lambda state, plan: task.learner.step(state, to_batch(tables, plan)))
    for epoch in range(2):
        rows = batches.rows(epoch)
        order = np.arange(len(rows.weight)).reshape(6, 64)
        present, sizes = np.ones(order.shape, bool), Sizes(1, 1, 1)
        plan = list_batches(rows, order, present, sizes=sizes, num_users=NUM_USERS)
        for place in range(6):
            state, _ = step(state, jax.tree.map(lambda field, at=place: field[at], plan))
    for one, other in zip(
        jax.tree.leaves((state.params, state.user_logits)),
        jax.tree.leaves((found.state.params, found.state.user_logits)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_run_finds_what_was_planted_and_refuses_other_rows(folder, capsys):
    command = ["--config", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]
    assert train.main([*command, "training.epochs=12"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    metrics = json.loads((folder / "run" / runs.METRICS).read_text(encoding="utf-8"))
    assert metrics["test"]["accuracy"] > 0.8
    assert metrics["test"]["n"] == 150
    assert metrics["baselines"]["bradley_terry"]["test"]["accuracy"] < 0.65
    assert metrics["gain"]["test"]["interval"][0] > 0.1
    assert metrics["data"]["split"] == {"train": 2700, "validation": 150, "test": 150}
    assert "passes through 2,700 comparisons" in said
    weights = np.load(folder / "run" / runs.WEIGHTS)
    assert weights.shape == (NUM_USERS, 2)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    even, odd = weights[::2].argmax(axis=1), weights[1::2].argmax(axis=1)
    assert np.bincount(even, minlength=2).max() >= 14
    assert np.bincount(odd, minlength=2).max() >= 14
    assert even[0] != odd[0]
    assert "report.html" in said

    (folder / "run" / runs.REPORT).unlink()
    values, _ = columns(3000, noise=0.06)
    write_parquet(folder / "shards", values)
    assert train.main([*command, "training.epochs=12"]) == 2
    assert "what data.comparisons names is not what the run began with" in capsys.readouterr().err
    assert not (folder / "run" / runs.REPORT).exists()
    values, items = columns(3000, noise=0.05)
    write_parquet(folder / "shards", values)
    np.save(folder / "items.npy", -items)
    assert train.main([*command, "training.epochs=12"]) == 2
    assert "what data.items names is not what the run began with" in capsys.readouterr().err
    np.save(folder / "items.npy", items.astype(np.float64))  # read as the same numbers
    assert train.main([*command, "training.epochs=12"]) == 0
    assert (folder / "run" / runs.REPORT).exists()


@pytest.mark.parametrize("count", [1, 5, 5000])
def test_another_first_or_last_row_is_another_digest(count, tmp_path):
    path = tmp_path / "items.npy"
    rows = np.arange(2.0 * count, dtype=np.float32).reshape(count, 2)
    digests = set()
    for place in (None, 0, -1):
        changed = rows.copy()
        if place is not None:
            changed[place] += 1
        np.save(path, changed)
        digests.add(Embeddings(path, key="data.items").digest())
    np.save(path, rows.reshape(-1, 1))
    digests.add(Embeddings(path, key="data.items").digest())
    assert len(digests) == (3 if count == 1 else 4)


def change_shard(**changes):
    def write(folder):
        values, _ = columns(300)
        table = pa.table({
            name: column for name, column in (values | changes).items() if column is not None
        })  # fmt: skip
        pq.write_table(table, folder / "shards" / "00.parquet")

    return write


def with_row(name, value):
    values, _ = columns(300)
    column = values[name].astype(type(value) if isinstance(value, float) else int)
    column[7] = value
    return change_shard(**{name: column})


def change_shards(**changes):
    return lambda folder: write_parquet(folder / "shards", columns(3000, noise=0.05)[0] | changes)


def with_nan(folder):
    items = np.load(folder / "items.npy")
    items[3, 1] = np.nan
    np.save(folder / "items.npy", items)


def remove_shards(folder):
    for path in (folder / "shards").iterdir():
        path.unlink()


BAD = [
    ({}, with_row("user", NUM_USERS), r"00\.parquet, group 0, row 7: user is 30, wanted a row"),
    ({}, with_row("chosen", 50), r"row 7: chosen is 50, wanted a row number from 0 to 49"),
    ({}, with_row("rejected", -1), r"row 7: rejected is -1, wanted a row number from 0 to 49"),
    ({}, with_row("user", 2**40), r"column 'user' holds a number that is no row number"),
    ({}, with_row("user", 0.5), r"column 'user' holds double, wanted row numbers"),
    ({}, change_shard(rejected=columns(300)[0]["chosen"]), r"row 0: chosen and rejected are one"),
    ({}, change_shard(weight=np.full(300, -1.0)), r"row 0: weight is -1\.0, wanted >= 0"),
    ({}, change_shard(user=None, usr=np.zeros(300, int)), r"no column 'user'; did you mean 'usr'"),
    ({}, remove_shards, r"holds no shard; wanted files that end in \.parquet or \.array_record"),
    (
        {},
        lambda folder: (folder / "shards" / "01.parquet").write_bytes(b"PAR1"),
        r"01\.parquet: can't be read",
    ),
    (
        {},
        lambda folder: np.save(folder / "items.npy", np.zeros(3)),
        r"data\.items: .* holds float64 of shape \(3,\), wanted rows of",
    ),
    ({}, with_nan, r"data\.items: '.*items\.npy', row 3: holds a number that is not finite"),
    (
        {},
        change_shards(tie=np.ones(3000, bool)),
        r"data\.comparisons: every row held out for 'validation' is a tie; nothing can be scored",
    ),
    (
        {},
        lambda folder: (folder / "items.npy").write_bytes(b""),
        r"data\.items: '.*items\.npy' can't be read as an \.npy file: EOF: .* got 0",
    ),
    (
        {"data": {"items": "packed.npz"}},
        lambda folder: np.savez("packed.npz", items=np.zeros((50, 6))),
        r"data\.items: 'packed\.npz' can't be read as an \.npy file: the magic string is not",
    ),
    ({}, lambda folder: (folder / "items.npy").unlink(), r"data\.items: .* can't be read"),
    ({"data": {"comparisons": "nowhere"}}, None, r"data\.comparisons: 'nowhere' is no folder"),
    ({"learner": {"name": "em"}}, None, r"unknown key 'learner'"),
    ({"model": {"num_prototypes": "auto"}}, None, r"'auto' fits several models"),
    ({"loss": {"weight_by_user": True}}, None, r"loss\.weight_by_user: true is for data in memory"),
    ({"model": {"name": "pal_b", "num_prototypes": 2}}, None, r"data\.prompts: 'pal_b' needs them"),
]


@pytest.mark.parametrize(("changes", "spoil", "line"), BAD, ids=[line for *_, line in BAD])
def test_what_is_wrong_is_told_in_one_line(folder, capsys, monkeypatch, changes, spoil, line):
    monkeypatch.chdir(folder)
    record = config(folder)
    for key, values in changes.items():
        keep = {} if values.get("name") else record.get(key, {})
        record[key] = keep | values
    (folder / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    if spoil is not None:
        spoil(folder)
    command = ["--config", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]
    assert train.main(command) == 2
    assert not (folder / "run").exists()
    (told,) = capsys.readouterr().err.splitlines()
    assert re.search(line, told), told
