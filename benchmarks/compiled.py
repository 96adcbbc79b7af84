"""What a compiled program does on one device, read off its text: products, bytes, collectives.

XLA's own `cost_analysis` counts the body of a loop once. Here every computation counts as often as
it runs: a loop's by the number of its rounds, nested loops by their product. Loops that end when
data say so count once.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "f16": 2,
    "bf16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
# They name, pass on or place what is there, and move nothing themselves; what a loop or a call
# moves is counted inside, and the end of a transfer at its start.
_MOVES_NOTHING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call"),
    *("conditional", "after-all", "iota", "partition-id", "replica-id", "opt-barrier"),
    *("copy-done", "all-reduce-done", "all-gather-done", "collective-permute-done"),
    *("async-done", "async-update"),
}
_CALLS = r"\b(calls|body|condition|to_apply)=%?([\w.\-]+)"
_ONLY_READS_A_PART = {"dynamic-slice", "slice", "gather"}


class Array(NamedTuple):
    """One array of a program."""

    dtype: str
    shape: tuple[int, ...]
    on_chip: bool  # in the chip's own fast memory, as TPU programs write it

    @property
    def bytes(self) -> int:
        """Its size."""
        return _BYTES.get(self.dtype, 0) * math.prod(self.shape)


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    result: tuple[Array, ...]
    kind: str
    operands: tuple[str, ...]
    rest: str  # arguments and attributes
    is_root: bool


class Collective(NamedTuple):
    """What one instruction sends."""

    kind: str
    bytes: int  # of its results on a device
    longest: int  # longest axis of its results
    devices: int  # that take part in one
    times: int  # a step

    @property
    def sent(self) -> float:
        """Bytes that leave a device in a step, as a ring does it."""
        others = (self.devices - 1) / self.devices
        share = {
            "all-reduce": 2 * others,
            "reduce-scatter": self.devices - 1.0,  # of its result, a part of what it takes
            "collective-permute": 1.0,
        }.get(self.kind, others)
        return self.times * self.bytes * share


class Work(NamedTuple):
    """What one device does in one run of a program."""

    product_flops: float  # of matrix products; element by element is little beside them
    moved_bytes: float  # to and from memory; a fusion moves what it takes and gives
    collectives: list[Collective]

    @property
    def sent(self) -> float:
        """Bytes that leave a device."""
        return sum(collective.sent for collective in self.collectives)

    def sent_by_kind(self) -> dict[str, float]:
        """The same, apart."""
        found = dict.fromkeys(COLLECTIVES, 0.0)
        for collective in self.collectives:
            found[collective.kind] += collective.sent
        return {kind: sent for kind, sent in found.items() if sent}


Program = dict[str, list[Instruction]]


def work_of(text: str, *, devices: int) -> Work:
    """Read a compiled program.

    Args:
        text: Of `compiled.as_text()`.
        devices: That run it.

    Returns:
        What each of them does.
    """
    program, entry = parse(text)
    times, fused = _times(program, entry)
    flops, moved = 0.0, 0.0
    collectives: dict[str, Collective] = {}
    for name, count in times.items():
        known = {line.name: line for line in program[name]}
        for line in program[name]:
            flops += count * product_flops(line, known)
            if name not in fused:
                moved += count * _moved(line, known, program)
            if (kind := line.kind.removesuffix("-start")) in COLLECTIVES:
                found = _collective(kind, line, known, count, devices)
                key = f"{name} {line.name}"
                if name in fused:
                    # Start, steps and end of one that hides behind work are clones of each other.
                    key = " ".join(
                        re.findall(r"channel_id=\d+|op_name=\S+|stack_frame_id=\d+", line.rest)
                    )
                if key not in collectives or found.times > collectives[key].times:
                    collectives[key] = found
    return Work(flops, moved, list(collectives.values()))


def parse(text: str) -> tuple[Program, str]:
    """A program's computations by name, and the name of the one that is called first."""
    program: Program = {}
    entry, lines = "", list[Instruction]()
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$", line):
            lines = program[head.group(2)] = []
            entry = head.group(2) if head.group(1) else entry
        elif found := re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line):
            lines.append(_instruction(found.group(2), found.group(3), bool(found.group(1))))
    return program, entry


