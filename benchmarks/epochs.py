"""Small heads: an epoch as one scan against a loop of torch steps.

    pip install '.[bench]'
    python -m benchmarks.epochs

PAL-A (d = 384, latent width 64, one hidden layer, K = 8) on 20,000 comparisons by 1,000 users, 64
to 1,024 comparisons a batch, among 200 items (as many as the statements of a conversation on Polis)
or 2,000. paljax runs an epoch and plans the next, as training does, a batch's distinct items once;
torch loops over batches that are gathered beforehand (best), or collates them sample by sample in a
DataLoader and looks users up by name in a dictionary (published; in the process itself, since
workers would cost more here than they save), and sends each comparison's items through the network.
The published B x B similarity is PAL-B's and no part of PAL-A: see `heads`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import measuring, peers
from benchmarks.plain_adamw import PLAIN_ADAMW
from paljax import models
from paljax.data.batches import Plan, Rows, Tables, plan_epoch, plan_sizes, to_batch, training_rows
from paljax.data.dataset import Comparisons
from paljax.learners.fit_by_gradient import fit_by_gradient
from paljax.learners.losses import LOSSES

WIDTH, LATENT_WIDTH, NUM_PROTOTYPES = 384, 64, 8
NUM_USERS, NUM_ROWS = 1000, 20_000
NUM_ITEMS = (200, 2000)
BATCH_SIZES = (64, 256, 1024)


def comparisons(num_rows: int, num_items: int) -> Comparisons:
    """Random choices between different items."""
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, num_items, num_rows).astype(np.int32)
    other = generator.integers(1, num_items, num_rows)
    return Comparisons(
        user=generator.integers(0, NUM_USERS, num_rows).astype(np.int32),
        prompt=np.full(num_rows, -1, np.int32),
        chosen=chosen,
        rejected=((chosen + other) % num_items).astype(np.int32),
        weight=np.ones(num_rows, np.float32),
        tie=np.zeros(num_rows, bool),
        task=np.arange(num_rows, dtype=np.int32),
    )


def tables_of(num_items: int) -> Tables:
    """Random vectors of the items."""
    items = np.random.default_rng(1).normal(size=(num_items, WIDTH)).astype(np.float32)
    return Tables(jnp.asarray(items), None)


def paljax_epoch(rows: Rows, tables: Tables, batch_size: int) -> tuple[Callable[[], None], str]:
    """Run an epoch as one scan, the next one at every call; and the program's text."""
    learner = fit_by_gradient(
        models.pal_a(num_prototypes=NUM_PROTOTYPES, latent_width=LATENT_WIDTH, hidden_layers=1),
        example_items=tables.items[:1],
        example_prompts=None,
        num_users=NUM_USERS,
        loss=LOSSES["logistic"],
        prior_strength=2.0,
        optimizer=PLAIN_ADAMW,
    )
    sizes = plan_sizes(rows, batch_size=batch_size, seed=0)
    state = learner.init(jax.random.key(0))
    plan_of = partial(
        plan_epoch, rows, sizes=sizes, num_users=NUM_USERS, batch_size=batch_size, seed=0
    )

    def scan(state: Any, plan: Plan, tables: Tables) -> Any:
        return jax.lax.scan(
            lambda state, batch: learner.step(state, to_batch(tables, batch)), state, plan
        )

    run_epoch = jax.jit(scan, donate_argnums=0)
    epoch, plan = 0, plan_of(epoch=0)
    program = run_epoch.lower(state, plan, tables).compile().as_text() or ""

    def run() -> None:
        nonlocal state, epoch, plan
        state, _ = run_epoch(state, plan, tables)
        epoch, plan = epoch + 1, plan_of(epoch=epoch + 1)  # while the device is busy
        jax.block_until_ready(state)

    return run, program


def torch_epoch(
    rows: Comparisons, items: np.ndarray[Any, Any], batch_size: int, *, published: bool
) -> Callable[[], None]:
    """Loop over an epoch's batches."""
    gathered = partial(_batch, rows, items)
    shared: list[peers.Comparisons] = []
    step = peers.pal_a_step(
        shared,
        num_users=NUM_USERS,
        num_prototypes=NUM_PROTOTYPES,
        widths=(WIDTH, LATENT_WIDTH, LATENT_WIDTH),
        published=published,
        bfloat16=False,
    )
    order = np.random.default_rng(0).permutation(len(rows.user))
    parts = np.split(order, range(batch_size, len(order), batch_size))
    ready = [] if published else [gathered(part) for part in parts]
    # Samples as the published data sets give them: ((user, (left, right)), which one is preferred).
    vectors = torch.from_numpy(items)
    samples = [
        ((str(user), (vectors[chosen], vectors[rejected])), -1)
        for chosen, rejected, user in zip(rows.chosen, rows.rejected, rows.user, strict=True)
    ]
    loader = torch.utils.data.DataLoader(samples, batch_size=batch_size, shuffle=True)

    def run() -> None:
        if published:
            for (names, (chosen, rejected)), _ in loader:
                shared[:] = [peers.Comparisons(chosen, rejected, None, None, names)]
                step()
            return
        for batch in ready:
            shared[:] = [batch]
            step()

    return run


def _batch(
    rows: Comparisons, items: np.ndarray[Any, Any], part: np.ndarray[Any, Any]
) -> peers.Comparisons:
    return peers.batch_of(
        items[rows.chosen[part]], items[rows.rejected[part]], None, rows.user[part]
    )


def measure(batch_size: int, *, num_items: int, num_rows: int, rounds: int) -> dict[str, Any]:
    """Seconds an epoch, and ratios to paljax."""
    rows = comparisons(num_rows, num_items)
    tables = tables_of(num_items)
    items = np.array(tables.items)
    training = training_rows(rows, label_smoothing=0.0, weight_by_user=False)
    timings = measuring.interleaved(
        {
            "paljax": paljax_epoch(training, tables, batch_size)[0],
            "torch best": torch_epoch(rows, items, batch_size, published=False),
            "torch published": torch_epoch(rows, items, batch_size, published=True),
        },
        rounds=rounds,
    )
    return {
        "batch_size": batch_size,
        "items": num_items,
        "timings": {name: timing.record() for name, timing in timings.items()},
        "ratios": {
            name: measuring.ratio(timings[name], timings["paljax"])._asdict()
            for name in ("torch best", "torch published")
        },
    }


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    options = measuring.options(__doc__, "epochs").parse_args()
    torch.set_num_threads(measuring.machine()["cores"])
    num_rows, rounds = (500, 2) if options.quick else (NUM_ROWS, 7)
    results = [
        measure(batch_size, num_items=num_items, num_rows=num_rows, rounds=rounds)
        for num_items in (NUM_ITEMS[:1] if options.quick else NUM_ITEMS)
        for batch_size in (BATCH_SIZES[:1] if options.quick else BATCH_SIZES)
    ]
    print(
        measuring.table(
            [
                {
                    "items": f"{result['items']:,}",
                    "B": f"{result['batch_size']:,}",
                    "paljax ms": f"{1e3 * result['timings']['paljax']['median_s']:.1f}",
                    "compile s": f"{result['timings']['paljax']['first_s']:.2f}",
                }
                | {name: str(measuring.Ratio(**found)) for name, found in result["ratios"].items()}
                for result in results
            ]
        )
    )
    measuring.write(
        options.out,
        "an epoch of a small head: one scan against a torch loop",
        results,
        dtype="float32",
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
