"""How much does it save that a batch's distinct items go through the network once, on real data?

    pip install '.[bench]'
    python -m benchmarks.repeated

A training step of PAL-A (D-512-512, K = 5) on batches drawn from the training parts of
electricity, of UKPConvArg, and of personas with 10,000 users. paljax encodes a batch's distinct
items, torch every side of every comparison, as the published code does. Beside them stands paljax
with every side an item of its own: the rest of a ratio is not the items' doing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import heads, measuring
from benchmarks.heads import Data, Head
from paljax.config import Config
from paljax.data.dataset import Comparisons
from paljax.data.prepare import prepare

SIZES = (1024, 4096)
HIDDEN = 512
MINILM = [{"name": "minilm"}]
SOURCES: Mapping[str, dict[str, Any]] = {
    "electricity": {"data": {"name": "electricity"}, "encoder": [{"name": "numbers"}]},
    "ukpconvarg": {"data": {"name": "ukpconvarg"}, "encoder": MINILM},
    "personas": {
        "data": {"name": "personas", "users_per_persona": 2500, "judgements_per_user": 20},
        "encoder": MINILM,
    },
}


class Source(NamedTuple):
    """What batches are drawn from."""

    items: np.ndarray[Any, np.dtype[np.float32]]  # [N, D] of all distinct items
    comparisons: Comparisons
    num_users: int


def source(name: str) -> Source:
    """The training part of a data set, its items encoded."""
    record = {"stage": "reward", "model": {"name": "pal_a"}, "learner": {"name": "gradient"}}
    config = Config.model_validate(record | SOURCES[name])
    prepared = prepare(config, uses_prompts=False)
    dataset = prepared.dataset
    rows = dataset.comparisons.select(prepared.split.rows("train"))
    return Source(np.asarray(prepared.tables.items, np.float32), rows, len(dataset.users))


def draw(found: Source, size: int, number: int) -> list[Data]:
    """So many batches, each with its distinct items, in as much room as the fullest takes."""
    generator = np.random.default_rng(0)
    batches = []
    for _ in range(number):
        rows = found.comparisons.select(generator.integers(0, len(found.comparisons.user), size))
        distinct, sides = np.unique([rows.chosen, rows.rejected], return_inverse=True)
        chosen, rejected = sides.reshape(2, size)
        no_prompt = np.zeros(size, np.int64)
        user = rows.user.astype(np.int64)
        batches.append(Data(found.items[distinct], None, chosen, rejected, no_prompt, user))
    room = max(len(batch.items) for batch in batches)
    return [batch._replace(items=_filled(batch.items, room)) for batch in batches]


def apart(batch: Data) -> Data:
    """The same batch with every side an item of its own."""
    size = len(batch.user)
    sides = np.concatenate([batch.chosen, batch.rejected])
    both = np.arange(2 * size)
    return batch._replace(items=batch.items[sides], chosen=both[:size], rejected=both[size:])


def measure(name: str, found: Source, size: int, *, rounds: int) -> dict[str, Any]:
    """Times, and their ratios to paljax with distinct items."""
    batches = draw(found, size, 2)
    widths = (found.items.shape[1], HIDDEN, HIDDEN)
    head = Head(name, size, len(batches[0].items), 0, widths, found.num_users)
    every_side = [apart(batch) for batch in batches]
    timings = measuring.interleaved(
        {
            "distinct": heads.jax_step(head, batches, bfloat16=False)[0],
            "every side": heads.jax_step(head, every_side, bfloat16=False)[0],
            "torch best": heads.torch_step(head, batches, published=False, bfloat16=False),
            "torch published": heads.torch_step(head, batches, published=True, bfloat16=False),
        },
        rounds=rounds,
    )
    return {
        "data": name,
        "batch_size": size,
        "users": found.num_users,
        "items": len(found.items),
        "distinct_items": head.distinct_items,
        "timings": {of: timing.record() for of, timing in timings.items()},
        "ratios": {
            of: measuring.ratio(timing, timings["distinct"])._asdict()
            for of, timing in timings.items()
            if of != "distinct"
        },
    }


def row(result: dict[str, Any]) -> dict[str, str]:
    """A line of the table: milliseconds of paljax, then how many times longer the others take."""
    cells = {
        "data": result["data"],
        "users": f"{result['users']:,}",
        "sides": f"{2 * result['batch_size']:,}",
        "distinct": f"{result['distinct_items']:,}",
        "paljax ms": f"{1e3 * result['timings']['distinct']['median_s']:.1f}",
    }
    return cells | {of: str(measuring.Ratio(**found)) for of, found in result["ratios"].items()}


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = measuring.options(__doc__, "repeated")
    options = parser.parse_args()
    torch.set_num_threads(measuring.machine()["cores"])
    results = []
    for name in ("electricity",) if options.quick else SOURCES:
        found = source(name)
        for size in (64,) if options.quick else SIZES:
            results.append(measure(name, found, size, rounds=3 if options.quick else 7))
    print(measuring.table([row(result) for result in results]))
    facts = {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    measuring.write(
        options.out, "a training step on data that repeat their items", results, **facts
    )


def _filled(
    items: np.ndarray[Any, np.dtype[np.float32]], room: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([items, np.zeros((room - len(items), items.shape[1]), np.float32)])


if __name__ == "__main__":
    main()
