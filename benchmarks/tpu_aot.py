"""Does the reward step fit TPU pods, and what do chips send each other?

    pip install libtpu
    python benchmarks/tpu_aot.py

Compiles the real step ahead of time, on a machine without a TPU, for 100 million users of PAL-B
(d = 1,024, K = 8) on whole pods, and reads the executable: memory, operations, collectives. Times
are rooflines from figures of the chips, still to be checked against the maker's pages: nothing here
has run on a TPU.
"""

import math
import os
import re
from typing import Any, NamedTuple

# There is no TPU here, nor a metadata server to ask for one, and no TPU to quarrel over.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import measuring
from paljax import models
from paljax.data.batches import Batch
from paljax.learners.devices import along
from paljax.learners.fit_by_gradient import fit_by_gradient
from paljax.learners.learner import Learner
from paljax.learners.losses import LOSSES
from paljax.learners.optimizers import PARAMETER_GROUPS, OptimizerSettings
from paljax.parallel import AXIS, data_parallel

WIDTH, NUM_PROTOTYPES = 1024, 8
USERS_PER_CHIP = 100_000_000 // 256
BATCH_PER_CHIP = 4096


class Chip(NamedTuple):
    """Published figures of a chip (cloud.google.com/tpu/docs, system architecture pages)."""

    flops: float  # bfloat16, a second
    memory: float  # bytes
    memory_rate: float  # bytes a second
    link_rate: float  # bytes a second, all links of a chip together, one direction


CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v6e": Chip(918e12, 32e9, 1640e9, 448e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
}
PODS = ("v5e:16x16", "v6e:16x16", "v5p:4x4x4")
# The least slice that a compiler takes has four chips; on one of them, nothing travels.
WEAK_SCALING = (
    ("v5e:2x2", 1),
    ("v5e:2x2", 4),
    ("v5e:4x4", 16),
    ("v5e:8x8", 64),
    ("v5e:16x16", 256),
)
_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1}
_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


class Collective(NamedTuple):
    """What one instruction sends."""

    kind: str
    bytes: int  # of its result on a chip
    largest: int  # the longest axis of what it sends


class Compiled(NamedTuple):
    """What a compiled step is known to do on each chip."""

    topology: str
    chips: int
    users: int
    flops: float
    bytes_accessed: float
    memory: int  # arguments, results that take no argument's place, and temporaries
    collectives: list[Collective]

    @property
    def sent(self) -> int:
        """Bytes of all collectives."""
        return sum(collective.bytes for collective in self.collectives)

    def seconds(self) -> dict[str, float]:
        """Rooflines: a step takes at least the longest, at most about their sum."""
        chip = CHIPS[self.topology.partition(":")[0]]
        ring = 2 * (self.chips - 1) / self.chips  # an all-reduce around a ring
        return {
            "compute_s": self.flops / chip.flops,
            "memory_s": self.bytes_accessed / chip.memory_rate,
            "links_s": ring * self.sent / chip.link_rate,
        }


def reward_learner(num_users: int) -> Learner:
    """The learner of PAL-B for so many users, one among many devices."""
    return fit_by_gradient(
        models.pal_b(num_prototypes=NUM_PROTOTYPES, latent_width=WIDTH, hidden_layers=1),
        example_items=jnp.zeros((1, WIDTH)),
        example_prompts=jnp.zeros((1, WIDTH)),
        num_users=num_users,
        loss=LOSSES["logistic"],
        prior_strength=2.0,
        optimizer=OptimizerSettings(
            learning_rate=dict.fromkeys(PARAMETER_GROUPS, 1e-3),
            weight_decay=dict.fromkeys(PARAMETER_GROUPS, 0.0),
            schedule="constant",
            warmup_fraction=0.0,
            clip_norm=1.0,
        ),
        devices=along(AXIS),
    )


