"""The results of a finished run, read from its directory and checked.

What a run directory holds is fixed by the design: config.yaml, metrics.json, metrics.jsonl,
users.parquet, analysis.json, and splits.parquet. Whatever is missing or damaged is told as a
`UserError` that names the file and what is wrong with it. K prototypes, U users.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml
from jaxtyping import Float
from pydantic import BaseModel, Field, ValidationError

from paljax.errors import UserError
from paljax.reporting.audit_results import Audit
from paljax.reporting.group_results import CommonGround, Gap, Group, UserGains
from paljax.reporting.numbers import Fraction, Number

SHARED_REWARD = "bradley_terry"  # the baseline that every report compares with


Model = TypeVar("Model", bound=BaseModel)


class Scores(BaseModel):
    """One model's scores on one set of comparisons, with 95 % intervals by name of the score."""

    accuracy: Fraction = None
    accuracy_macro_user: Fraction = None
    accuracy_worst_group: Fraction = None
    accuracy_p10_user: Fraction = None
    nll: Number = None
    ece: Fraction = None
    n: int = Field(ge=0)
    n_users: int = Field(ge=0)
    support_per_user: Number = None  # comparisons that new users gave, on average
    intervals: dict[str, tuple[Number, Number] | None] = {}


class Baseline(BaseModel):
    """A baseline's scores on seen users' held-out comparisons, and on unseen users by shots."""

    test: Scores
    unseen: dict[int, Scores] = {}


class Difference(BaseModel):
    """Accuracy minus that of the shared reward on the same comparisons, paired within users."""

    accuracy: Number = None
    interval: tuple[Number, Number] | None = None


class Gain(BaseModel):
    """The gain over the shared reward on seen users' held-out comparisons."""

    test: Difference


class Tried(BaseModel):
    """A prior strength that was tried on validation data."""

    prior_strength: Number = None
    validation_nll: Number = None
    validation_accuracy: Fraction = None


class Candidate(Tried):
    """A model that was tried on validation data."""

    num_prototypes: int


class Joining(BaseModel):
    """The prior strength of people who join, and what validation users say of each."""

    prior_strength: Number = None
    candidates: list[Tried] = []
    num_users: int = 0


class Selection(BaseModel):
    """The number of prototypes and the prior strength that validation data chose."""

    personal: bool = True  # False: validation data left it open whether people differ
    num_prototypes: int
    prior_strength: Number = None
    candidates: list[Candidate] = []
    joining: Joining = Joining()


class Metrics(BaseModel):
    """metrics.json."""

    model: str
    parameters: dict[str, int] = {}
    test: Scores
    unseen: dict[int, Scores] = {}
    gain: Gain | None = None
    baselines: dict[str, Baseline] = {}
    before_refit: dict[str, Baseline] = {}
    timing: dict[str, Number] = {}
    selection: Selection | None = None
    data: dict[str, Any] = {}
    audit: Audit | None = None
    groups: str = "group"

    @property
    def shared(self) -> Baseline | None:
        """Return the shared reward that the run's model is compared with, if it is another."""
        alone = self.selection is not None and not self.selection.personal
        return None if alone or self.model == SHARED_REWARD else self.baselines.get(SHARED_REWARD)


class Bin(BaseModel):
    """Comparisons of similar confidence."""

    confidence: float = Field(ge=0, le=1)
    accuracy: float = Field(ge=0, le=1)
    n: int = Field(ge=0)


class Liked(BaseModel):
    """An item and its reward, in nats."""

    item: str
    reward: float


class Prototype(BaseModel):
    """What one prototype wants; `share` is its mean weight over seen users."""

    share: float = Field(ge=0, le=1.0001)
    effects: dict[str, float] = {}
    most_preferred: list[Liked] = []
    least_preferred: list[Liked] = []


class Matching(BaseModel):
    """The data's own labels beside the prototypes, matched one to one."""

    labels: list[str]
    label_of: list[str | None]  # by prototype
    counts: list[list[int]]  # people, by prototype and label
    matched: int = Field(ge=0)
    people: int = Field(ge=0)


class Membership(BaseModel):
    """Whose strongest prototype is which."""

    exclusive: bool = False  # each person is in one group, and weights are probabilities
    users: list[int] = []  # seen people, by their strongest prototype
    matching: Matching | None = None


class Analysis(BaseModel):
    """analysis.json: what the figures need beyond metrics.json."""

    calibration: dict[str, list[Bin]] = {}
    population: list[float]
    attributes: list[str] = []
    effect_unit: str = "nats per standard deviation"
    shared_effects: dict[str, float] = {}
    prototypes: list[Prototype] = []
    membership: Membership = Membership()
    common_ground: CommonGround | None = None
    groups: list[Group] = []
    gaps: dict[str, Gap] = {}  # by model
    user_gains: UserGains | None = None


class Logged(BaseModel):
    """One line of metrics.jsonl."""

    fit: str
    step: int = 0
    epoch: Number = None
    loss: Number = None
    validation_loss: Number = None


class Users(NamedTuple):
    """users.parquet, a row a user."""

    user_id: tuple[str, ...]
    unseen: np.ndarray  # bool [U]: not trained on
    weights: Float[np.ndarray, "U K"]
    accuracy: Float[np.ndarray, " U"]  # NaN: no held-out comparison


class Run(NamedTuple):
    """Everything that a report shows of one run."""

    folder: Path
    config: Mapping[str, Any]
    metrics: Metrics
    analysis: Analysis
    log: tuple[Logged, ...]
    users: Users
    splits: Mapping[str, tuple[int, int]]  # comparisons and users of each split

    @property
    def dataset(self) -> str:
        """Return the data set's name."""
        data = self.config.get("data")
        return str(data.get("name") or "comparisons") if isinstance(data, dict) else "comparisons"


