"""Public data sets by name: prepared once on disk, then read into memory.

A data set is a `tensorflow_datasets` builder that writes ArrayRecord files and needs no TensorFlow.
That library is imported when a data set is loaded, not before.
"""

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paljax.data import synthetic
from paljax.data.dataset import Dataset
from paljax.data.source import Columns, DirectSource, Kind, Source, option_names
from paljax.data.sources import SOURCES
from paljax.data.synthetic import Truth
from paljax.errors import UserError, nearest

DATA_DIR_VARIABLE = "PALJAX_DATA_DIR"

_DEFAULT_DATA_DIR = Path("~/.cache/paljax/datasets")


def load(
    name: str, /, *, data_dir: str | os.PathLike[str] | None = None, **options: Any
) -> Dataset:
    """Load a public data set, preparing it first where that has not happened yet.

    Preparation is all or nothing: an interrupted one leaves no data set behind, and of two
    processes that prepare the same one the first to finish wins.

    Args:
        name: Of the data set.
        data_dir: Folder of prepared data sets. None: the environment variable PALJAX_DATA_DIR, or
            ~/.cache/paljax/datasets.
        **options: What the data set can be asked for: the fields of its `SOURCE.options`, as
            `paljax.data.synthetic.SyntheticConfig`.

    Returns:
        All comparisons or votes, in the order of the source.

    Raises:
        UserError: The name or an option is unknown, an upstream file is missing or damaged, or the
            folder cannot be written.

    Example:
        >>> from paljax.data.builders import load
        >>> dataset = load("synthetic", num_users=4, comparisons_per_user=5, temperature=1.0)
        >>> len(dataset.users), len(dataset.comparisons.user)
        (4, 20)
    """
    if name not in SOURCES:
        raise UserError(f"data set {name!r} is unknown: {nearest(name, SOURCES)}")
    source = SOURCES[name]
    chosen = _options(source, options)
    if isinstance(source, DirectSource):
        return source.load(chosen)
    builder = _prepared(source, _folder(data_dir), chosen)
    return source.dataset(_columns(builder, source.features(chosen)), chosen, _data_dir(builder))


def load_synthetic_truth(
    *, data_dir: str | os.PathLike[str] | None = None, **options: Any
) -> Truth:
    """Load what was planted in `load("synthetic", ...)` with the same arguments.

    Args:
        data_dir: As for `load`.
        **options: As for `load`.

    Returns:
        The planted truth; row u of its user arrays belongs to `Dataset.users[u]`.
    """
    source = synthetic.SOURCE
    chosen = _options(source, options)
    return synthetic.load_truth(_data_dir(_prepared(source, _folder(data_dir), chosen)))


def _options(source: Source | DirectSource, options: Mapping[str, Any]) -> Any:
    known = option_names(source)
    for option in options:
        if option not in known:
            advice = nearest(option, known) if known else "it has none"
            raise UserError(f"data set {source.name!r} has no option {option!r}: {advice}")
    return source.options(**options)


def _folder(data_dir: str | os.PathLike[str] | None) -> Path:
    given = data_dir or os.environ.get(DATA_DIR_VARIABLE) or _DEFAULT_DATA_DIR
    return Path(given).expanduser().absolute()


def _data_dir(builder: Any) -> Path:
    return Path(builder.data_dir)


def _prepared(source: Source, folder: Path, options: Any) -> Any:
    """Return a builder whose rows are on disk, in a folder that appeared there in one step.

    `tensorflow_datasets` would write to a folder named by Python's global random numbers, which
    processes with equal seeds share, so the preparation gets a folder of its own around that.
    """
    from tensorflow_datasets.core.download import DownloadConfig

    from paljax.data.builder_classes import BUILDERS, config_of

    builder_class, arguments = BUILDERS[source.name], {"config": config_of(source, options)}
    with _quiet():
        builder = _opened(builder_class, folder, arguments)
        final = Path(builder.data_dir)
        if final.is_dir():
            return builder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                dir=folder, prefix="unfinished-", ignore_cleanup_errors=True
            ) as unfinished:
                staged = builder_class(data_dir=unfinished, **arguments)
                staged.download_and_prepare(
                    download_dir=folder / "downloads",
                    download_config=DownloadConfig(extract_dir=unfinished, try_download_gcs=False),
                )
                final.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.rename(staged.data_dir, final)
                except OSError:
                    if not final.is_dir():
                        raise
                    # Another process was faster, and its rows are the same.
        except (OSError, RuntimeError) as error:  # ArrayRecord's failed writes are RuntimeErrors
            raise UserError(f"cannot prepare {final}: {_one_line(error)}") from error
        return _opened(builder_class, folder, arguments)


def _opened(builder_class: Any, folder: Path, arguments: Mapping[str, Any]) -> Any:
    try:
        return builder_class(data_dir=folder, **arguments)
    except Exception as error:
        raise _unreadable(folder / builder_class.name, error) from error


def _columns(builder: Any, kinds: Mapping[str, Kind]) -> Columns:
    """Read all rows."""
    try:
        source = builder.as_data_source(split="train")
        rows = source.__getitems__(range(len(source)))
        if any(value is None for row in rows for value in row.values()):
            # What some truncated ArrayRecord files give instead of an error.
            raise ValueError("rows are empty")
    except Exception as error:
        raise _unreadable(builder.data_dir, error) from error
    return {name: _column([row[name] for row in rows], kind) for name, kind in kinds.items()}


def _column(values: list[Any], kind: Kind) -> Any:
    if kind is str:
        return [value.decode() for value in values]
    return (
        [_column(value, kind[0]) for value in values]
        if isinstance(kind, list)
        else np.array(values)
    )


def _unreadable(path: str | Path, error: Exception) -> UserError:
    return UserError(
        f"the prepared data set in {path} cannot be read ({_one_line(error)}): "
        "remove that folder and it will be prepared again"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what `tensorflow_datasets` prints while it works; what goes wrong is raised."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
