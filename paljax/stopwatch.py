"""How long fits take: compiling, and epochs after it."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from paljax.loop import Log


class Pace(NamedTuple):
    """Time of one fit in this process; a resumed fit counts from its resumption."""

    compile_s: float  # what the first epoch took beyond the median of the others
    train_s: float  # all epochs, without that
    comparisons: int  # comparisons that the epochs went through


class Stopwatch:
    """A log that also notes when every epoch ended.

    Args:
        log: Where records go.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._times = [time.perf_counter()]

    def rewind(self, fit: str, epoch: int) -> None:
        """Pass on, and start the clock."""
        self._log.rewind(fit, epoch)
        self._times = [time.perf_counter()]

    def append(self, record: Mapping[str, Any]) -> None:
        """Pass on, and note the time where an epoch has ended."""
        self._log.append(record)
        if record["epoch"] % 1 == 0:
            self._times.append(time.perf_counter())

    def pace(self, comparisons_per_epoch: int) -> Pace:
        """What has been noted since the clock started."""
        epochs = [end - start for start, end in zip(self._times, self._times[1:], strict=False)]
        if not epochs:
            return Pace(0.0, 0.0, 0)
        usual = statistics.median(epochs[1:]) if len(epochs) > 1 else epochs[0]
        compile_s = max(epochs[0] - usual, 0.0)
        return Pace(compile_s, sum(epochs) - compile_s, comparisons_per_epoch * len(epochs))


def timing(paces: Sequence[Pace]) -> dict[str, float]:
    """compile_s and train_s in seconds, and comparisons_per_s, over all fits of a run."""
    train_s = sum(pace.train_s for pace in paces)
    comparisons = sum(pace.comparisons for pace in paces)
    return {
        "compile_s": sum(pace.compile_s for pace in paces),
        "train_s": train_s,
        "comparisons_per_s": comparisons / train_s if train_s else 0.0,
    }
