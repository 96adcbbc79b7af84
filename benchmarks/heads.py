"""How fast is a training step of the heads, against torch as good as ours and as published?

    pip install '.[bench]'
    python -m benchmarks.heads

PAL-B (d = 1,024, K = 2) at 256 to 16,384 comparisons and PAL-A (768-512-512, K = 5), no item
repeated; then PAL-B where a batch repeats its items, which paljax sends through the network once.
Ratios are times of torch over the time of paljax in float32, from runs in turn. The share is of
the matrix products' operations, at the rate of one large product measured beside them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import measuring, peers
from benchmarks.plain_adamw import PLAIN_ADAMW
from paljax import models
from paljax.data.batches import Batch
from paljax.learners.fit_by_gradient import fit_by_gradient
from paljax.learners.losses import LOSSES
from paljax.models import PreferenceModel

NUM_USERS = 1000
PEAK_SIZE = 4096
SIZES = (256, 1024, 4096, 16384)


class Head(NamedTuple):
    """One row of the table."""

    name: str
    batch_size: int  # B
    distinct_items: int  # in a batch
    distinct_prompts: int  # 0 where the model does not look at prompts
    widths: tuple[int, int, int]  # of the item network
    num_users: int = NUM_USERS

    @property
    def is_pal_b(self) -> bool:
        """PAL-B is the one with prompts."""
        return self.distinct_prompts > 0

    @property
    def num_prototypes(self) -> int:
        """K."""
        return 2 if self.is_pal_b else 5

    def operations(self) -> float:
        """Of a step's matrix products; the first layer has no gradient of its inputs."""
        inputs, hidden, outputs = self.widths
        rows = self.distinct_items + self.num_prototypes * (self.distinct_prompts or 1)
        return 2.0 * rows * (2 * inputs * hidden + 3 * hidden * outputs)


