"""Shards of planted comparisons: users of two kinds, who want opposite things of an item."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python import array_record_module

NUM_USERS, NUM_ITEMS, WIDTH = 30, 50, 6


def columns(num_rows=1500, seed=0, noise=0.0):
    """Rows sorted by user, as logs often are, and the items."""
    generator = np.random.default_rng(seed)
    items = generator.normal(size=(NUM_ITEMS, WIDTH)).astype(np.float32)
    user = np.sort(generator.integers(0, NUM_USERS, num_rows))
    left = generator.integers(0, NUM_ITEMS, num_rows)
    right = (left + generator.integers(1, NUM_ITEMS, num_rows)) % NUM_ITEMS
    taste = np.where(user % 2 == 0, 1, -1)
    turned = generator.random(num_rows) < noise
    swap = (taste * (items[left, 0] - items[right, 0]) < 0) ^ turned
    chosen, rejected = np.where(swap, right, left), np.where(swap, left, right)
    return {"user": user, "chosen": chosen, "rejected": rejected}, items


def write_parquet(folder, values, *, files=3, group=100):
    folder.mkdir(exist_ok=True)
    for part, rows in enumerate(np.array_split(np.arange(len(values["user"])), files)):
        table = pa.table({name: column[rows] for name, column in values.items()})
        pq.write_table(table, folder / f"{part:02}.parquet", row_group_size=group)


def write_array_record(folder, values, *, files=3, group=100):
    folder.mkdir(exist_ok=True)
    for part, rows in enumerate(np.array_split(np.arange(len(values["user"])), files)):
        writer = array_record_module.ArrayRecordWriter(
            str(folder / f"{part:02}.array_record"), "group_size:1"
        )
        for start in range(0, len(rows), group):
            here = rows[start : start + group]
            table = pa.table({name: column[here] for name, column in values.items()})
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            writer.write(sink.getvalue().to_pybytes())
        writer.close()
