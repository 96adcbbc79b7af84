"""Run every benchmark in turn, at sizes that take a quarter of an hour, and write one table.

    pip install '.[bench]'
    python -m benchmarks.run_all [--only NAME ...] [--quick]

Each is a process of its own, so that none finds what another left in memory; what a benchmark says
is passed on, its JSON goes to benchmarks/results/, and benchmarks/results/README.md compares what
was found with what is wanted. A benchmark that fails or takes too long is told in the table, and
the others go on; the exit status is then 1. One whose package (torch, libtpu) is missing is left
out, and the table says so.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measuring

MOST_SECONDS = 300  # of one benchmark


class Row(NamedTuple):
    """A number beside the one to reach."""

    what: str
    found: str
    wanted: str


class Benchmark(NamedTuple):
    """One benchmark, and what its JSON says."""

    name: str
    arguments: tuple[str, ...]  # that make it as long as there is time for
    has_quick: bool
    rows: Callable[[dict[str, Any]], Iterable[Row]]
    needs: tuple[str, ...] = ()  # packages without which it says nothing


def _ratio(found: dict[str, float]) -> str:
    return str(measuring.Ratio(**found))


def startup_rows(record: dict[str, Any]) -> Iterable[Row]:
    """Seconds to the help, and of making programs with a cold and with a warm cache."""
    yield Row("`train --help`, s", f"{record['results']['help']['median_s']:.2f}", "<= 1.0")
    what = "quick start, compile time, cold / warm cache"
    yield Row(what, _ratio(record["compiling"]["programs_s"]), ">= 5x")
    yield Row(f"{what}, XLA alone", _ratio(record["compiling"]["compile_or_read_s"]), "")


def users_rows(record: dict[str, Any]) -> Iterable[Row]:
    """Step time by number of users."""
    last = record["results"][-1]
    yield Row(f"step time, {last['users']:,} users against 100", f"{last['ratio']:.2f}", "<= 1.2")


def new_users_rows(record: dict[str, Any]) -> Iterable[Row]:
    """New users a second, the design's case first."""
    first = record["results"][0]
    what = f"new users/s, n = {first['comparisons']}, K = {first['prototypes']}"
    yield Row(what, f"{first['users_per_s']:,.0f} (gap {first['max_gap']:.0e})", ">= 100,000")
    published = record["published"]
    if published is not None:
        what = f"new users, published ({published['epochs']} epochs) / ours"
        ratio = measuring.Ratio(**published["ratio"])
        found = f"{ratio.median:,.0f} [{ratio.lowest:,.0f}, {ratio.highest:,.0f}]"
        yield Row(what, found, ">= 1,000x")
        yield Row("the same, one epoch", f"{published['ratio_of_one_epoch']:,.0f}", "")


def e_step_rows(record: dict[str, Any]) -> Iterable[Row]:
    """Comparisons a second of the largest size."""
    for row in record["results"][-2:]:
        what = f"E-step, {row['comparisons']:,} comparisons, {row['order']}, a second"
        yield Row(what, f"{row['comparisons_per_s']:,.0f}", ">= 1,000,000")


def tpu_aot_rows(record: dict[str, Any]) -> Iterable[Row]:
    """Memory, and what bounds a step on paper."""
    for found in record["results"]:
        what = (
            f"{found['step']} step, {found['topology']} ({found['chips']} chips, {found['size']})"
        )
        yield Row(f"{what}, of a chip's memory free", f"{found['memory_free']:.0%}", ">= 10 %")
        times = {name.removesuffix("_s"): s for name, s in found["roofline"].items()}
        parts = ", ".join(f"{name} {1e3 * s:.2f}" for name, s in times.items())
        yield Row(f"{what}, roofline ms (nothing has run)", parts, "")


def heads_rows(record: dict[str, Any]) -> Iterable[Row]:
    """Ratios to torch, and the share of the peak."""
    for result in record["results"]:
        head, ratios = result["head"], result["ratios"]
        what = f"{head['name']}, B = {head['batch_size']:,}"
        wide = head["name"] == "PAL-B" and head["batch_size"] == 4096
        published = ">= 2.5x" if wide else ""
        yield Row(
            f"{what}, torch published / ours", _ratio(ratios["torch published float32"]), published
        )
        best = ">= 1.5x" if wide else ""
        yield Row(f"{what}, torch best / ours", _ratio(ratios["torch best float32"]), best)
        if wide:
            ours = result["timings"]["paljax bfloat16"]["median_s"]
            theirs = result["timings"]["torch best bfloat16"]["median_s"]
            fastest = min(ours, result["timings"]["paljax float32"]["median_s"])
            yield Row(f"{what}, torch bfloat16 / our best", f"{theirs / fastest:.2f}", ">= 1x")
            yield Row(f"{what}, of measured peak", f"{result['share_of_peak']:.0%}", ">= 60 %")


def repeated_rows(record: dict[str, Any]) -> Iterable[Row]:
    """What distinct items save, and ratios to torch."""
    for result in record["results"]:
        what = f"{result['data']}, B = {result['batch_size']:,}"
        published = ">= 10x" if result["data"] == "personas" else ""
        ratios = result["ratios"]
        yield Row(f"{what}, torch published / ours", _ratio(ratios["torch published"]), published)
        yield Row(f"{what}, torch best / ours", _ratio(ratios["torch best"]), "")
        yield Row(f"{what}, every side / distinct items", _ratio(ratios["every side"]), "")