def read_run(folder: Path) -> Run:
    """Read and check a run directory.

    Raises:
        UserError: It is not a run directory, or one of its files is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: not a run directory: there is no such folder")
    if not (folder / "metrics.json").exists():
        known = "config.yaml" if (folder / "config.yaml").exists() else None
        why = "the run has not finished: no metrics.json yet" if known else "no metrics.json in it"
        raise UserError(f"{folder}: not a finished run directory: {why}")
    run = Run(
        folder=folder,
        config=read_config(folder / "config.yaml"),
        metrics=read_checked(Metrics, folder / "metrics.json"),
        analysis=read_checked(Analysis, folder / "analysis.json"),
        log=read_lines(Logged, folder / "metrics.jsonl"),
        users=_users(folder / "users.parquet"),
        splits=_splits(folder / "splits.parquet"),
    )
    _check_prototypes(run)
    return run


def _check_prototypes(run: Run) -> None:
    wanted = run.users.weights.shape[1]
    file = run.folder / "analysis.json"
    if len(run.analysis.population) != wanted:
        found = len(run.analysis.population)
        raise UserError(f"{file}: population has {found} weights, users.parquet has {wanted}")
    if run.analysis.prototypes and len(run.analysis.prototypes) != wanted:
        found = len(run.analysis.prototypes)
        raise UserError(f"{file}: it describes {found} prototypes, users.parquet has {wanted}")
    ground = run.analysis.common_ground
    if ground is not None and any(len(item.rewards) != wanted for item in ground.all_items):
        raise UserError(f"{file}: common_ground: wanted {wanted} rewards of every item")
    named = [run.analysis.shared_effects, *(p.effects for p in run.analysis.prototypes)]
    for effects in named:
        missing = set(run.analysis.attributes) - set(effects)
        if effects and missing:
            raise UserError(f"{file}: no effect of attribute {min(missing)!r}")


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error


def _parsed(model: type[Model], file: Path, text: bytes, where: str = "") -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ": ".join(filter(None, [where, ".".join(map(str, first["loc"]))]))
        raise UserError(
            f"{file}: {key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from error


def read_checked(model: type[Model], file: Path) -> Model:
    """Read a JSON file as what it should hold."""
    return _parsed(model, file, _bytes(file))


def read_config(file: Path) -> Mapping[str, Any]:
    """Read config.yaml as it is."""
    try:
        config = yaml.safe_load(_bytes(file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file}: not a configuration: the top level is no mapping")
    return config


def read_lines(model: type[Model], file: Path) -> tuple[Model, ...]:
    """Read a file of JSON lines, each as what it should hold."""
    lines = enumerate(_bytes(file).splitlines(), start=1)
    return tuple(_parsed(model, file, line, f"line {n}") for n, line in lines if line.strip())


def _table(file: Path, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        reason = "there is no such file" if not file.exists() else str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be read: {reason}") from error
    for column in columns:
        if column not in table.column_names:
            raise UserError(f"{file}: it has no column {column!r}")
    return {column: table[column].to_pylist() for column in columns}


def _users(file: Path) -> Users:
    table = _table(file, ("user_id", "role", "weights", "accuracy"))
    unknown = sorted({str(role) for role in table["role"]} - {"seen", "unseen"})
    if unknown:
        raise UserError(f"{file}: role is {unknown[0]!r}, wanted 'seen' or 'unseen'")
    try:
        weights = np.array(table["weights"], dtype=float)
    except (TypeError, ValueError):
        weights = np.array([])
    if weights.ndim != 2 or not weights.size:
        raise UserError(f"{file}: weights must be lists of one length, one list a user")
    off = ~(np.isfinite(weights).all(axis=1) & (np.abs(weights.sum(axis=1) - 1) < 1e-3))
    if off.any():
        user = table["user_id"][int(off.argmax())]
        raise UserError(f"{file}: the weights of user {user!r} do not sum to one")
    return Users(
        user_id=tuple(map(str, table["user_id"])),
        unseen=np.array([role == "unseen" for role in table["role"]]),
        weights=weights,
        accuracy=np.array([math.nan if a is None else a for a in table["accuracy"]], dtype=float),
    )


def _splits(file: Path) -> Mapping[str, tuple[int, int]]:
    if not file.exists():
        return {}
    table = _table(file, ("split", "user_id"))
    members: dict[str, list[str]] = {}
    for split, user in zip(table["split"], table["user_id"], strict=True):
        members.setdefault(str(split), []).append(str(user))
    order = {"train": 0, "validation": 1, "refit": 2, "test": 3, "support": 4, "query": 5}
    names = sorted(members, key=lambda split: (order.get(split, len(order)), split))
    return {split: (len(members[split]), len(set(members[split]))) for split in names}


def dropped_rows(metrics: Metrics) -> dict[str, int]:
    """Return the rows that were skipped, by reason."""
    dropped = metrics.data.get("dropped", {})
    if isinstance(dropped, Mapping):
        return {str(reason): int(count) for reason, count in dropped.items() if count}
    return {"skipped": int(dropped)} if isinstance(dropped, int) and dropped else {}


def encoding_remarks(metrics: Metrics) -> dict[str, int]:
    """Return how many items and prompts could not be encoded as they are, by reason."""
    remarks = metrics.data.get("encoding", {})
    if not isinstance(remarks, Mapping):
        return {}
    return {str(what): int(count) for what, count in remarks.items() if count}


def config_values(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten a configuration to `key.path: value`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= config_values(value, f"{prefix}{key}.")
        else:
            written = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[f"{prefix}{key}"] = written
    return flat
