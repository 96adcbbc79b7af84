"""What a trace of `jax.profiler` says: the time of every operation itself, without what it calls.

XLA's operations carry the names of the compiled program; its text says where each comes from.
"""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from jax.profiler import ProfileData

# Waiting for another thread, and marks of threads: no work.
NO_WORK = re.compile(r"\(wait for completion\)|^ThreadpoolListener|^end: |^Threadpool")


class Event(NamedTuple):
    """A stretch of time on one thread."""

    name: str
    start_ns: float
    duration_ns: float


class Operation(NamedTuple):
    """All events of one name, or one part of the program."""

    name: str
    self_s: float
    events: int


class Instruction(NamedTuple):
    """An operation of a compiled program."""

    kind: str  # its opcode
    type: str  # of its result, as f32[64,8]
    source: str  # where in the traced function it comes from


def record(run: Callable[[], None], *, python: bool) -> list[list[Event]]:
    """Run under the profiler.

    Args:
        run: Does its work and waits for it.
        python: Trace Python's functions too.

    Returns:
        The events of every thread.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = int(python)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = ProfileData.from_file(str(path))
    return [
        [Event(event.name, event.start_ns, event.duration_ns) for event in line.events]
        for plane in data.planes
        for line in plane.lines
    ]


def own_times(events: list[Event], part_of: Callable[[str], str | None]) -> Iterator[Operation]:
    """Each event's own time, under the name of its part.

    Args:
        events: Of one thread; they lie inside one another or apart.
        part_of: Name of an event -> its part; None leaves it to the event around it.

    Yields:
        An operation an event; the time of events inside it is theirs.
    """
    open_events: list[list[float | str]] = []  # end, own time, part

    def closed(until: float) -> Iterator[Operation]:
        while open_events and float(open_events[-1][0]) <= until:
            _, own, part = open_events.pop()
            yield Operation(str(part), float(own) / 1e9, 1)

    for event in sorted(events, key=lambda event: (event.start_ns, -event.duration_ns)):
        yield from closed(event.start_ns)
        around = open_events[-1] if open_events else None
        if around is not None:
            around[1] = float(around[1]) - event.duration_ns
        part = part_of(event.name) or (str(around[2]) if around is not None else "other")
        open_events.append([event.start_ns + event.duration_ns, event.duration_ns, part])
    yield from closed(float("inf"))


def by_part(threads: list[list[Event]], part_of: Callable[[str], str | None]) -> list[Operation]:
    """Own time of every part over all threads, the largest first."""
    seconds: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for events in threads:
        work = [event for event in events if not NO_WORK.search(event.name)]
        for operation in own_times(work, part_of):
            seconds[operation.name] += operation.self_s
            counts[operation.name] += 1
    found = (Operation(name, own, counts[name]) for name, own in seconds.items())
    return sorted(found, key=lambda operation: -operation.self_s)


def instructions(text: str) -> dict[str, Instruction]:
    """Instructions of a compiled program by name, fused ones under the name of their fusion."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:ROOT )?%([\w.\-]+) = (\S+?)(?:\{[\d,]*\})? ([\w\-]+)\(", line)
        if match:
            name, kind_of_result, opcode = match.groups()
            source = re.search(r'op_name="([^"]*)"', line)
            found[name] = Instruction(opcode, kind_of_result, source.group(1) if source else "")
    return found
