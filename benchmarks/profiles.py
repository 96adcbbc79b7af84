"""Where does the time go in what missed its number?

    python -m benchmarks.profiles [--only NAME ...]

`jax.profiler` on a step of the PAL-B head in float32 and in bfloat16, on an epoch of a small head
in one scan, and on the start of the quick start with a warm compile cache. Each is a process of its
own; heads and epochs run on one thread, where every operation's time is its own. The trace is read
here, and operations are shown by their own time: no viewer is needed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks import measuring, traces

TOP = 12  # operations that are shown
ONE_THREAD = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
QUICK_START = "experiments/quickstart/config.yaml"
# What Python is busy with at a start, by a function that is in the midst of it.
STAGES = {
    "$compilation_cache.py": "reading compiled programs",
    "$compiler.py": "reading compiled programs",
    "$mlir.py": "lowering to StableHLO",
    "$partial_eval.py": "tracing",
    "$pjit.py": "tracing",
    "$<frozen importlib._bootstrap>": "imports",
    "$checkpoints.py": "checkpoints",
    "$evaluation.py": "scores and their bootstrap",
    "$groups.py": "scores and their bootstrap",
    "$report.py": "figures and report",
    "$prepare.py": "data",
}


def summary(
    operations: list[traces.Operation], parts: list[traces.Operation], runs: int
) -> dict[str, Any]:
    """Seconds a run and shares, by operation and by part."""
    total = sum(operation.self_s for operation in parts)

    def told(operation: traces.Operation) -> dict[str, Any]:
        return {
            "name": operation.name,
            "ms": 1e3 * operation.self_s / runs,
            "share": operation.self_s / total,
            "count": operation.events / runs,
        }

    return {
        "ms": 1e3 * total / runs,
        "operations": [told(operation) for operation in operations[:TOP]],
        "parts": [told(part) for part in parts],
    }


def of_program(run: Callable[[], None], program: str, *, runs: int) -> dict[str, Any]:
    """Profile a compiled program.

    Args:
        run: Runs it once.
        program: Its text.
        runs: How many are profiled.
    """
    known = traces.instructions(program)

    def name_of(event: str) -> str | None:
        if event in known:
            found = known[event]
            return f"{event} {found.type} {short(found.source)}".strip()
        return "between operations" if event.startswith("ThunkExecutor") else None

    def part_of(event: str) -> str | None:
        if event in known:
            return part(known[event])
        return "between operations" if event.startswith("ThunkExecutor") else None

    run()

    def several() -> None:
        for _ in range(runs):
            run()

    threads = traces.record(several, python=False)
    compiled = [
        [event for event in events if name_of(event.name) is not None] for events in threads
    ]
    operations, parts = (traces.by_part(compiled, of) for of in (name_of, part_of))
    return summary(operations, parts, runs) | {"products": products(program)}


def part(instruction: traces.Instruction) -> str:
    """Of a training step: where an operation belongs."""
    source = instruction.source
    if instruction.kind == "dot" or source.endswith("dot_general"):
        return "products"
    if instruction.kind == "scatter" or source.endswith(("scatter-add", "scatter")):
        return "scatters"
    if "transpose(" in source:
        return "backward, the rest"
    if "jvp(" in source:
        return "forward, the rest"
    return "optimizer, rows, metrics, batches"


def short(source: str) -> str:
    """Where an operation comes from, without the frames that all share."""
    for frame in ("jit(scan)/", "jit(_step)/", "while/body/", "closed_call/"):
        source = source.replace(frame, "")
    return source


def products(program: str) -> dict[str, int]:
    """How many matrix products of a program take numbers of each type."""
    types = dict(re.findall(r"%?([\w.\-]+)(?:: | = )(\w+)\[", program))
    found: dict[str, int] = {}
    for left, _ in re.findall(r" dot\(%([\w.\-]+), %([\w.\-]+)\)", program):
        found[types[left]] = found.get(types[left], 0) + 1
    return found


def heads(*, quick: bool) -> dict[str, Any]:
    """A step of PAL-B, B = 4,096, in both kinds of numbers."""
    from benchmarks import heads as bench

    size = 64 if quick else 4096
    head = bench.heads((size,), narrower=16 if quick else 1)[0]
    found = {}
    for bfloat16 in (False, True):
        step = bench.jax_step(head, [bench.data_for(head, 0)], bfloat16=bfloat16)
        found["bfloat16" if bfloat16 else "float32"] = of_program(*step, runs=3)
    return found


def epochs(*, quick: bool) -> dict[str, Any]:
    """An epoch of PAL-A with 200 items, B = 64 and 1,024."""
    from benchmarks import epochs as bench
    from paljax.data.batches import training_rows

    found = {}
    rows = bench.comparisons(500 if quick else bench.NUM_ROWS, 200)
    training = training_rows(rows, label_smoothing=0.0, weight_by_user=False)
    for size in (64, 1024):
        epoch = bench.paljax_epoch(training, bench.tables_of(200), size)
        found[f"B = {size:,}"] = of_program(*epoch, runs=3)
    return found


def warm_start(*, quick: bool) -> dict[str, Any]:
    """The quick start, few epochs, its programs in the cache."""
    from paljax import train

    def stage_of(event: str) -> str | None:
        if event.endswith(" stop_trace"):
            return "the profiler itself"
        return next((stage for name, stage in STAGES.items() if event.startswith(name)), None)

    with tempfile.TemporaryDirectory() as folder:
        epochs = "training.epochs=3"
        arguments = ["--config", QUICK_START, epochs, "--run-dir"]
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        cold = [sys.executable, "-m", "paljax.train", *arguments, f"{folder}/cold"]
        subprocess.run(cold, check=True, env=os.environ | cache, stdout=subprocess.DEVNULL)
        os.environ |= cache  # so that `train` looks for no other
        jax.config.update("jax_compilation_cache_dir", cache["JAX_COMPILATION_CACHE_DIR"])
        threads = traces.record(
            lambda: _succeed(train.main([*arguments, f"{folder}/warm"])), python=True
        )
    main = max(threads, key=len)
    operations, parts = (traces.by_part([main], of) for of in (lambda name: name, stage_of))
    return {"quick start": summary(operations, parts, runs=1)}


def _succeed(status: int) -> None:
    if status:
        raise SystemExit(status)


PROFILES: Mapping[str, tuple[Callable[..., dict[str, Any]], Mapping[str, str]]] = {
    "heads": (heads, ONE_THREAD),
    "epochs": (epochs, ONE_THREAD),
    "warm_start": (warm_start, {}),
}


def show(name: str, found: Mapping[str, Any]) -> None:
    """Print one profile's tables."""
    for case, profile in found.items():
        print(f"\n== {name}, {case}: {profile['ms']:.1f} ms of work a run")
        for kind in ("parts", "operations"):
            rows = [
                {
                    kind: row["name"][:84],
                    "ms": f"{row['ms']:.2f}",
                    "share": f"{row['share']:.1%}",
                    "count": f"{row['count']:,.0f}",
                }
                for row in profile[kind]
            ]
            print(measuring.table(rows) + "\n", flush=True)


def main() -> None:
    """Profile each in a process of its own, print the tables and write the JSON."""
    parser = measuring.options(__doc__, "profiles")
    parser.add_argument("--only", nargs="+", choices=PROFILES, default=[*PROFILES], metavar="NAME")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:  # the process of one profile
        (name,) = options.only
        options.out.write_text(json.dumps(PROFILES[name][0](quick=options.quick)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            out = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", "benchmarks.profiles", "--here", "--only", name]
            quick = ["--quick"] if options.quick else []
            subprocess.run(
                [*command, "--out", str(out), *quick],
                check=True,
                env=os.environ | PROFILES[name][1],
            )
            results[name] = json.loads(out.read_text(encoding="utf-8"))
            show(name, results[name])
    measuring.write(options.out, "where the time goes", results)


if __name__ == "__main__":
    main()