def batch_shapes(chips: int, batch_per_chip: int) -> Batch:
    """Shapes of the batches of all chips: every item and prompt distinct."""
    size = chips * batch_per_chip

    def shape(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    whole, real = shape(jnp.int32, size), shape(jnp.float32, size)
    return Batch(
        items=shape(jnp.float32, 2 * size, WIDTH),
        prompts=shape(jnp.float32, size, WIDTH),
        users=whole,
        chosen=whole,
        rejected=whole,
        prompt=whole,
        user=whole,
        weight=real,
        target=real,
        prior_share=real,
        present=shape(jnp.bool_, size),
    )


def compile_reward_step(
    topology: str, chips: int, *, users_per_chip: int, batch_per_chip: int
) -> Compiled:
    """Compile the step for so many chips of a topology."""
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    mesh = Mesh(np.array(found.devices[:chips]), (AXIS,))
    learner = reward_learner(chips * users_per_chip)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    spread, same = PartitionSpec(AXIS), PartitionSpec()
    placed = type(state)(
        *(
            _placed(part, mesh, spread if name in learner.of_users else same)
            for name, part in state._asdict().items()
        )
    )
    batch = _placed(batch_shapes(chips, batch_per_chip), mesh, spread)
    step = data_parallel(
        lambda state, batch, tables: learner.step(state, batch),
        mesh,
        "shard_map",
        of_users=learner.of_users,
    )
    compiled = step.lower(placed, batch, ()).compile()  # type: ignore[attr-defined]
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return Compiled(
        topology=topology,
        chips=chips,
        users=chips * users_per_chip,
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        memory=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        collectives=collectives_in(compiled.as_text()),
    )


def collectives_in(text: str) -> list[Collective]:
    """Collectives of a compiled program's text."""
    found = []
    for result, kind in re.findall(rf"= (\S.*?) ({_KINDS})(?:-start)?\(", text):
        sizes = [
            (dtype, [int(size) for size in axes.split(",") if size])
            for dtype, axes in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", result)
        ]
        found.append(
            Collective(
                kind,
                sum(_BYTES[dtype] * math.prod(axes) for dtype, axes in sizes),
                max((max(axes, default=1) for _, axes in sizes), default=1),
            )
        )
    return found


def _placed(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    def place(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def row(compiled: Compiled) -> dict[str, str]:
    """A line of the table."""
    chip = CHIPS[compiled.topology.partition(":")[0]]
    kinds = sorted({collective.kind for collective in compiled.collectives})
    times = compiled.seconds()
    return {
        "topology": compiled.topology,
        "chips": str(compiled.chips),
        "users": f"{compiled.users:,}",
        "GFLOP": f"{compiled.flops / 1e9:.1f}",
        "GB moved": f"{compiled.bytes_accessed / 1e9:.2f}",
        "HBM GB": f"{compiled.memory / 1e9:.2f}",
        "HBM free": f"{1 - compiled.memory / chip.memory:.0%}",
        "collectives": f"{len(compiled.collectives)} {', '.join(kinds)}",
        "MB sent": f"{compiled.sent / 1e6:.2f}",
        "compute ms": f"{1e3 * times['compute_s']:.2f}",
        "memory ms": f"{1e3 * times['memory_s']:.2f}",
        "links ms": f"{1e3 * times['links_s']:.2f}",
    }


def main() -> None:
    """Compile, print the tables and write the JSON."""
    parser = measuring.options(__doc__, "tpu_aot")
    options = parser.parse_args()
    wanted = [(pod, math.prod(map(int, pod.partition(":")[2].split("x")))) for pod in PODS]
    wanted += WEAK_SCALING  # the pod of 256 is its last step
    users, batch = (1000, 64) if options.quick else (USERS_PER_CHIP, BATCH_PER_CHIP)
    # A v5p slice of 64 chips holds the 100 million users of a pod of 256, four times as many each.
    results = []
    for topology, chips in wanted[:1] if options.quick else wanted:
        compiled = compile_reward_step(
            topology,
            chips,
            users_per_chip=4 * users if topology.startswith("v5p") else users,
            batch_per_chip=batch,
        )
        results.append(compiled)
        print(measuring.table([row(compiled)]), flush=True)
    records = [
        compiled._asdict()
        | compiled.seconds()
        | {"collectives": [collective._asdict() for collective in compiled.collectives]}
        for compiled in results
    ]
    measuring.write(
        options.out, "does the reward step fit TPU pods", records, dtype="float32", executed=False
    )


if __name__ == "__main__":
    main()
