"""Do the steps fit TPU pods, what do chips send each other, and what bounds a step?

    pip install libtpu
    python -m benchmarks.tpu_aot [--steps reward policy]

Compiles the real steps ahead of time, on a machine without a TPU, and reads the executables:
memory, matrix products, bytes, collectives, every loop by its rounds. The reward step has 100
million users over the pod, the policy step is that of Llama 7B. Times are rooflines from the
maker's figures of the chips: nothing here has run on a TPU. Weak scaling compiles the same work a
chip for 1 to 256 chips. A policy step takes minutes to compile.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measuring
from benchmarks.tpu_steps import (
    BATCH_PER_CHIP,
    USERS_PER_CHIP,
    Compiled,
    compile_policy_step,
    compile_reward_step,
)

STEPS = ("reward", "policy")


class Chip(NamedTuple):
    """Published figures of one chip."""

    flops: float  # bfloat16, a second
    memory: float  # bytes
    memory_rate: float  # bytes a second
    link_rate: float  # bytes a second that leave it, all of its links together
    source: str


# Editions of these pages differ by a few per cent (v5e: 800 GiB/s or 819 GB/s of memory; v6e: 1,600
# or 1,640 GB/s, and 3,200 or 3,584 Gb/s of links): the lower figure stands. The pages give links in
# both directions together; one direction is half.
_PAGES = "https://docs.cloud.google.com/tpu/docs"
CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 400e9 / 2, f"{_PAGES}/v5e"),
    "v6e": Chip(918e12, 32e9, 1600e9, 800e9 / 2, f"{_PAGES}/v6e"),
    "v5p": Chip(459e12, 95e9, 2765e9, 1200e9 / 2, f"{_PAGES}/v5p-training"),
}
MARGIN = 0.1  # of a chip's memory that a step must leave free
# A v5p slice of 64 chips holds the 100 million users of a pod of 256, four times as many each.
REWARD = (("v5e:16x16", 256, 1), ("v6e:16x16", 256, 1), ("v5p:4x4x4", 64, 4))
# The more chips share the parameters, the more of them share each new token's sums: as few as fit.
POLICY = (("v5e:16x16", 8, 32), ("v6e:16x16", 16, 16), ("v5p:4x4x4", 4, 16))
# The least slice that a compiler takes has four chips; on one of them, nothing travels.
WEAK_SCALING = (
    ("v5e:2x2", 1),
    ("v5e:2x2", 4),
    ("v5e:4x4", 16),
    ("v5e:8x8", 64),
    ("v5e:16x16", 256),
)
# 32 chips of v5e are the fewest that hold Llama 7B in training.
WEAK_SCALING_POLICY = (("v5e:8x8", 2, 32), ("v5e:16x16", 8, 32))


def chip_of(compiled: Compiled) -> Chip:
    """The chip that a step was compiled for."""
    return CHIPS[compiled.topology.partition(":")[0]]


def fits(compiled: Compiled) -> bool:
    """Whether the step leaves the margin of memory free."""
    return compiled.memory <= (1 - MARGIN) * chip_of(compiled).memory


def seconds(compiled: Compiled) -> dict[str, float]:
    """Rooflines: a step takes at least the longest, at most about their sum."""
    chip, work = chip_of(compiled), compiled.work
    return {
        "compute_s": work.product_flops / chip.flops,
        "memory_s": work.moved_bytes / chip.memory_rate,
        "links_s": work.sent / chip.link_rate,
    }


def record(compiled: Compiled) -> dict[str, Any]:
    """For the JSON."""
    work = compiled.work
    return {
        "step": compiled.step,
        "topology": compiled.topology,
        "chips": compiled.chips,
        "size": compiled.size,
        "product_flops": work.product_flops,
        "moved_bytes": work.moved_bytes,
        "memory_bytes": compiled.memory,
        "memory_free": 1 - compiled.memory / chip_of(compiled).memory,
        "fits": fits(compiled),
        "sent_bytes": work.sent,
        "sent_bytes_by_kind": work.sent_by_kind(),
        "collectives": [
            collective._asdict() | {"sent": collective.sent}
            for collective in sorted(work.collectives, key=lambda each: -each.sent)[:20]
        ],
        "roofline": seconds(compiled),
    }


def row(compiled: Compiled) -> dict[str, str]:
    """A line of the table."""
    times, work = seconds(compiled), compiled.work
    sent = ", ".join(f"{kind} {sent / 1e6:,.1f}" for kind, sent in work.sent_by_kind().items())
    return {
        "step": compiled.step,
        "topology": compiled.topology,
        "chips": str(compiled.chips),
        "size": compiled.size,
        "TFLOP": f"{work.product_flops / 1e12:.3f}",
        "GB moved": f"{work.moved_bytes / 1e9:.2f}",
        "HBM GB": f"{compiled.memory / 1e9:.2f}",
        "HBM free": f"{1 - compiled.memory / chip_of(compiled).memory:.0%}",
        "MB sent": sent or "none",
        "compute ms": f"{1e3 * times['compute_s']:.2f}",
        "memory ms": f"{1e3 * times['memory_s']:.2f}",
        "links ms": f"{1e3 * times['links_s']:.2f}",
    }


def wanted(steps: Iterable[str], *, quick: bool) -> list[Callable[[], Compiled]]:
    """What to compile, the pods first."""

    def reward(topology: str, chips: int, times: int = 1) -> Callable[[], Compiled]:
        users, batch = (1000, 64) if quick else (USERS_PER_CHIP, BATCH_PER_CHIP)
        return lambda: compile_reward_step(
            topology, chips, users_per_chip=times * users, batch_per_chip=batch
        )

    def policy(topology: str, data: int, fsdp: int) -> Callable[[], Compiled]:
        return lambda: compile_policy_step(topology, data=data, fsdp=fsdp)

    found = []
    if "reward" in steps:
        found += [reward(*case) for case in REWARD]
        found += [reward(*case) for case in WEAK_SCALING if case[:2] != REWARD[0][:2]]
    if "policy" in steps:
        found += [policy(*case) for case in POLICY]
        found += [policy(*case) for case in WEAK_SCALING_POLICY if case not in POLICY]
    return found[:1] if quick else found


def main() -> None:
    """Compile, print the tables and write the JSON and a table beside it."""
    parser = measuring.options(__doc__, "tpu_aot")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, metavar="STEP")
    options = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        raise SystemExit("libtpu is not installed: pip install libtpu")
    records: list[dict[str, Any]] = []
    rows: list[dict[str, str]] = []
    for compile_step in wanted(options.steps, quick=options.quick):
        compiled = compile_step()
        records.append(record(compiled))
        rows.append(row(compiled))
        print(measuring.table(rows[-1:]), flush=True)
        _write(options, records, rows)  # after each, so that whoever stops early has what there is
    print(f"\n{measuring.table(rows)}")
    if not all(found["fits"] for found in records):
        raise SystemExit(f"a step leaves less than {MARGIN:.0%} of a chip's memory free")


def _write(
    options: argparse.Namespace, records: list[dict[str, Any]], rows: list[dict[str, str]]
) -> None:
    path: Path = options.out
    if path.exists() and not options.quick:  # steps that were not asked for stay
        held = json.loads(path.read_text(encoding="utf-8"))["results"]
        kept = [each for each in held if each.get("step") not in options.steps]
    else:
        kept = []
    measuring.write(
        path,
        "do the steps fit TPU pods",
        kept + records,
        dtype={"reward": "float32", "policy": "bfloat16 products, float32 parameters"},
        executed=False,
        chips={name: chip._asdict() for name, chip in CHIPS.items()},
    )
    path.with_name(f"{path.stem}_{'_'.join(options.steps)}.txt").write_text(
        measuring.table(rows) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
