"""How long until something happens?

    python -m benchmarks.startup

`python -m paljax.train --help`, and the quick start, whole, whose programs are compiled anew (cold)
or found in the compile cache (warm). Each is a process of its own, in turn. Its compile time is
the time in which JAX made programs: traced, lowered, and compiled or read them; the last stands
beside it alone, since no cache holds what is traced and lowered at every start.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import measuring

QUICK_START = "experiments/quickstart/config.yaml"


def process(module: str, arguments: list[str], cache: Path | None) -> None:
    """Run a module to its end."""
    environment = dict(os.environ)
    if cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def runs(
    folder: Path, overrides: list[str]
) -> tuple[Callable[[], None], Callable[[], None], dict[str, list[dict[str, Any]]]]:
    """A cold run, a warm one, and what they tell of making programs."""
    told: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}

    def run(kind: str, cache: Path) -> None:
        number = sum(len(records) for records in told.values())
        out, run_dir = folder / f"{number}.json", folder / f"run {number}"
        arguments = ["--config", QUICK_START, *overrides, "--run-dir", str(run_dir)]
        process("benchmarks.compile_times", [str(out), "--", *arguments], cache)
        told[kind].append(json.loads(out.read_text(encoding="utf-8")))

    def cold() -> None:
        run("cold", folder / f"cache {len(told['cold'])}")

    def warm() -> None:
        # The first cold run has filled it.
        run("warm", folder / "cache 0")

    return cold, warm, told


def ratios(told: dict[str, list[dict[str, Any]]], kind: str) -> measuring.Ratio:
    """How many times longer cold runs made programs than warm ones, round by round."""
    found = [cold[kind] / warm[kind] for cold, warm in zip(told["cold"], told["warm"], strict=True)]
    return measuring.Ratio(statistics.median(found), min(found), max(found))


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = measuring.options(__doc__, "startup")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    overrides = ["training.epochs=3"] if options.quick else []
    with tempfile.TemporaryDirectory() as folder:
        cold, warm, told = runs(Path(folder), overrides)
        contenders: dict[str, Callable[[], None]] = {
            "help": lambda: process("paljax.train", ["--help"], None),
            "quick start, cold cache": cold,
            "quick start, warm cache": warm,
        }
        timings = measuring.interleaved(contenders, rounds=1 if options.quick else options.rounds)
    rows = [
        {
            "what": name,
            "seconds": f"{timing.median_s:.2f}",
            "range": f"{min(timing.seconds):.2f}-{max(timing.seconds):.2f}",
        }
        for name, timing in timings.items()
    ]
    print(measuring.table(rows))
    kinds = list(told["cold"][0])
    print(
        measuring.table(
            [
                {"seconds of": cache}
                | {kind: f"{statistics.median(run[kind] for run in of):.2f}" for kind in kinds}
                for cache, of in told.items()
            ]
        )
    )
    compiling = {kind: ratios(told, kind)._asdict() for kind in ("programs_s", "compile_or_read_s")}
    results = {name: timing.record() for name, timing in timings.items()}
    measuring.write(options.out, "start-up", results, compiling=compiling, runs=told)


if __name__ == "__main__":
    main()
