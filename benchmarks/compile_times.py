"""Run `paljax.train`, and write how long JAX made programs in that process.

    python -m benchmarks.compile_times FILE -- --config CONFIG --run-dir DIR

`startup` starts it. Making a program is tracing Python to a jaxpr, lowering that to StableHLO, and
compiling it or reading it from the compile cache; JAX times each. Functions are traced inside of
others, and threads compile side by side: what is written is time in which at least one program was
in the making.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from paljax import train

KINDS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace_s",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower_s",
    "/jax/core/compile/backend_compile_duration": "compile_or_read_s",
}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def main() -> int:
    """Train, then write the seconds."""
    out, _, *arguments = sys.argv[1:]
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def note(event: str, start_time: float, end_time: float, **_: Any) -> None:
        if event in KINDS:
            spans[KINDS[event]].append((start_time, end_time))

    jax.monitoring.register_event_time_span_listener(note)
    started = time.perf_counter()
    status = train.main(arguments)
    record = {kind: covered(spans[kind]) for kind in KINDS.values()}
    record |= {
        "programs_s": covered(span for of_kind in spans.values() for span in of_kind),
        "programs": len(spans["compile_or_read_s"]),
        "wall_s": time.perf_counter() - started,
    }
    Path(out).write_text(json.dumps(record), encoding="utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
