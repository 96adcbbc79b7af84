"""In which order a stream's comparisons come: a pure function of (seed, pass, position).

n training rows in G groups. A pass draws the groups in random order, takes as many as fill a
window, and shuffles the rows of the window; position q is row q mod n of pass q div n. What is held
is one number a group and one window: no array has the length of the data.
"""

from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Comparisons
from paljax.data.streaming.shards import Shards
from paljax.errors import UserError

HELD_OUT_GROUPS = 64  # that held-out rows are taken from, so that few groups have to be read
MOST_HELD_OUT = 0.1  # share of the rows, for validation and for testing each


class HeldOut(NamedTuple):
    """Rows that are not trained on."""

    validation: dict[int, NDArray[np.int64]]  # by group: places in it, sorted
    test: dict[int, NDArray[np.int64]]

    def of(self, group: int) -> NDArray[np.int64]:
        """Places in a group that are not trained on."""
        none = np.zeros(0, np.int64)
        return np.concatenate([part.get(group, none) for part in (self.validation, self.test)])


def hold_out(shards: Shards, count: int) -> HeldOut:
    """Hold out rows for validation and for testing, in turn and evenly spread.

    Args:
        shards: All rows.
        count: Wanted for validation, and as many for testing; at most a tenth of the rows each.

    Returns:
        The rows, of at most `HELD_OUT_GROUPS` groups.

    Raises:
        UserError: If there are too few rows.
    """
    count = min(count, int(MOST_HELD_OUT * shards.num_rows))
    if not count:
        raise UserError(f"data.comparisons: {shards.num_rows} rows are too few to hold any out")
    num_groups = min(len(shards.sizes), HELD_OUT_GROUPS)
    groups = np.linspace(0, len(shards.sizes) - 1, num_groups).round().astype(int)
    # Rows of the chosen groups laid end to end, and 2 count places evenly spread over them, but
    # never more than every second row.
    ends = np.cumsum(shards.sizes[groups])
    places = np.linspace(0, ends[-1], min(2 * count, int(ends[-1]) // 2), endpoint=False)
    places = places.astype(np.int64)
    of = np.searchsorted(ends, places, side="right")
    inside = places - (ends - shards.sizes[groups])[of]
    parts: list[dict[int, NDArray[np.int64]]] = []
    for turn in (0, 1):
        mine = np.arange(len(places)) % 2 == turn
        parts.append({
            int(groups[group]): inside[mine & (of == group)] for group in np.unique(of[mine])
        })  # fmt: skip
    if not parts[1]:
        raise UserError(f"data.comparisons: {shards.num_rows} rows are too few to hold any out")
    return HeldOut(*parts)


class Order:
    """Training rows by position.

    Args:
        shards: All rows.
        held_out: Rows that never come.
        window: Rows that are shuffled among each other, at least; more groups mix better.
        seed: Of the order.
    """

    def __init__(self, shards: Shards, held_out: HeldOut, *, window: int, seed: int) -> None:
        self._shards, self._held_out = shards, held_out
        self._window, self._seed = window, seed
        kept = [
            int(size) - len(held_out.of(group)) for group, size in enumerate(shards.sizes.tolist())
        ]
        self._kept = np.array(kept, np.int64)
        # The window that was read last; a batch that spans two reads each once.
        self._read: tuple[tuple[int, int], Comparisons] | None = None
        self._lock = Lock()

    @property
    def num_rows(self) -> int:
        """n, the rows of one pass."""
        return int(self._kept.sum())

    def rows(self, start: int, stop: int) -> Comparisons:
        """Comparisons at the positions from `start` to before `stop`."""
        parts: list[Comparisons] = []
        while start < stop:
            number, place = divmod(start, self.num_rows)
            groups, ends = self._plan(number)
            window = int(np.searchsorted(ends, place, side="right"))
            first = int(ends[window - 1]) if window else 0
            count = min(stop - start, int(ends[window]) - place)
            shuffled = self._shuffled(number, window, groups[window])
            parts.append(shuffled.select(np.arange(place - first, place - first + count)))
            start += count
        return _together(parts)

    def _plan(self, number: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """Groups of each window of a pass, and the positions where windows end."""
        order = np.random.default_rng((self._seed, number)).permutation(len(self._kept))
        ends = np.cumsum(self._kept[order])
        window_of = (ends - self._kept[order]) // self._window
        last = np.append(np.flatnonzero(np.diff(window_of)), len(order) - 1)
        return np.split(order, last[:-1] + 1), ends[last]

    def _shuffled(self, number: int, window: int, groups: NDArray[np.int64]) -> Comparisons:
        """The rows of a window, in the order in which they come."""
        with self._lock:
            if self._read is None or self._read[0] != (number, window):
                self._read = None  # two windows at once would be twice the memory
                rows = _together([self._training_rows(int(group)) for group in groups])
                # From 1: a zero at the end would make the seed that of the groups' order.
                generator = np.random.default_rng((self._seed, number, 1 + window))
                places = generator.permutation(len(rows.user))
                # `take` needs half the time of indexing.
                taken: list[Any] = [np.take(field, places) for field in rows]
                shuffled = Comparisons(*taken)
                self._read = ((number, window), shuffled)
            return self._read[1]

    def _training_rows(self, group: int) -> Comparisons:
        return without(self._shards.read(group), self._held_out.of(group))


def without(rows: Comparisons, places: NDArray[np.int64]) -> Comparisons:
    """All rows but those at some places."""
    if not len(places):
        return rows
    kept = np.ones(len(rows.user), bool)
    kept[places] = False
    return rows.select(kept)


def _together(parts: list[Comparisons]) -> Comparisons:
    fields: list[NDArray[Any]] = [np.concatenate(field) for field in zip(*parts, strict=True)]
    return Comparisons(*fields)
