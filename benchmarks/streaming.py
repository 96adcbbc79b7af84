"""Does a stream train as fast as memory does, in how much memory?

    python -m benchmarks.streaming [--folder SCRATCH]

Writes 200 million comparisons of 10 million users among 2 million items (128 float16 numbers each)
to Parquet shards and a memory map, trains on them (PAL-A, latent width 64, K = 4, 4,096
comparisons a batch), and deletes them. Peak resident memory is read before anything else has run in
the process, and stands beside the bound that follows from the sizes. Then epochs of the stream and
of as many comparisons in memory, planned and run as training does, are timed in turn; each turn of
the stream begins with nothing loaded ahead.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import measuring
from paljax.config import StreamConfig, parse
from paljax.data.batches import Sizes, Tables, plan_epoch, plan_sizes, to_batch, training_rows
from paljax.data.streaming import StreamBatches
from paljax.data.streaming.batches import LOADED_AHEAD
from paljax.loop import Task, epoch_program
from paljax.parallel import start
from paljax.reward.fits import configured_model
from paljax.reward.streamed import Stream, open_stream, stream_task

NUM_PROTOTYPES, LATENT_WIDTH, BATCH_SIZE = 4, 64, 4096
GROUP_ROWS = 131_072
WINDOW = 1_000_000
EPOCHS = 6  # of one timed turn: longer than a window, so that reading one is part of it
# Python, JAX and its compiler, Arrow and Grain before any data.
PROGRAMS_GB = 1.0


class Size(NamedTuple):
    """How much is written."""

    users: int
    comparisons: int
    items: int
    width: int
    steps: int  # an epoch


FULL = Size(10_000_000, 200_000_000, 2_000_000, 128, 50)
QUICK = Size(20_000, 400_000, 5_000, 16, 4)


def write_set(folder: Path, size: Size) -> float:
    """Write embeddings and shards: users of two kinds want opposite things of an item.

    Returns:
        Seconds.
    """
    started = time.perf_counter()
    generator = np.random.default_rng(0)
    items = np.lib.format.open_memmap(
        folder / "items.npy", "w+", dtype=np.float16, shape=(size.items, size.width)
    )
    for first in range(0, size.items, 100_000):
        part = items[first : first + 100_000]
        part[:] = generator.standard_normal(part.shape, dtype=np.float32)
    worth = np.array(items[:, 0], np.float32)
    items.flush()
    shards, in_a_shard = folder / "shards", min(10_000_000, size.comparisons // 2)
    shards.mkdir()
    for number in range(size.comparisons // in_a_shard):
        with pq.ParquetWriter(
            shards / f"{number:04}.parquet", SCHEMA, compression="none", use_dictionary=False
        ) as writer:
            for rows in _parts(in_a_shard, 8 * GROUP_ROWS):
                user = generator.integers(0, size.users, rows, np.int32)
                left = generator.integers(0, size.items, rows, np.int32)
                shift = generator.integers(1, size.items, rows, np.int32)
                right = (left + shift) % np.int32(size.items)
                swap = (worth[left] > worth[right]) ^ (user % 2 == 0)
                columns = [user, np.where(swap, right, left), np.where(swap, left, right)]
                writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=GROUP_ROWS)
    return time.perf_counter() - started


SCHEMA = pa.schema([(name, pa.int32()) for name in ("user", "chosen", "rejected")])


def _parts(total: int, most: int) -> list[int]:
    return [min(most, total - first) for first in range(0, total, most)]


def configuration(folder: Path, size: Size) -> StreamConfig:
    """The stream's configuration."""
    record = {
        "stage": "stream",
        "data": {
            "comparisons": str(folder / "shards"),
            "items": str(folder / "items.npy"),
            "num_users": size.users,
            "window": WINDOW,
        },
        "model": {
            "name": "pal_a",
            "num_prototypes": NUM_PROTOTYPES,
            "latent_width": LATENT_WIDTH,
            "hidden_layers": 1,
        },
        "training": {"steps_per_epoch": size.steps, "epochs": 1000, "batch_size": BATCH_SIZE},
    }
    config = parse(record, where="benchmark")
    assert isinstance(config, StreamConfig)
    return config


def bound_gb(size: Size, rows: int) -> dict[str, float]:
    """What may be resident at most, by what it is."""
    distinct = min(2 * BATCH_SIZE, size.items)
    epoch = size.steps * distinct * size.width * 2
    rows_of_window = min(WINDOW + GROUP_ROWS, rows)
    parts = {
        "programs": PROGRAMS_GB * 1e9,
        # Logits, two moments and a count; a copy while a checkpoint or a start is made.
        "users' rows": 2 * size.users * 4.0 * (3 * NUM_PROTOTYPES + 1),
        "users' counts": 4.0 * size.users,
        # One on the device, one handed over, one being gathered, and those that wait.
        "epochs' items": (3 + LOADED_AHEAD) * float(epoch),
        # 25 bytes a comparison, twice while it is shuffled, and the permutation.
        "window": rows_of_window * (2 * 25.0 + 8),
    }
    return {name: value / 1e9 for name, value in parts.items()}