def product_flops(line: Instruction, known: dict[str, Instruction]) -> float:
    """Operations of a matrix product or a convolution, as which TPUs write products; 0 of others.

    A product of batches may be written as a convolution with padding: only places where both sides
    have numbers count.
    """
    if line.kind == "dot":
        contracted = _numbers(line.rest, r"lhs_contracting_dims=\{([\d,]*)\}")
        left = known[line.operands[0]].result[0].shape
        size = math.prod(left[axis] for axis in contracted)
        return 2.0 * math.prod(line.result[0].shape) * size
    if line.kind != "convolution":
        return 0.0
    left, kernel = (known[operand].result[0].shape for operand in line.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.rest)
    assert labels is not None
    of_left, of_kernel, of_result = labels.groups()
    result = line.result[0].shape
    total = 2.0 * result[of_result.index("b")] * result[of_result.index("f")]
    total *= kernel[of_kernel.index("i")]
    for axis in range(len(left) - 2):
        label = str(axis)
        total *= _meetings(
            line.rest,
            axis,
            given=left[of_left.index(label)],
            size=kernel[of_kernel.index(label)],
            out=result[of_result.index(label)],
        )
    return total


def _meetings(rest: str, axis: int, *, given: int, size: int, out: int) -> int:
    """Pairs of an output and a kernel's place that meet a number of the input, along one axis."""

    def setting(name: str, default: str) -> str:
        found = re.search(rf"window=\{{[^}}]*\b{name}=([\w\-]+)", rest)
        return found.group(1).split("x")[axis] if found else default

    stride, low = int(setting("stride", "1")), int(setting("pad", "0_0").split("_")[0])
    spread, dilate = int(setting("lhs_dilate", "1")), int(setting("rhs_dilate", "1"))
    places = (place * stride + step * dilate - low for place in range(out) for step in range(size))
    return sum(0 <= place <= (given - 1) * spread and place % spread == 0 for place in places)


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    end = _close(text, 0) if text.startswith("(") else text.index(" ")
    opened = text.index("(", end)
    closed = _close(text, opened)
    inside = text[opened + 1 : closed - 1]
    operands = re.findall(r"%([\w.\-]+)", inside)
    if not operands and not text[end:opened].strip().startswith(("constant", "parameter")):
        operands = [part.split()[-1] for part in inside.split(", ") if part.strip()]
    return Instruction(
        name,
        tuple(_arrays(text[:end])),
        text[end:opened].strip(),
        tuple(operands),
        text[opened:],
        is_root,
    )


