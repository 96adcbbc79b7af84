"""What all benchmarks share: the machine, runs taken in turn, ratios with their spread, the JSON.

A ratio is taken round by round from runs that stand beside each other in time, so that a drift of
the machine's speed meets both sides; its median and its range over the rounds are reported.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paljax.runs import versions

RESULTS = Path("benchmarks/results")


class Timing(NamedTuple):
    """Seconds of one contender, a number a round."""

    seconds: list[float]
    first_s: float  # of the first call, compiling included

    @property
    def median_s(self) -> float:
        """What is reported."""
        return statistics.median(self.seconds)

    def record(self) -> dict[str, Any]:
        """Median and range, for the JSON."""
        return {
            "median_s": self.median_s,
            "range_s": [min(self.seconds), max(self.seconds)],
            "first_s": self.first_s,
        }


class Ratio(NamedTuple):
    """How many times slower one contender is than another, from neighbouring runs."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.lowest:.2f}, {self.highest:.2f}]"


def interleaved(contenders: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, Timing]:
    """Time contenders in turn.

    Args:
        contenders: By name; each does its work and waits for it.
        rounds: How often each is timed, after a first call that compiles and a second that warms.

    Returns:
        The timings, by name.
    """
    first = {name: _seconds(run) for name, run in contenders.items()}
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for place in range(rounds):
        # Back and forth, so that nobody always follows the same neighbour.
        for name in list(contenders)[:: 1 if place % 2 == 0 else -1]:
            seconds[name].append(_seconds(contenders[name]))
    return {name: Timing(seconds[name], first[name]) for name in contenders}


def ratio(slower: Timing, faster: Timing) -> Ratio:
    """How many times longer `slower` takes, round by round."""
    ratios = [left / right for left, right in zip(slower.seconds, faster.seconds, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def machine() -> dict[str, Any]:
    """Processor, cores, memory, BLAS, threads and how busy the machine is."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy_blas": f"{blas['name']} {blas['version']}",
        "threads": {name: os.environ[name] for name in threads if name in os.environ},
        "load": list(os.getloadavg()),
    }


def options(description: str | None, name: str) -> argparse.ArgumentParser:
    """The command line of a benchmark: `--quick` sees that it works, `--out` takes the JSON."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small and short: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", metavar="FILE")
    return parser


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of text under the names of their columns, right-aligned but the first."""
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    lines = [
        "  ".join(
            text.ljust(widths[name]) if name == names[0] else text.rjust(widths[name])
            for name, text in row.items()
        )
        for row in [{name: name for name in names}, *rows]
    ]
    return "\n".join(lines)


def write(path: Path, question: str, results: Any, **facts: Any) -> None:
    """Write results with what they were measured on."""
    record = {
        "question": question,
        "machine": machine(),
        "versions": versions(),
        **facts,
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