def epochs_rows(record: dict[str, Any]) -> Iterable[Row]:
    """Ratios to the published loop."""
    for result in record["results"]:
        what = f"epoch, {result['items']:,} items, B = {result['batch_size']:,}"
        found = result["ratios"]
        yield Row(f"{what}, torch published / ours", _ratio(found["torch published"]), ">= 50x")
        yield Row(f"{what}, torch best / ours", _ratio(found["torch best"]), "")


def streaming_rows(record: dict[str, Any]) -> Iterable[Row]:
    """Time against memory, and what is resident."""
    result = record["results"]
    what = f"stream of {result['size']['comparisons']:,}"
    yield Row(f"{what}, time / in memory", _ratio(result["ratio"]), "<= 1.2")
    bound = sum(result["bound_gb"].values())
    yield Row(f"{what}, resident GB", f"{result['resident_gb']:.2f}", f"<= {bound:.2f}")
    yield Row(f"{what}, written in s", f"{result['write_s']:.0f}", "minutes")


def text_encoder_rows(record: dict[str, Any]) -> Iterable[Row]:
    """Texts a second beside torch's."""
    for result in record["results"]:
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in result["texts_per_s"].items())
        what = f"encoder, texts of {result['words']} words"
        yield Row(f"{what}, texts/s", rates, "")
        yield Row(f"{what}, torch / ours", _ratio(result["ratio"]), ">= 1x")


def sampler_rows(record: dict[str, Any]) -> Iterable[Row]:
    """Tokens a second beside Hugging Face's."""
    result = record["results"]
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in result["tokens_per_s"].items())
    yield Row("sampler, tokens/s", rates, "")
    yield Row("sampler, Hugging Face generate / ours", _ratio(result["ratio"]), "")


ALL = (
    Benchmark("startup", ("--rounds", "2"), True, startup_rows),
    Benchmark("users", ("--rounds", "5"), False, users_rows),
    Benchmark("new_users", ("--rounds", "5"), False, new_users_rows),
    Benchmark("e_step", ("--rounds", "7"), False, e_step_rows),
    Benchmark("epochs", (), True, epochs_rows, needs=("torch",)),
    Benchmark("heads", ("--batch-sizes", "256", "4096"), True, heads_rows, needs=("torch",)),
    Benchmark("repeated", (), True, repeated_rows, needs=("torch",)),
    Benchmark("text_encoder", (), True, text_encoder_rows, needs=("torch", "transformers")),
    Benchmark("sampler", ("--rounds", "5"), True, sampler_rows, needs=("torch", "transformers")),
    Benchmark("streaming", (), True, streaming_rows),
    # The policy step takes minutes a pod: its rows are those of the last run that asked for it.
    Benchmark("tpu_aot", ("--steps", "reward"), True, tpu_aot_rows, needs=("libtpu",)),
)


class Outcome(NamedTuple):
    """What came of one benchmark."""

    name: str
    seconds: float
    failure: str | None
    rows: list[Row]
    left_out: str | None = None  # why it did not run


def run(benchmark: Benchmark, folder: Path, *, quick: bool) -> Outcome:
    """Run a benchmark and read its JSON."""
    missing = [name for name in benchmark.needs if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"{missing[0]} is not installed"
        print(f"\n== {benchmark.name}: left out, {reason}", flush=True)
        return Outcome(benchmark.name, 0.0, None, [], reason)
    out = folder / f"{benchmark.name}.json"
    arguments = ["--quick"] if quick and benchmark.has_quick else [*benchmark.arguments]
    command = [sys.executable, "-m", f"benchmarks.{benchmark.name}", *arguments, "--out", str(out)]
    print(f"\n== {benchmark.name}", flush=True)
    started = time.perf_counter()
    try:
        done = subprocess.run(command, check=False, timeout=MOST_SECONDS)
        failure = f"exit status {done.returncode}" if done.returncode else None
    except subprocess.TimeoutExpired:
        failure = f"more than {MOST_SECONDS} s"
    seconds = time.perf_counter() - started
    rows = []
    if failure is None:
        rows = list(benchmark.rows(json.loads(out.read_text(encoding="utf-8"))))
    return Outcome(benchmark.name, seconds, failure, rows)


def markdown(outcomes: Iterable[Outcome], *, quick: bool) -> str:
    """All numbers in one table."""
    machine = measuring.machine()
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks.run_all`. Ratios are medians over rounds taken in turn,",
        "with their range; above 1 paljax is faster, but for the stream.",
        "",
        f"{machine['processor']}, {machine['cores']} cores, load at the end "
        f"{machine['load'][0]:.1f}." + (" `--quick`: says only that all run." if quick else ""),
        "",
        "| benchmark | what | found | wanted |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        name = f"{outcome.name} ({outcome.seconds:.0f} s)"
        if outcome.left_out is not None:
            lines.append(f"| {outcome.name} | left out | {outcome.left_out} | |")
        if outcome.failure is not None:
            lines.append(f"| {name} | failed | {outcome.failure} | |")
        lines += [f"| {name} | {row.what} | {row.found} | {row.wanted} |" for row in outcome.rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the benchmarks and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [benchmark.name for benchmark in ALL]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="small and short: do they run?")
    parser.add_argument("--results", type=Path, default=measuring.RESULTS, metavar="DIR")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for benchmark in ALL:
        if benchmark.name in options.only:
            outcomes.append(run(benchmark, options.results, quick=options.quick))
            # After each, so that whoever stops early has what there is.
            text = markdown(outcomes, quick=options.quick)
            (options.results / "README.md").write_text(text, encoding="utf-8")
    print(f"\n{text}", flush=True)
    return int(any(outcome.failure is not None for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