def _close(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` has closed."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"no end of: {text[start : start + 80]}")


def _arrays(text: str) -> Iterator[Array]:
    for dtype, sizes, layout in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?", text):
        shape = tuple(int(size) for size in sizes.split(",") if size)
        yield Array(dtype, shape, "S(1)" in layout)


def _times(program: Program, entry: str) -> tuple[dict[str, int], set[str]]:
    """How often every computation runs, and which are inside of a fusion."""
    times: dict[str, int] = {}
    fused: set[str] = set()

    def visit(name: str, count: int, inside: bool) -> None:
        times[name] = times.get(name, 0) + count
        if inside:
            fused.add(name)
        for line in program[name]:
            for key, called in re.findall(
                r"\b(calls|body|condition|to_apply)=%?([\w.\-]+)", line.rest
            ):
                if key == "to_apply" and line.kind != "call":
                    continue  # of two numbers, inside of a reduction
                rounds = _rounds(line, program) if key in ("body", "condition") else 1
                visit(called, count * rounds, inside or line.kind == "fusion")
            for branches in re.findall(r"branch_computations=\{([^}]*)\}", line.rest):
                for branch in re.findall(r"[\w.\-]+", branches):
                    visit(branch, count, inside)

    visit(entry, 1, False)
    return times, fused


def _rounds(line: Instruction, program: Program) -> int:
    """Rounds of a loop that counts from 0 to a constant; 1 where data end it."""
    if found := re.search(r'known_trip_count"?:\{"n":"(\d+)"', line.rest):
        return int(found.group(1))
    condition = re.search(r"condition=%?([\w.\-]+)", line.rest)
    assert condition is not None
    lines = {each.name: each for each in program[condition.group(1)]}
    last = next(each for each in lines.values() if each.is_root)
    if last.kind == "compare" and "direction=LT" in last.rest:
        limit = lines[last.operands[1]]
        if limit.kind == "constant" and (found := re.match(r"\((\d+)\)", limit.rest)):
            return int(found.group(1))
    return 1


def _moved(line: Instruction, known: dict[str, Instruction], program: Program) -> float:
    if line.kind in _MOVES_NOTHING or "AllocateBuffer" in line.rest:
        return 0.0
    result = sum(array.bytes for array in line.result if not array.on_chip)
    if line.kind == "dynamic-update-slice":
        part = known[line.operands[1]]
        return 2.0 * _held(part)
    if line.kind in _ONLY_READS_A_PART:
        return 2.0 * result
    taken = [_held(known[name]) if name in known else 0 for name in line.operands]
    called = re.search(r"calls=%?([\w.\-]+)", line.rest)
    if line.kind != "fusion" or called is None:
        return float(result + sum(taken))
    inside = program[called.group(1)]
    root = next(each for each in inside if each.is_root)
    by_name = {each.name: each for each in inside}
    while root.kind == "bitcast":
        root = by_name[root.operands[0]]
    written_into = None
    if root.kind == "dynamic-update-slice":
        result = sum(array.bytes for array in by_name[root.operands[1]].result)
        written_into = root.operands[0]
    total = float(result)
    for each in inside:
        if each.kind != "parameter" or (number := _parameter(each)) >= len(taken):
            continue
        users = [user for user in inside if each.name in user.operands]
        if each.name == written_into and len(users) == 1:
            continue
        total += min(taken[number], _read(each.name, inside, program, taken[number]))
    return total


def _read(name: str, inside: list[Instruction], program: Program, whole: int) -> int:
    """Bytes that a fusion reads of what it calls `name`: slices alone, or the whole."""
    total = 0
    for user in inside:
        if name not in user.operands:
            continue
        if user.kind in _ONLY_READS_A_PART:
            total += sum(array.bytes for array in user.result)
        elif user.kind == "bitcast":
            total += _read(user.name, inside, program, whole)
        elif called := re.search(r"calls=%?([\w.\-]+)", user.rest):
            deeper = program[called.group(1)]
            numbers = [place for place, other in enumerate(user.operands) if other == name]
            total += sum(
                _read(each.name, deeper, program, whole)
                for each in deeper
                if each.kind == "parameter" and _parameter(each) in numbers
            )
        else:
            total += whole
    return total


def _parameter(line: Instruction) -> int:
    found = re.match(r"\((\d+)\)", line.rest)
    return int(found.group(1)) if found else 0


def _held(line: Instruction) -> int:
    return sum(array.bytes for array in line.result if not array.on_chip)


def _collective(
    kind: str, line: Instruction, known: dict[str, Instruction], times: int, devices: int
) -> Collective:
    results = line.result
    if line.kind.endswith("-start") and kind != "all-reduce":
        results = results[1:2]  # what it takes, what it gives, and flags
    return Collective(
        kind,
        sum(array.bytes for array in results),
        max((max(array.shape, default=1) for array in results), default=1),
        _group(line.rest, devices),
        times,
    )


def _group(rest: str, devices: int) -> int:
    """How many devices take part in one."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found.group(1).split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(found.group(1))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found.group(1)))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", found.group(2)))
    return devices


def _numbers(text: str, pattern: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(number) for number in found.group(1).split(",") if number] if found else []
