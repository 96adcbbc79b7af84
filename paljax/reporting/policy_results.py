"""The results of a finished policy run, read from its directory and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from paljax.errors import UserError
from paljax.reporting.numbers import Number
from paljax.reporting.results import read_checked, read_config, read_lines


class PolicyScores(BaseModel):
    """Scores of one policy."""

    utilities: dict[str, float]
    minimum: float
    mean: float
    kl: float
    value: float
    win_rates: dict[str, dict[str, float]] = {}  # by opponent, then group
    standard_errors: dict[str, Number] = {}  # None: of one prompt
    kl_standard_error: Number = None
    length: Number = None
    at_full_length: Number = None
    distinct: dict[str, float] = {}  # by n
    samples: int | None = None
    gap: Number = None
    group_weights: list[float] | None = None
    total_variation: Number = None


class PolicyFunction(BaseModel):
    """How a function of text judges the responses."""

    mean: float
    reference: float
    win_rate: float
    win_rate_standard_error: Number = None


class PolicyTexts(BaseModel):
    """What a policy of texts wrote."""

    functions: dict[str, PolicyFunction] = {}
    examples: list[dict[str, str]] = []  # prompt, policy, reference


class PolicyGroups(BaseModel):
    """Who was to be served."""

    names: list[str]
    shares: list[float]
    weights: list[float]  # at the end of training


class PolicyMetrics(BaseModel):
    """metrics.json of a policy run."""

    objective: str
    iterate: str
    beta: float
    groups: PolicyGroups
    problem: dict[str, int] = {}
    parameters: int = 0
    scores: PolicyScores
    sampled: PolicyScores
    comparisons: dict[str, PolicyScores] = {}
    texts: PolicyTexts | None = None
    remarks: list[str] = []  # what a person should know, such as prototypes that are left out
    timing: dict[str, Number] = {}


class PolicyLogged(BaseModel):
    """One line of metrics.jsonl; utilities and weights are under utility/GROUP and weight/GROUP."""

    model_config = ConfigDict(extra="allow")

    epoch: float
    step: int
    kl: float
    value: float

    def numbers(self, kind: str, names: list[str]) -> list[float]:
        """utility or weight of every group."""
        extra = self.model_extra or {}
        return [float(extra[f"{kind}/{name}"]) for name in names]


class PolicyRun(NamedTuple):
    """Everything that a report shows of one policy run."""

    folder: Path
    config: Mapping[str, Any]
    metrics: PolicyMetrics
    log: tuple[PolicyLogged, ...]


def is_policy_run(folder: Path) -> bool:
    """Whether a folder holds a run of the policy stage."""
    file = folder / "config.yaml"
    return file.is_file() and read_config(file).get("stage") == "policy"


def read_policy_run(folder: Path) -> PolicyRun:
    """Read and check a run directory of the policy stage.

    Raises:
        UserError: It has not finished, or one of its files is missing or damaged.
    """
    if not (folder / "metrics.json").exists():
        raise UserError(f"{folder}: the run has not finished: no metrics.json yet")
    metrics = read_checked(PolicyMetrics, folder / "metrics.json")
    log = read_lines(PolicyLogged, folder / "metrics.jsonl")
    for line in log:
        for kind in ("utility", "weight"):
            for name in metrics.groups.names:
                if f"{kind}/{name}" not in (line.model_extra or {}):
                    raise UserError(f"{folder / 'metrics.jsonl'}: damaged: no {kind}/{name}")
    return PolicyRun(folder, read_config(folder / "config.yaml"), metrics, log)