def resident_gb() -> float:
    """The most that this process has had resident."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def stream_turns(
    config: StreamConfig, stream: Stream, task: Task, epochs: int
) -> Callable[[], None]:
    """A turn trains on the next epochs of the stream."""
    run_epoch, training = epoch_program(task), config.training
    state, done = start(task.learner, jax.random.key(0), task.parallel), 0

    def batches_until(last: int, sizes: Sizes | None) -> StreamBatches:
        return StreamBatches(
            stream.order,
            stream.survey,
            stream.items,
            stream.prompts,
            batch_size=training.batch_size,
            steps=training.steps_per_epoch,
            epochs=last,
            label_smoothing=0.0,
            sizes=sizes,
        )

    # A run finds them once, when it starts.
    sizes = batches_until(1, None).sizes_of_first()

    def turn() -> None:
        nonlocal state, done
        batches = batches_until(done + epochs, sizes)
        for epoch in range(done, done + epochs):
            state, metrics = run_epoch(state, batches(epoch), None)
            jax.block_until_ready(metrics)
        done += epochs

    return turn


def memory_turns(
    config: StreamConfig, stream: Stream, task: Task, epochs: int
) -> Callable[[], None]:
    """A turn trains on as many epochs of comparisons that are in memory, their items too."""
    training = config.training
    count = training.steps_per_epoch * training.batch_size
    rows = training_rows(stream.order.rows(0, count), label_smoothing=0.0, weight_by_user=False)
    sizes = plan_sizes(rows, batch_size=training.batch_size, seed=0)
    items = np.load(config.data.items)
    tables = Tables(jnp.asarray(items, jnp.float32), None)
    run_epoch = epoch_program(task._replace(to_batch=to_batch))
    state, done = start(task.learner, jax.random.key(0), task.parallel), 0

    def turn() -> None:
        nonlocal state, done
        for epoch in range(done, done + epochs):
            plan = plan_epoch(
                rows,
                sizes=sizes,
                num_users=config.data.num_users,
                batch_size=training.batch_size,
                seed=0,
                epoch=epoch,
            )
            state, metrics = run_epoch(state, plan, tables)
            jax.block_until_ready(metrics)
        done += epochs

    return turn


def measure(folder: Path, size: Size, *, epochs: int, rounds: int) -> dict[str, Any]:
    """Write, open, train and time."""
    write_s = write_set(folder, size)
    config = configuration(folder, size)
    started = time.perf_counter()
    stream = open_stream(config)
    open_s = time.perf_counter() - started
    model = configured_model(config.model, NUM_PROTOTYPES)
    task = stream_task(config, stream, "stream", model)
    turn = stream_turns(config, stream, task, epochs)
    for _ in range(2):
        turn()
    resident, bound = resident_gb(), bound_gb(size, stream.order.num_rows)
    timings = measuring.interleaved(
        {"memory": memory_turns(config, stream, task, epochs), "stream": turn}, rounds=rounds
    )
    count = epochs * size.steps * BATCH_SIZE
    return {
        "size": size._asdict(),
        "on_disk_gb": sum(file.stat().st_size for file in folder.rglob("*.*")) / 1e9,
        "write_s": write_s,
        "open_s": open_s,
        "resident_gb": resident,
        "bound_gb": bound,
        "comparisons_per_s": {name: count / timing.median_s for name, timing in timings.items()},
        "timings": {name: timing.record() for name, timing in timings.items()},
        "ratio": measuring.ratio(timings["stream"], timings["memory"])._asdict(),
    }


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = measuring.options(__doc__, "streaming")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to write the set")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(
            Path(folder),
            size,
            epochs=2 if options.quick else EPOCHS,
            rounds=2 if options.quick else 5,
        )
    bound = sum(result["bound_gb"].values())
    rates = result["comparisons_per_s"]
    print(
        measuring.table(
            [
                {
                    "users": f"{size.users:,}",
                    "comparisons": f"{size.comparisons:,}",
                    "on disk GB": f"{result['on_disk_gb']:.2f}",
                    "write s": f"{result['write_s']:.0f}",
                    "open s": f"{result['open_s']:.0f}",
                    "resident GB": f"{result['resident_gb']:.2f} of {bound:.2f}",
                    "stream /s": f"{rates['stream']:,.0f}",
                    "memory /s": f"{rates['memory']:,.0f}",
                    "stream/memory time": str(measuring.Ratio(**result["ratio"])),
                }
            ]
        )
    )
    measuring.write(options.out, "a stream against memory", result, dtype="float32")
    if result["resident_gb"] > bound:
        raise SystemExit(f"resident memory exceeds its bound: {json.dumps(result['bound_gb'])}")


if __name__ == "__main__":
    main()
