"""How long until something happens?

    python -m benchmarks.startup

`python -m paljax.train --help`, and a whole small run whose programs are compiled anew (cold) or
found in the compile cache (warm). Each is a process of its own, in turn.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import measuring

RUN = (
    "stage: reward\n"
    "data: {name: synthetic, num_users: 50, comparisons_per_user: 20}\n"
    "model: {name: pal_a, num_prototypes: 3, latent_width: 16, hidden_layers: 1}\n"
    "learner: {name: episodes, users_per_batch: 32}\n"
    "training: {epochs: 5, patience: null}\n"
    "selection: {prior_strength: [2.0], refit: false}\n"
    "evaluation: {shots: [0], resamples: 100}\n"
)


def process(arguments: list[str], cache: Path | None) -> None:
    """Run a command to its end."""
    environment = dict(os.environ)
    if cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    subprocess.run(
        [sys.executable, "-m", "paljax.train", *arguments],
        env=environment,
        check=True,
        capture_output=True,
    )


def runs(folder: Path) -> tuple[Callable[[], None], Callable[[], None], list[dict[str, Any]]]:
    """A cold run, a warm one, and what their metrics say of compiling."""
    config, told = folder / "config.yaml", []
    config.write_text(RUN, encoding="utf-8")
    number = 0

    def run(kind: str, cache: Path) -> None:
        nonlocal number
        number += 1
        run_dir = folder / f"run {number}"
        process(["--config", str(config), "--run-dir", str(run_dir)], cache)
        timing = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))["timing"]
        told.append({"kind": kind, **timing})

    def cold() -> None:
        run("cold", folder / f"cache {number}")

    def warm() -> None:
        run("warm", folder / "cache")

    return cold, warm, told


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = measuring.options(__doc__, "startup")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cold, warm, told = runs(Path(folder))
        contenders: dict[str, Callable[[], None]] = {"help": lambda: process(["--help"], None)}
        if not options.quick:
            contenders |= {"run, cold cache": cold, "run, warm cache": warm}
        timings = measuring.interleaved(contenders, rounds=2 if options.quick else options.rounds)
    rows = [
        {
            "what": name,
            "seconds": f"{timing.median_s:.2f}",
            "range": f"{min(timing.seconds):.2f}-{max(timing.seconds):.2f}",
        }
        for name, timing in timings.items()
    ]
    print(measuring.table(rows))
    results = {name: timing.record() for name, timing in timings.items()}
    measuring.write(options.out, "start-up", results, runs=told)


if __name__ == "__main__":
    main()
