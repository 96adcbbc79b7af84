"""Rows that break a rule: what is kept of them, where they stand, and when they are refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paljax.data.formats import RowError, shortened
from paljax.errors import UserError


class BadRows:
    """The first fault of every bad row of some files, whose rows are counted through.

    Attributes:
        rows: Of all files together.
    """

    def __init__(
        self, paths: Sequence[Path], rows: Sequence[int], names: Mapping[str, str]
    ) -> None:
        """Begin without any.

        Args:
            paths: The files.
            rows: How many each has.
            names: What the files call each of our columns.
        """
        self._paths, self._starts = paths, np.cumsum([0, *rows])
        self.rows = sum(rows)
        self._names = names
        self._first: dict[int, tuple[RowError, str]] = {}  # fault, place and value as shown

    def add(self, row: int, bad: RowError, column: str | None = None, value: object = None) -> None:
        """Keep a fault of a row, unless it has one; `column` is ours."""
        if row not in self._first:
            place = "" if column is None else f", column {self._names[column]!r}"
            shown = "" if value is None else f": {shortened(value)}"
            self._first[row] = bad.with_traceback(None), place + shown

    def counts(self) -> dict[str, int]:
        """Count the bad rows by reason."""
        return dict(Counter(bad.reason for bad, _ in self._first.values()))

    def good_rows(self, on_bad_row: str) -> NDArray[np.bool_]:
        """Mark the rows without a fault.

        Raises:
            UserError: Where bad rows are an error, or all there is; names the first one's file, row
                in it, and fault.
        """
        good = np.ones(self.rows, np.bool_)
        good[list(self._first)] = False
        if self._first and (on_bad_row == "error" or not good.any()):
            row = min(self._first)
            bad, place = self._first[row]
            file = int(np.searchsorted(self._starts, row, side="right")) - 1
            where = f"{self._paths[file]}: row {row - self._starts[file] + 1}{place}"
            others = ", ".join(f"{count} {reason}" for reason, count in self.counts().items())
            total = f" ({len(self._first)} of {self.rows} rows are bad: {others})"
            raise UserError(f"{where}: {bad}{total if len(self._first) > 1 else ''}")
        return good
