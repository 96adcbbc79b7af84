"""Streams: every row once a pass, the same rows at a position however it is reached."""

import tracemalloc

import numpy as np
import pytest

from paljax.data.batches import Tables, to_batch
from paljax.data.dataset import Comparisons
from paljax.data.streaming import (
    Embeddings,
    Order,
    StreamBatches,
    hold_out,
    open_shards,
    samples,
    survey,
    to_stream_batch,
)
from paljax.errors import UserError
from tests.data.streaming.planted import (
    NUM_ITEMS,
    NUM_USERS,
    columns,
    write_array_record,
    write_parquet,
)

NUM_ROWS = 1013  # no multiple of anything


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Shards whose `chosen` is the number of the row."""
    folder = tmp_path_factory.mktemp("numbered")
    values = columns(NUM_ROWS)[0] | {"chosen": np.arange(NUM_ROWS)}
    write_parquet(folder, values, group=47)
    return open_shards(folder)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Shards, their rows, the file of embeddings and its rows."""
    folder = tmp_path_factory.mktemp("planted")
    values, items = columns()
    write_parquet(folder / "shards", values)
    np.save(folder / "items.npy", items)
    return open_shards(folder / "shards"), values, folder / "items.npy", items


def batches_of(shards, path, *, epochs=4, **changes):
    held_out = hold_out(shards, 40)
    known = survey(shards, held_out, num_users=NUM_USERS, num_items=NUM_ITEMS, num_prompts=None)
    settings = {"batch_size": 32, "steps": 5, "epochs": epochs, "label_smoothing": 0.1} | changes
    order = Order(shards, held_out, window=300, seed=3)
    return StreamBatches(order, known, Embeddings(path, key="items"), None, **settings), order