def heads(batch_sizes: tuple[int, ...], *, narrower: int) -> list[Head]:
    """All rows; layers `narrower` times narrower than those of the papers."""
    wide = (1024 // narrower, 1024 // narrower, 1024 // narrower)
    pal_a = (768 // narrower, 512 // narrower, 512 // narrower)
    rows = [Head("PAL-B", size, 2 * size, size, wide) for size in batch_sizes]
    rows += [Head("PAL-A", size, 2 * size, 0, pal_a) for size in batch_sizes[:3]]
    size = min(4096, batch_sizes[-1])
    return [*rows, Head("PAL-B repeated", size, size // 4, size // 16, wide)]


class Data(NamedTuple):
    """Numbers of one batch."""

    items: np.ndarray[Any, np.dtype[np.float32]]
    prompts: np.ndarray[Any, np.dtype[np.float32]] | None
    chosen: np.ndarray[Any, np.dtype[np.int64]]
    rejected: np.ndarray[Any, np.dtype[np.int64]]
    prompt: np.ndarray[Any, np.dtype[np.int64]]
    user: np.ndarray[Any, np.dtype[np.int64]]


def data_for(head: Head, seed: int) -> Data:
    """A batch of normal inputs; each item is on one side where there are enough."""
    generator = np.random.default_rng(seed)
    width, size = head.widths[0], head.batch_size
    sides = generator.permutation(2 * size) % head.distinct_items
    prompts = None
    if head.is_pal_b:
        prompts = generator.normal(size=(head.distinct_prompts, width)).astype(np.float32)
    return Data(
        items=generator.normal(size=(head.distinct_items, width)).astype(np.float32),
        prompts=prompts,
        chosen=sides[:size],
        rejected=sides[size:],
        prompt=np.arange(size) % max(head.distinct_prompts, 1),
        user=generator.integers(0, head.num_users, size),
    )


def jax_batch(data: Data, num_users: int) -> Batch:
    """The batch as paljax plans it."""
    users, user = np.unique(data.user, return_inverse=True)
    size = len(data.user)
    room = min(size, num_users)
    padded = num_users + np.arange(room)
    padded[: len(users)] = users
    ones = jnp.ones(size)
    return Batch(
        items=jnp.asarray(data.items),
        prompts=None if data.prompts is None else jnp.asarray(data.prompts),
        users=jnp.asarray(np.sort(padded), jnp.int32),
        chosen=jnp.asarray(data.chosen, jnp.int32),
        rejected=jnp.asarray(data.rejected, jnp.int32),
        prompt=jnp.asarray(data.prompt, jnp.int32),
        user=jnp.asarray(user, jnp.int32),
        weight=ones,
        target=ones,
        prior_share=ones,
        present=ones > 0,
    )


def model_of(head: Head, *, bfloat16: bool) -> PreferenceModel:
    """The head, its networks' products in float32 or in bfloat16."""
    build = models.pal_b if head.is_pal_b else models.pal_a
    return build(
        num_prototypes=head.num_prototypes,
        latent_width=head.widths[2],
        hidden_layers=1,
        products="bfloat16" if bfloat16 else "float32",
    )


def jax_step(head: Head, batches: list[Data], *, bfloat16: bool) -> tuple[Callable[[], None], str]:
    """One step of paljax, the next batch at every call; and the text of its program."""
    ready = [jax_batch(data, head.num_users) for data in batches]
    learner = fit_by_gradient(
        model_of(head, bfloat16=bfloat16),
        example_items=ready[0].items[:1],
        example_prompts=None if ready[0].prompts is None else ready[0].prompts[:1],
        num_users=head.num_users,
        loss=LOSSES["logistic"],
        prior_strength=2.0,
        optimizer=PLAIN_ADAMW._replace(clip_norm=None),
    )
    state = learner.init(jax.random.key(0))
    step = jax.jit(learner.step, donate_argnums=0).lower(state, ready[0]).compile()
    number = 0

    def run() -> None:
        nonlocal state, number
        state, _ = step(state, ready[number % len(ready)])
        number += 1
        jax.block_until_ready(state)

    return run, step.as_text() or ""


def torch_step(
    head: Head, batches: list[Data], *, published: bool, bfloat16: bool
) -> Callable[[], float]:
    """One step of torch; every side of every comparison is an input of its own."""
    ready = [
        peers.batch_of(
            data.items[data.chosen],
            data.items[data.rejected],
            None if data.prompts is None else data.prompts[data.prompt],
            data.user,
        )
        for data in batches
    ]
    common: dict[str, Any] = {
        "num_users": head.num_users,
        "num_prototypes": head.num_prototypes,
        "published": published,
        "bfloat16": bfloat16,
    }
    if head.is_pal_b:
        return peers.pal_b_step(ready, width=head.widths[0], **common)
    return peers.pal_a_step(ready, widths=head.widths, **common)


def peak(size: int) -> Callable[[], Any]:
    """One large float32 product, whose rate stands for the machine's."""
    left = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(left, left))


def measure(head: Head, *, rounds: int, peak_size: int) -> dict[str, Any]:
    """Times, ratios to paljax in float32, and the share of the peak."""
    batches = [data_for(head, seed) for seed in range(2)]
    timings = measuring.interleaved(
        {
            "paljax float32": jax_step(head, batches, bfloat16=False)[0],
            "torch best float32": torch_step(head, batches, published=False, bfloat16=False),
            "torch published float32": torch_step(head, batches, published=True, bfloat16=False),
            "paljax bfloat16": jax_step(head, batches, bfloat16=True)[0],
            "torch best bfloat16": torch_step(head, batches, published=False, bfloat16=True),
            "torch published bfloat16": torch_step(head, batches, published=True, bfloat16=True),
            "peak": peak(peak_size),
        },
        rounds=rounds,
    )
    ours = timings["paljax float32"]
    rate = 2 * peak_size**3 / timings["peak"].median_s
    return {
        "head": head._asdict(),
        "timings": {name: timing.record() for name, timing in timings.items()},
        "ratios": {
            name: measuring.ratio(timing, ours)._asdict()
            for name, timing in timings.items()
            if name not in ("peak", "paljax float32")
        },
        "peak_gflops": rate / 1e9,
        "share_of_peak": head.operations() / ours.median_s / rate,
    }


def row(result: dict[str, Any]) -> dict[str, str]:
    """A line of the table: milliseconds of paljax, then how many times longer the others take."""
    head, timings = result["head"], result["timings"]
    cells = {
        "head": head["name"],
        "B": f"{head['batch_size']:,}",
        "paljax ms": f"{1e3 * timings['paljax float32']['median_s']:.1f}",
    }
    for name, found in result["ratios"].items():
        cells[name] = str(measuring.Ratio(**found))
    cells["of peak"] = f"{result['share_of_peak']:.0%}"
    return cells


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = measuring.options(__doc__, "heads")
    sizes_help = "comparisons a batch (default: %(default)s)"
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=SIZES, metavar="B", help=sizes_help
    )
    options = parser.parse_args()
    torch.set_num_threads(measuring.machine()["cores"])
    sizes = (64,) if options.quick else tuple(sorted(options.batch_sizes))
    results = []
    for head in heads(sizes, narrower=16 if options.quick else 1):
        rounds = 3 if options.quick else 5 if head.batch_size >= 4096 else 9
        results.append(measure(head, rounds=rounds, peak_size=512 if options.quick else PEAK_SIZE))
        print(measuring.table([row(results[-1])]), flush=True)
    facts = {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    blas = [line.strip() for line in torch.__config__.show().splitlines() if "BLAS" in line]
    measuring.write(
        options.out, "a training step of the heads against torch", results, blas=blas, **facts
    )


if __name__ == "__main__":
    main()
