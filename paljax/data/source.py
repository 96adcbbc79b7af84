"""What a public data set says of itself; `paljax.data.builders` does the rest.

A data set is one module that ends in a `SOURCE`, and a line in `paljax.data.sources`. Its options
are the fields of a dataclass, which are also the keys of its section in a configuration.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from paljax.data.dataset import Dataset
from paljax.data.upstream import UpstreamFile, find
from paljax.errors import UserError, nearest

# What a row holds under a name: `str` is a text, a NumPy type a number, (type, shape) an array, and
# a list of one of these any number of them.
Kind = Any
Row = Mapping[str, Any]
# All rows: texts as lists of str, numbers and arrays stacked, lists as lists.
Columns = dict[str, Any]


class About(NamedTuple):
    """What a data set tells the people who use it."""

    description: str
    homepage: str
    citation: str  # BibTeX, or "" where there is nothing to cite
    license: str


class Workplace(NamedTuple):
    """Where a data set is being prepared."""

    downloads: Path  # keeps downloaded upstream files
    folder: Path  # becomes the prepared data set; for what is kept beside the rows

    def find(self, file: UpstreamFile) -> Path:
        """An upstream file on this machine, its SHA-256 checked."""
        return find(file, downloads=self.downloads)


class Source(NamedTuple):
    """A data set whose rows are prepared once and kept as ArrayRecord files."""

    name: str
    version: str
    about: About
    options: type[Any]  # a dataclass; raises UserError where values do not fit
    features: Callable[[Any], dict[str, Kind]]  # of a row, for these options
    rows: Callable[[Any, Workplace], Iterable[Row]]  # finds all files before it returns
    dataset: Callable[[Columns, Any, Path], Dataset]  # from all rows and the prepared folder
    settings: tuple[tuple[str, Any], ...] = ()  # options that `tensorflow_datasets` knows by name
    # Identifies files of the user's that the rows come from; None where all files are pinned.
    fingerprint: Callable[[Any], str] | None = None


class DirectSource(NamedTuple):
    """A data set that lies in files of the user's or on a hub, and is read from there each time."""

    name: str
    about: About
    options: type[Any]
    load: Callable[[Any], Dataset]


def option_names(source: Source | DirectSource) -> tuple[str, ...]:
    """What the data set can be asked for."""
    return tuple(field.name for field in dataclasses.fields(source.options))


def config_name(source: Source, options: Any) -> str:
    """The name that keeps differently asked data sets apart on disk."""
    values = dataclasses.asdict(options)
    identity = dict(values)
    if source.fingerprint is not None:
        identity["fingerprint"] = source.fingerprint(options)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    first = next(iter(values.values()))
    if not isinstance(first, str):
        return digest
    return f"{re.sub(r'[^A-Za-z0-9.]+', '_', first)[-40:].strip('_')}-{digest}"


# ---- Checks of options


def require_choice(source: str, name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices."""
    choices = tuple(choices)
    if value not in choices:
        raise UserError(f"{source}: {name} {value!r} is unknown: {nearest(value, choices)}")


def require_whole(source: str, name: str, value: object, *, least: int) -> None:
    """Refuse what is not a whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{source}: {name} is {value!r}, wanted a whole number from {least}")


def require_number(source: str, name: str, value: object, *, or_zero: bool = False) -> None:
    """Refuse what is not a finite number above 0, or 0 where that is allowed."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not or_zero):  # type: ignore[operator]
        wanted = "a number from 0" if or_zero else "a number above 0"
        raise UserError(f"{source}: {name} is {value!r}, wanted {wanted}")