def test_every_training_row_comes_once_a_pass_in_another_order_each(numbered):
    held_out = hold_out(numbered, 50)
    order = Order(numbered, held_out, window=200, seed=1)
    n = order.num_rows
    first, second = (order.rows(start, start + n).chosen for start in (0, n))
    starts = np.cumsum(numbered.sizes) - numbered.sizes
    kept_back = np.concatenate([
        starts[group] + held_out.of(group) for group in range(len(starts))
    ])  # fmt: skip
    assert len(np.unique(kept_back)) == len(kept_back) == 100
    wanted = np.setdiff1d(np.arange(NUM_ROWS), kept_back)
    for found in (first, second):
        np.testing.assert_array_equal(np.sort(found), wanted)
    assert (first != second).mean() > 0.9
    assert set(first[:200] // 47) != set(second[:200] // 47)
    # A window mixes groups from all over the data, and not a run of neighbours.
    assert len(np.unique(first[:200] // 47)) >= 4
    assert np.abs(np.diff(first)).mean() > 50


def test_a_position_holds_its_row_however_it_is_reached(numbered):
    def order(**changes):
        settings = {"window": 200, "seed": 1} | changes
        return Order(numbered, hold_out(numbered, 50), **settings)

    straight = order().rows(0, 2100).chosen
    cut = order()
    parts = [cut.rows(start, min(start + 130, 2100)).chosen for start in range(0, 2100, 130)]
    np.testing.assert_array_equal(np.concatenate(parts), straight)
    np.testing.assert_array_equal(order().rows(1777, 1800).chosen, straight[1777:1800])
    assert (order(seed=2).rows(0, 500).chosen != straight[:500]).mean() > 0.9


def test_the_window_is_all_that_is_held(numbered):
    """No more rows are read than those of the windows that are asked for."""
    read = []
    watched = numbered._replace(
        readers=tuple(
            lambda number=number, reader=reader: read.append(number) or reader()
            for number, reader in enumerate(numbered.readers)
        )
    )
    order = Order(watched, hold_out(watched, 50), window=100, seed=1)
    order.rows(500, 520)
    assert 1 <= len(read) <= 6
    assert len(set(read)) == len(read)


def test_parquet_and_array_record_hold_the_same_rows(tmp_path):
    values, _ = columns(500)
    values |= {"tie": values["user"] % 7 == 0, "weight": np.linspace(0.5, 2, 500)}
    write_parquet(tmp_path / "parquet", values, group=60)
    write_array_record(tmp_path / "records", values, group=60)
    left, right = (open_shards(tmp_path / name) for name in ("parquet", "records"))
    np.testing.assert_array_equal(left.sizes, right.sizes)
    assert left.num_rows == 500
    for group in range(len(left.sizes)):
        for name, one, other in zip(
            Comparisons._fields, left.read(group), right.read(group), strict=True
        ):
            np.testing.assert_array_equal(one, other, err_msg=name)
    together = np.concatenate([left.read(group).weight for group in range(len(left.sizes))])
    np.testing.assert_allclose(together, values["weight"], rtol=1e-6)


def test_a_memory_map_is_read_only_where_it_is_needed(tmp_path):
    """A file of 4 GB, all hole but two rows."""
    path, shape = tmp_path / "items.npy", (2**22, 256)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        start = file.tell()
        file.truncate(start + 4 * shape[0] * shape[1])
        for row, value in ((5, 5), (shape[0] - 1, 9)):
            file.seek(start + 4 * row * shape[1])
            file.write(np.full(shape[1], value, np.float32).tobytes())
    items = Embeddings(path, key="items")
    tracemalloc.start()
    found = items.read(np.array([[shape[0] - 1, 5], [0, 5]], np.int32))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert found.shape == (2, 2, 256)
    np.testing.assert_array_equal(found[..., 7], [[9, 5], [0, 5]])
    assert path.stat().st_blocks * 512 < 2**20
    assert (items.count, items.width) == shape


def test_batches_bring_each_distinct_item_once_and_equal_those_from_memory(planted):
    shards, _, path, items = planted
    stream, order = batches_of(shards, path)
    found = stream(0)
    rows = order.rows(0, 160)
    for step in range(5):
        part = type(found)(
            type(found.plan)(*(f[step] for f in found.plan)), found.items[step], None
        )
        batch, here = to_stream_batch(None, part), slice(32 * step, 32 * step + 32)
        np.testing.assert_array_equal(batch.items[batch.chosen], items[rows.chosen[here]])
        np.testing.assert_array_equal(batch.items[batch.rejected], items[rows.rejected[here]])
        np.testing.assert_array_equal(batch.users[batch.user], rows.user[here])
        distinct = np.unique([rows.chosen[here], rows.rejected[here]])
        np.testing.assert_array_equal(part.plan.items[: len(distinct)], distinct)
        np.testing.assert_allclose(batch.target, 0.9)
        in_memory = to_batch(Tables(items, None), part.plan)
        np.testing.assert_array_equal(in_memory.items, batch.items)


def test_batches_of_a_resumed_stream_are_those_of_a_straight_one(planted):
    shards, _, path, _ = planted
    straight, _ = batches_of(shards, path)
    wanted = [straight(epoch) for epoch in range(4)]
    resumed, _ = batches_of(shards, path)
    for epoch in (2, 3, 1):  # on, and back
        found = resumed(epoch)
        np.testing.assert_array_equal(found.items, wanted[epoch].items)
        for one, other in zip(found.plan, wanted[epoch].plan, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_pass_carries_every_users_prior_once(planted):
    _, values, path, _ = planted
    weights = np.random.default_rng(1).random(len(values["user"]))
    write_parquet(path.parent / "weighted", values | {"weight": weights})
    weighted = open_shards(path.parent / "weighted")
    stream, order = batches_of(weighted, path, steps=1, batch_size=1420, epochs=1)
    assert order.num_rows == 1420
    plan = stream(0).plan
    np.testing.assert_allclose(plan.weight.mean(), 1, rtol=1e-5)
    users = plan.users[0][plan.user[0]]
    shares = np.bincount(users, weights=plan.prior_share[0])
    np.testing.assert_allclose(shares, shares[0], rtol=1e-5)
    trained = order.rows(0, 1420)
    np.testing.assert_allclose(shares[0], 1 / trained.weight.mean(), rtol=1e-5)


def test_ties_are_trained_on_as_ties_and_never_scored(planted):
    """A tie is no choice, smoothed or not: half a choice each way."""
    _, values, path, _ = planted
    write_parquet(path.parent / "tied", values | {"tie": values["user"] % 3 == 0})
    tied = open_shards(path.parent / "tied")
    stream, order = batches_of(tied, path)
    found, users = stream(0).plan, order.rows(0, 160).user.reshape(5, 32)
    assert 20 < (users % 3 == 0).sum() < 100
    np.testing.assert_allclose(found.target, np.where(users % 3 == 0, 0.5, 0.9))
    for part in samples(tied, hold_out(tied, 40), Embeddings(path, key="items"), None):
        assert 10 < len(part.comparisons.user) < 40
        assert (part.comparisons.user % 3 != 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_row_that_is_not_finite_is_named_when_it_is_read(tmp_path, dtype, value):
    rows = np.ones((9, 4), dtype)
    rows[5, 2] = value
    np.save(tmp_path / "items.npy", rows)
    items = Embeddings(tmp_path / "items.npy", key="data.items")
    assert items.read(np.array([[3, 4], [6, 0]], np.int32)).shape == (2, 2, 4)
    with pytest.raises(UserError, match=r"^data\.items: '.*items\.npy', row 5: holds a number tha"):
        items.read(np.array([[3, 4], [5, 0]], np.int32))


def test_a_number_beyond_float32_is_told_too(tmp_path):
    np.save(tmp_path / "items.npy", np.array([[1.0], [1e300]]))
    with pytest.raises(UserError, match="row 1: holds a number that is not finite as float32"):
        Embeddings(tmp_path / "items.npy", key="data.items").read(np.arange(2, dtype=np.int32))


def test_what_is_wrong_with_a_row_is_told_by_the_thread_that_loads_ahead(planted, tmp_path):
    shards, _, _, items = planted
    np.save(tmp_path / "items.npy", np.where(np.arange(len(items))[:, None] == 7, np.nan, items))
    stream, _ = batches_of(shards, tmp_path / "items.npy")
    with pytest.raises(UserError, match=r"^items: '.*items\.npy', row 7: holds a number that is n"):
        stream(0)


def test_held_out_samples_are_disjoint_and_never_trained_on(planted):
    shards, _, path, items = planted
    held_out = hold_out(shards, 40)
    validation, test = samples(shards, held_out, Embeddings(path, key="items"), None)
    assert len(validation.comparisons.user) == len(test.comparisons.user) == 40
    for group in range(len(shards.sizes)):
        both = held_out.of(group)
        assert len(np.unique(both)) == len(both)
    chosen = np.asarray(test.tables.items)[test.comparisons.chosen]
    rows = [shards.read(group).select(where) for group, where in held_out.test.items()]
    wanted = items[np.concatenate([part.chosen for part in rows])]
    np.testing.assert_array_equal(chosen, wanted)
    # All over the data, so that most users who are scored are users who are trained on.
    assert len(np.unique(test.comparisons.user)) > 20
