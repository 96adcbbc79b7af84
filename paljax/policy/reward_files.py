"""Files with the rewards of a finite problem: X prompts, Y actions, K rewards.

    .json      {"rewards": [X][Y][K], "reference": [X][Y], "prompt_weights": [X]}
    .npz       arrays of the same names
    .parquet   a row an action: prompt, action (numbers from 0), rewards [K], reference, and
               prompt_weight

`reference` (probabilities) and the weights may be missing: then all actions and prompts are alike.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from paljax import storage
from paljax.errors import UserError, nearest

SUFFIXES = (".json", ".npz", ".parquet")
KEYS = ("rewards", "reference", "prompt_weights")
# How far probabilities that were written with few digits may be from summing to 1.
ROUNDING = 1e-3


class RewardTable(NamedTuple):
    """Rewards of a finite problem, checked."""

    rewards: Float[np.ndarray, "X Y K"]
    log_reference: Float[np.ndarray, "X Y"]  # -inf: the action is forbidden
    prompt_weights: Float[np.ndarray, " X"]


def read_rewards(path: Path) -> RewardTable:
    """Read a file of rewards.

    Raises:
        UserError: If the file can't be read, or its arrays are wrong; the message names the array.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{path}: unknown kind of rewards {path.suffix!r}; {nearest(path.suffix, SUFFIXES)}"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    record = {".json": _json, ".npz": _npz, ".parquet": _parquet}[path.suffix](path)
    for key in record:
        if key not in KEYS:
            raise UserError(f"{path}: unknown array {key!r}; {nearest(key, KEYS)}")
    if "rewards" not in record:
        raise UserError(f"{path}: the array 'rewards' is missing")
    return checked(str(path), *(record.get(key) for key in KEYS))


def checked(where: str, rewards: Any, reference: Any, prompt_weights: Any) -> RewardTable:
    """Check the arrays of a finite problem.

    Args:
        where: Named in errors: a file, or a section of the configuration.
        rewards: [X, Y, K].
        reference: Probabilities [X, Y], None for uniform ones.
        prompt_weights: [X], None for equal ones.

    Raises:
        UserError: If a shape is wrong or a number can't be; the first such place is named.
    """
    found = _numbers(where, "rewards", rewards, 3)
    num_prompts, num_actions, num_rewards = found.shape
    if num_actions < 2:
        raise UserError(f"{where}: rewards: {num_actions} action leaves nothing to choose")
    policy = np.full((num_prompts, num_actions), 1 / num_actions)
    if reference is not None:
        policy = _probabilities(where, "reference", reference, found.shape[:2])
    weights = np.full(num_prompts, 1 / num_prompts)
    if prompt_weights is not None:
        weights = _probabilities(where, "prompt_weights", prompt_weights, found.shape[:1])
    read = (policy > 0) & (weights[:, None] > 0)
    broken = ~np.isfinite(found) & read[:, :, None]
    if broken.any():
        x, y, k = (int(place[0]) for place in np.nonzero(broken))
        raise UserError(
            f"{where}: rewards[{x}][{y}][{k}] is {found[x, y, k]}; wanted a finite number"
        )
    for k in range(num_rewards):
        of_reward = np.where(read, found[:, :, k], np.nan)[weights > 0]
        if (np.nanmax(of_reward, axis=1) == np.nanmin(of_reward, axis=1)).all():
            raise UserError(
                f"{where}: reward {k} is the same for all actions of every prompt; it asks for "
                "nothing: leave it out"
            )
    with np.errstate(divide="ignore"):
        return RewardTable(np.where(read[:, :, None], found, 0), np.log(policy), weights)


def _numbers(where: str, name: str, values: Any, ndim: int) -> Float[np.ndarray, "..."]:
    axes = {3: "[prompts][actions][rewards]", 2: "[prompts][actions]", 1: "[prompts]"}[ndim]
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{where}: {name}: wanted numbers {axes}, every list of one length"
        ) from None
    if array.ndim != ndim or 0 in array.shape:
        raise UserError(f"{where}: {name} has shape {list(array.shape)}; wanted {axes}")
    return array


def _probabilities(where: str, name: str, values: Any, shape: Any) -> Float[np.ndarray, "..."]:
    array = _numbers(where, name, values, len(shape))
    if array.shape != tuple(shape):
        raise UserError(
            f"{where}: {name} has shape {list(array.shape)}; the rewards want {list(shape)}"
        )
    sums = array.sum(axis=-1)
    if not (np.isfinite(array).all() and (array >= 0).all() and np.allclose(sums, 1, 0, ROUNDING)):
        raise UserError(f"{where}: {name}: wanted probabilities >= 0 that sum to 1")
    return np.asarray(array / array.sum(axis=-1, keepdims=True))


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}: wanted keys {', '.join(KEYS)}; found {type(record).__name__}")
    return record


def _npz(path: Path) -> dict[str, Any]:
    try:
        # A file that NumPy opens itself stays open where it is damaged.
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.lib.npyio.NpzFile):
                with arrays:
                    return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # what the readers of archives and arrays raise has no common base
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())[:200]}") from None
    raise UserError(f"{path}: holds one array; wanted an archive of arrays by name (numpy.savez)")


def _parquet(path: Path) -> dict[str, Any]:
    columns = storage.read_table(path)
    for name in ("prompt", "action", "rewards"):
        if name not in columns:
            raise UserError(f"{path}: the column {name!r} is missing")
    prompts, actions = (_counted(path, name, columns[name]) for name in ("prompt", "action"))
    shape = (int(prompts.max()) + 1, int(actions.max()) + 1) if len(prompts) else (0, 0)
    places = list(zip(prompts.tolist(), actions.tolist(), strict=True))
    if len(set(places)) < len(places):
        raise UserError(f"{path}: every prompt and action wants one row, numbered from 0")
    if len(places) != shape[0] * shape[1] or not places:
        raise UserError(
            f"{path}: {len(places)} rows; {shape[0]} prompts of {shape[1]} actions want "
            f"{shape[0] * shape[1]}"
        )
    order = np.lexsort((actions, prompts))
    record: dict[str, Any] = {}
    rows = [columns["rewards"][place] for place in order]
    record["rewards"] = [rows[x * shape[1] : (x + 1) * shape[1]] for x in range(shape[0])]
    if "reference" in columns:
        record["reference"] = _column(path, "reference", columns)[order].reshape(shape)
    if "prompt_weight" in columns:
        weights = _column(path, "prompt_weight", columns)[order].reshape(shape)
        others = np.argwhere(weights != weights[:, :1])
        if len(others):
            x, y = others[0].tolist()
            raise UserError(
                f"{path}: prompt_weight: prompt {x} has {weights[x, 0]} at action 0 and "
                f"{weights[x, y]} at action {y}; a prompt has one weight"
            )
        record["prompt_weights"] = weights[:, 0]
    return record


def _counted(path: Path, name: str, values: list[Any]) -> NDArray[np.int64]:
    for value in values:
        whole = isinstance(value, int | float) and float(value).is_integer()
        if not (whole and 0 <= value < 2**63):
            raise UserError(f"{path}: {name}: {value!r} is no whole number from 0")
    return np.asarray(values, np.int64)


def _column(path: Path, name: str, columns: Mapping[str, list[Any]]) -> Float[np.ndarray, " N"]:
    try:
        found = np.asarray(columns[name], float)
    except (TypeError, ValueError):
        found = np.full(1, np.nan)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise UserError(f"{path}: {name}: wanted a finite number in every row")
    return found
