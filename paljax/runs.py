"""The run directory: its files, opening it, and the log of metrics."""

import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import paljax
from paljax.config import Config, parse, read_yaml
from paljax.errors import UserError
from paljax.storage import write_text

CONFIG = "config.yaml"
METRICS = "metrics.json"
METRICS_LOG = "metrics.jsonl"
ANALYSIS = "analysis.json"
MODEL = "model.json"
USERS = "users.parquet"
SPLITS = "splits.parquet"
REPORT = "report.html"
CHECKPOINTS = "checkpoints"

VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """Versions of paljax and of what it computes with."""
    return {"paljax": paljax.__version__} | {name: metadata.version(name) for name in VERSIONED}


def open_run(folder: Path, config: Config, *, resume: bool) -> None:
    """Make a run directory, or take up the run that it holds.

    Args:
        folder: The run directory.
        config: The run's configuration.
        resume: Whether a run may be continued.

    Raises:
        UserError: If the folder holds something else, another configuration, or a run that may not
            be continued, or can't be written.
    """
    record = config.model_dump(mode="json", exclude={"versions"})
    if not _is_empty(folder):
        if not (folder / CONFIG).exists():
            raise UserError(f"{folder}: is not empty and holds no run; choose another --run-dir")
        if not resume:
            raise UserError(f"{folder}: holds a run; choose another --run-dir or --resume auto")
        held = read_config(folder).model_dump(mode="json", exclude={"versions"})
        difference = first_difference(held, record)
        if difference is not None:
            key, before, now = difference
            raise UserError(
                f"{folder}: holds a run with {key}={before!r}, this one has {now!r}; "
                "choose another --run-dir"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't make the run directory ({error.strerror})") from None
    text = yaml.safe_dump(record | {"versions": versions()}, sort_keys=False, allow_unicode=True)
    write_text(folder / CONFIG, text)


def read_config(folder: Path) -> Config:
    """The configuration of a run.

    Raises:
        UserError: If the folder holds no run.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run directory")
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: is no run directory, {CONFIG} is missing")
    return parse(read_yaml(folder / CONFIG), where=str(folder / CONFIG))


def first_difference(left: Any, right: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """First key, with both values, in which two nested records differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in [*left, *(name for name in right if name not in left)]:
            inner = f"{key}.{name}" if key else str(name)
            found = first_difference(left.get(name), right.get(name), inner)
            if found:
                return found
        return None
    return None if left == right else (key, left, right)


class MetricsLog:
    """metrics.jsonl: a record an epoch, without the epochs that a killed run will repeat."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rewind(self, fit: str, epoch: int) -> None:
        """Forget the epochs of a fit after the one that its newest checkpoint holds."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _is_kept(line, fit, epoch)]
        if len(kept) < len(lines):
            write_text(self._path, "".join(kept))

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                for record in records:
                    file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"{self._path}: can't be written ({error.strerror})") from None


def _is_kept(line: str, fit: str, epoch: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False  # the run was killed while it wrote this line
    return bool(record["fit"] != fit or record["epoch"] <= epoch)


def _is_empty(folder: Path) -> bool:
    try:
        return not folder.exists() or not any(folder.iterdir())
    except NotADirectoryError:
        raise UserError(f"{folder}: is a file, wanted a run directory") from None
    except OSError as error:
        raise UserError(f"{folder}: can't be read ({error.strerror})") from None
