"""The run directory: its files, opening it, and the log of metrics."""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

import paljax
from paljax.config import Config, RunConfig, parse, read_yaml
from paljax.data.splits import OF_SEEN
from paljax.errors import UserError
from paljax.locking import LOCK
from paljax.storage import (
    Table,
    is_draft,
    read_json,
    read_table,
    remove_drafts,
    write_json,
    write_table,
    write_text,
)

CONFIG = "config.yaml"
METRICS = "metrics.json"
METRICS_LOG = "metrics.jsonl"
ANALYSIS = "analysis.json"
MODEL = "model.json"
USERS = "users.parquet"
POLICY = "policy.parquet"
WEIGHTS = "weights.npy"
INPUTS = "inputs.json"
SAMPLES = "samples.parquet"
LANGUAGE_MODEL = "model"
SPLITS = "splits.parquet"
REPORT = "report.html"
CHECKPOINTS = "checkpoints"

# Parts that a run's weights are fitted to, or that choose among its fits.
LEARNED_FROM = (*OF_SEEN, "support")

VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """Versions of paljax and of what it computes with."""
    return {"paljax": paljax.__version__} | {name: metadata.version(name) for name in VERSIONED}


def require_usable(folder: Path, config: RunConfig, *, resume: bool) -> None:
    """Refuse a run directory that is in use for something else.

    Args:
        folder: The run directory.
        config: The run's configuration.
        resume: Whether a run may be continued.

    Raises:
        UserError: If the folder holds something else, another configuration, or a run that may not
            be continued.
    """
    if _is_empty(folder):
        return
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: is not empty and holds no run; choose another --run-dir")
    if not resume:
        raise UserError(f"{folder}: holds a run; choose another --run-dir or --resume auto")
    held, wanted = _record(read_config(folder)), _record(config)
    for record in (held, wanted):
        # A run may go on with other devices, as long as its users stay in their blocks.
        if "parallel" in record:
            record["parallel"] = {"blocks": record["parallel"].get("blocks")}
    difference = first_difference(held, wanted)
    if difference is not None:
        key, before, now = difference
        raise UserError(
            f"{folder}: holds a run with {key}={before!r}, this one has {now!r}; "
            "choose another --run-dir"
        )


def with_blocks(folder: Path, config: Config, num_devices: int) -> Config:
    """Give users the blocks that the run began with, or one a device where it begins."""
    if config.parallel.blocks is not None:
        return config
    begun = None if _is_empty(folder) or not (folder / CONFIG).exists() else read_config(folder)
    blocks = begun.parallel.blocks if isinstance(begun, Config) else None
    parallel = config.parallel.model_copy(update={"blocks": blocks or num_devices})
    return config.model_copy(update={"parallel": parallel})


def require_same_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    """Refuse to go on with other data than a run began with.

    Args:
        folder: The run directory; `require_usable` has had nothing against it.
        inputs: Digests of what the run reads, by key of the configuration.

    Raises:
        UserError: Names the first key whose data are others.
    """
    path = folder / INPUTS
    if not path.exists():
        if inputs and (folder / CHECKPOINTS).exists():
            raise UserError(
                f"{folder}: holds a run that did not record what it reads; choose another --run-dir"
            )
        return
    held = read_json(path)
    if not isinstance(held, dict):
        raise UserError(f"{path}: damaged: wanted digests by key")
    difference = first_difference(held, dict(inputs))
    if difference is not None:
        raise UserError(
            f"{path}: what {difference[0]} names is not what the run began with; choose another "
            "--run-dir"
        )


def open_run(folder: Path, config: RunConfig, inputs: Mapping[str, str] | None = None) -> None:
    """Make a run directory, or clear the one that is there of files that a kill left half-written.

    Args:
        folder: The run directory; `require_usable` has had nothing against it.
        config: The run's configuration.
        inputs: What `require_same_inputs` has had nothing against; None where a run records in
            another way what it reads.

    Raises:
        UserError: If the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't make the run directory ({error.strerror})") from None
    remove_drafts(folder)
    if not (folder / CONFIG).exists():
        record = _record(config) | {"versions": versions()}
        text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
        write_text(folder / CONFIG, text)
    if inputs is not None and not (folder / INPUTS).exists():
        write_json(folder / INPUTS, dict(inputs))


def record_splits(folder: Path, splits: Table) -> None:
    """Write where every comparison went, or see that a run goes on with the comparisons it had.

    Raises:
        UserError: If the comparisons or their split have changed since the run began: what was
            trained on could then be scored.
    """
    path = folder / SPLITS
    if not path.exists():
        write_table(path, splits)
        return
    held = read_table(path)
    for name, values in splits.columns.items():
        if held.get(name) != np.asarray(values).tolist():
            raise UserError(
                f"{path}: the comparisons are not those that the run began with (column {name!r} "
                "differs); choose another --run-dir"
            )


class Learned(NamedTuple):
    """Identities of what a run has learned from or was chosen by; see `paljax.data.identities`."""

    comparisons: frozenset[str]  # with their prompts, or without, as the model reads them
    votes: frozenset[str]  # empty where the run's data were no votes
    tasks: frozenset[str]  # empty where choice tasks had no names


def read_learned(folder: Path, *, with_prompts: bool) -> Learned:
    """What a run has learned from: its training, validation and support parts.

    Args:
        folder: Of the run.
        with_prompts: Whether its model reads prompts; else one comparison under two prompts is one.

    Raises:
        UserError: If the run does not say.
    """
    table = read_table(folder / SPLITS)
    name = "comparison" if with_prompts else "comparison_without_prompt"
    # Without the second column a run is of before, when texts had other identities.
    missing = {"split", "comparison", "comparison_without_prompt"} - table.keys()
    if missing:
        raise UserError(f"{folder / SPLITS}: has no column {min(missing)!r}; train again")
    learned = np.isin(table["split"], LEARNED_FROM)

    def of(*columns: str) -> frozenset[str]:
        held = (np.array(table.get(column, []), object) for column in columns)
        found = frozenset().union(*(column[learned] for column in held if len(column)))
        return found - {None}

    return Learned(of(name), of("chosen_vote", "rejected_vote"), of("named_task"))


def read_config(folder: Path) -> RunConfig:
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


def _record(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"versions"})


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

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"{self._path}: can't be written ({error.strerror})") from None


class NoLog:
    """The log of a process whose records another process writes."""

    def rewind(self, fit: str, epoch: int) -> None:
        """Nothing is held."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Nothing is kept."""


def _is_kept(line: str, fit: str, epoch: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False  # the run was killed while it wrote this line
    return bool(record["fit"] != fit or record["epoch"] <= epoch)


def _is_empty(folder: Path) -> bool:
    try:
        return not folder.exists() or all(
            path.name == LOCK or is_draft(path) for path in folder.iterdir()
        )
    except NotADirectoryError:
        raise UserError(f"{folder}: is a file, wanted a run directory") from None
    except OSError as error:
        raise UserError(f"{folder}: can't be read ({error.strerror})") from None
