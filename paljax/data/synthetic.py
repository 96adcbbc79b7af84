"""Comparisons whose truth is known: planted users, prototypes and projector.

K prototypes p_k and users u = Σ_k w_k p_k live in a latent space of d numbers; an item x of D
numbers gets from a user the reward

    r(x) = -s ‖f(x) - u‖²

and of two items the first is chosen with probability σ((r(first) - r(second)) / temperature). What
is planted is written beside the rows, so that an experiment can say how much of it was recovered.

The problems are those of PAL's synthetic study (arXiv 2406.08469, section 4): partition and mixture
settings, normal items. Three choices are ours and make every seed a problem worth solving.

- The prototypes are the corners of a regular simplex around the items' mean f(x), `separation`
  times as far from it as an item is (root mean square). Random prototypes would now and then lie
  close together, and then nothing could tell their groups apart. At the default, 1.5, the reward of
  the mean user predicts 67 % (partition) or 80 % (mixture) of the noise-free choices.
- The scale s gives the margins a standard deviation of 3 nats over all users and comparisons, so
  that at temperature 1 the best possible prediction is right about 4 times in 5.
- A linear projector has independent normal entries, so that some directions matter more than
  others; a rotation would make ‖f(x)‖² = ‖x‖² and leave nothing of f to learn.
"""

import dataclasses
import itertools
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from paljax.data.dataset import Dataset, assemble
from paljax.data.source import (
    About,
    Columns,
    Kind,
    Row,
    Source,
    Workplace,
    require_choice,
    require_number,
    require_whole,
)
from paljax.errors import UserError
from paljax.ranges import Count, NonNegativeFloat, PositiveFloat, PositiveInt

Setting = Literal["partition", "mixture"]
Projector = Literal["linear", "mlp", "identity"]

TRUTH_FILE = "truth.npz"

# Standard deviation of the margins at temperature 1, in nats.
_MARGIN_DEVIATION = 3.0

# Items and pairs that fix the prototypes' distance and the scale: 1 % precise, a few milliseconds.
_CALIBRATION_PAIRS = 8192


@dataclasses.dataclass(kw_only=True)
class SyntheticConfig:
    """What to plant. Equal fields give equal data, on every machine.

    Attributes:
        setting: "partition" puts every user on one prototype, in groups of equal size; "mixture"
            draws every user's weights from a Dirichlet distribution.
        num_users: Users, U.
        comparisons_per_user: Comparisons of each user.
        num_prototypes: Prototypes, K*; at most latent_width + 1.
        width: Numbers an item has, D.
        latent_width: Width of the latent space, d.
        separation: Distance of the prototypes from the items' mean, in root mean square distances
            of an item.
        concentration: Of the Dirichlet distribution, the same for every prototype; mixture only.
        projector: f: "linear", "mlp" (one hidden layer of the latent width, ReLU) or "identity".
        temperature: Of the logistic choice; 0 chooses the item with the higher reward.
        num_items: Size of the pool from which every comparison draws two different items; None
            makes two fresh items for every comparison.
        seed: Of everything random.
    """

    setting: Setting = "partition"
    num_users: PositiveInt = 100
    comparisons_per_user: PositiveInt = 100
    num_prototypes: PositiveInt = 3
    width: PositiveInt = 16
    latent_width: PositiveInt = 16
    separation: PositiveFloat = 1.5
    concentration: PositiveFloat = 1.0
    projector: Projector = "linear"
    temperature: NonNegativeFloat = 0.0
    num_items: Annotated[int, Ge(2)] | None = None
    seed: Count = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_fields(self)
        for name in ("separation", "concentration", "temperature"):
            setattr(self, name, float(getattr(self, name)))  # 1 and 1.0 are one data set


class Truth(NamedTuple):
    """What was planted."""

    user_weights: NDArray[np.float64]  # [U, K] on the simplex
    user_points: NDArray[np.float64]  # [U, d]
    prototypes: NDArray[np.float64]  # [K, d]
    projector: tuple[NDArray[np.float64], ...]  # (), ([D, d],) or ([D, d], [d, d])
    scale: float  # s, nats a squared latent distance
    temperature: float
    bayes_accuracy: float  # of predicting the choices with the truth in hand


class Choices(NamedTuple):
    """The planted users' comparisons: U users, n comparisons each, by user and in this order."""

    chosen: NDArray[np.float32]  # [U, n, D]
    rejected: NDArray[np.float32]  # [U, n, D]
    margins: NDArray[np.float64]  # [U, n] reward(chosen) - reward(rejected), before the temperature


def project(projector: tuple[NDArray[np.float64], ...], items: NDArray[Any]) -> NDArray[np.float64]:
    """Map items [..., D] to the latent space [..., d] by a planted projector f."""
    latent = np.asarray(items, np.float64)
    for layer, matrix in enumerate(projector):
        latent = (latent if layer == 0 else np.maximum(latent, 0.0)) @ matrix
    return latent


def rewards(
    truth: Truth, items: NDArray[Any], user_points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rewards [...] of items [..., D] for users at `user_points`, which broadcast to [..., d]."""
    return -truth.scale * _squared_distances(truth.projector, items, user_points)


def plant(config: SyntheticConfig) -> tuple[Truth, Choices]:
    """Plant users, prototypes and a projector, and let the users choose.

    Args:
        config: What to plant.

    Returns:
        The truth, and the choices that follow from it.
    """
    projector = _projector(config)
    user_weights = _user_weights(config)
    pairs = _stream(config, "calibration").standard_normal((2, _CALIBRATION_PAIRS, config.width))

    latent = project(projector, pairs)
    mean = latent.mean((0, 1))
    item_radius = np.sqrt(np.square(latent - mean).sum(-1).mean())
    prototypes = mean + config.separation * item_radius * _simplex(config)
    user_points = user_weights @ prototypes

    # Pair i goes to user i mod U: the deviation is over users as well as over items.
    points = user_points[np.arange(_CALIBRATION_PAIRS) % config.num_users]
    first, second = _squared_distances(projector, pairs, points)
    scale = float(_MARGIN_DEVIATION / (second - first).std())

    choices, bayes_accuracy = _choose(config, projector, user_points, scale)
    truth = Truth(
        user_weights=user_weights,
        user_points=user_points,
        prototypes=prototypes,
        projector=projector,
        scale=scale,
        temperature=config.temperature,
        bayes_accuracy=bayes_accuracy,
    )
    return truth, choices


def load_truth(folder: str | os.PathLike[str]) -> Truth:
    """Read what was planted.

    Args:
        folder: Of the prepared data set, `builder.data_dir`.

    Returns:
        The truth. Rows of `user_weights` and `user_points` are in the order of the user ids
        "user0000", "user0001", ..., which is also their order in `Dataset.users`.

    Raises:
        UserError: The folder holds no synthetic data set.
    """
    path = Path(folder) / TRUTH_FILE
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}): wanted a synthetic data set") from error
    layers = sum(name.startswith("projector") for name in arrays)
    return Truth(
        user_weights=arrays["user_weights"],
        user_points=arrays["user_points"],
        prototypes=arrays["prototypes"],
        projector=tuple(arrays[f"projector{layer}"] for layer in range(layers)),
        scale=float(arrays["scale"]),
        temperature=float(arrays["temperature"]),
        bayes_accuracy=float(arrays["bayes_accuracy"]),
    )


def _stream(config: SyntheticConfig, name: str) -> np.random.Generator:
    """Give each part of the problem randomness of its own, whatever the other parts draw."""
    return np.random.default_rng([config.seed, *name.encode()])


def _orthonormal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormalise columns; the sign is fixed, since LAPACKs differ in it."""
    columns, triangle = np.linalg.qr(matrix)
    return np.asarray(columns * np.sign(np.diag(triangle)), np.float64)


def _simplex(config: SyntheticConfig) -> NDArray[np.float64]:
    """Corners [K, d] of a regular simplex on the unit sphere, turned at random."""
    corners = config.num_prototypes
    draws = _stream(config, "prototypes")
    if corners == 1:
        return _unit(draws.standard_normal((1, config.latent_width)))
    centered = np.eye(corners) - 1.0 / corners
    flat = centered @ _orthonormal(centered[:, :-1])  # [K, K - 1]: the plane of the corners
    return _unit(flat @ _orthonormal(draws.standard_normal((config.latent_width, corners - 1))).T)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


def _user_weights(config: SyntheticConfig) -> NDArray[np.float64]:
    draws = _stream(config, "users")
    if config.setting == "partition":
        groups = draws.permutation(np.arange(config.num_users) % config.num_prototypes)
        one_hot: NDArray[np.float64] = np.eye(config.num_prototypes)[groups]
        return one_hot
    concentrations = np.full(config.num_prototypes, config.concentration)
    return draws.dirichlet(concentrations, size=config.num_users)


def _projector(config: SyntheticConfig) -> tuple[NDArray[np.float64], ...]:
    if config.projector == "identity":
        return ()
    draws = _stream(config, "projector")
    widths = [config.width, config.latent_width]
    if config.projector == "mlp":
        widths.append(config.latent_width)
    return tuple(
        draws.standard_normal((inner, outer)) / np.sqrt(inner)
        for inner, outer in itertools.pairwise(widths)
    )


def _squared_distances(
    projector: tuple[NDArray[np.float64], ...], items: NDArray[Any], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    squared: NDArray[np.float64] = np.square(project(projector, items) - points).sum(-1)
    return squared


def _choose(
    config: SyntheticConfig,
    projector: tuple[NDArray[np.float64], ...],
    user_points: NDArray[np.float64],
    scale: float,
) -> tuple[Choices, float]:
    """Show every user pairs of items; return what they choose and the Bayes-optimal accuracy."""
    first, second = _pairs(config)
    points = user_points[:, None, :]
    margins = scale * (
        _squared_distances(projector, second, points) - _squared_distances(projector, first, points)
    )
    if config.temperature == 0.0:
        takes_first = margins > 0.0
        bayes_accuracy = 1.0
    else:
        # σ(m) by way of tanh, which does not overflow.
        first_probability = 0.5 * (1.0 + np.tanh(0.5 * margins / config.temperature))
        takes_first = _stream(config, "choices").random(margins.shape) < first_probability
        bayes_accuracy = float(np.maximum(first_probability, 1.0 - first_probability).mean())
    choices = Choices(
        chosen=np.where(takes_first[..., None], first, second),
        rejected=np.where(takes_first[..., None], second, first),
        margins=np.where(takes_first, margins, -margins),
    )
    return choices, bayes_accuracy


def _pairs(config: SyntheticConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw two different items [U, n, D] for every comparison, rounded as they are stored."""
    shape = (config.num_users, config.comparisons_per_user)
    draws = _stream(config, "items")
    if config.num_items is None:
        fresh = draws.standard_normal((2, *shape, config.width)).astype(np.float32)
        return fresh[0], fresh[1]
    pool = draws.standard_normal((config.num_items, config.width)).astype(np.float32)
    first = draws.integers(config.num_items, size=shape)
    second = (first + draws.integers(1, config.num_items, size=shape)) % config.num_items
    return pool[first], pool[second]


def _save_truth(truth: Truth, folder: Path) -> None:
    arrays = truth._asdict()
    layers = arrays.pop("projector")
    arrays |= {f"projector{layer}": matrix for layer, matrix in enumerate(layers)}
    np.savez(folder / TRUTH_FILE, **arrays)


def _check_fields(config: SyntheticConfig) -> None:
    for name, choices in (("setting", get_args(Setting)), ("projector", get_args(Projector))):
        require_choice("synthetic", name, getattr(config, name), choices)
    sizes = ("num_users", "comparisons_per_user", "num_prototypes", "width", "latent_width")
    least = dict.fromkeys(sizes, 1) | {"seed": 0}
    if config.num_items is not None:
        least["num_items"] = 2
    for name, smallest in least.items():
        require_whole("synthetic", name, getattr(config, name), least=smallest)
    for name in ("separation", "concentration", "temperature"):
        require_number("synthetic", name, getattr(config, name), or_zero=name == "temperature")
    if config.num_prototypes > config.latent_width + 1:
        raise UserError(
            f"synthetic: num_prototypes {config.num_prototypes} do not fit into latent_width "
            f"{config.latent_width}: wanted at most latent_width + 1"
        )
    if config.projector == "identity" and config.width != config.latent_width:
        raise UserError(
            f"synthetic: the identity projector wants latent_width equal to width, "
            f"got {config.latent_width} and {config.width}"
        )


def _features(config: SyntheticConfig) -> dict[str, Kind]:
    item = (np.float32, (config.width,))
    features = {"user_id": str, "chosen": item, "rejected": item, "task_id": np.int32}
    return features | ({"group": str} if config.setting == "partition" else {})


def _rows(config: SyntheticConfig, place: Workplace) -> Iterator[Row]:
    truth, choices = plant(config)
    _save_truth(truth, place.folder)
    return _comparisons(config, truth, choices)


def _comparisons(config: SyntheticConfig, truth: Truth, choices: Choices) -> Iterator[Row]:
    groups = truth.user_weights.argmax(1)
    grouped = config.setting == "partition"
    for task, (user, comparison) in enumerate(np.ndindex(choices.margins.shape)):
        row = {
            "user_id": f"user{user:04d}",
            "chosen": choices.chosen[user, comparison],
            "rejected": choices.rejected[user, comparison],
            "task_id": task,
        }
        yield row | ({"group": f"prototype {groups[user]}"} if grouped else {})


def _dataset(columns: Columns, config: SyntheticConfig, folder: Path) -> Dataset:
    truth = load_truth(folder)
    return assemble(
        columns["user_id"],
        columns["chosen"],
        columns["rejected"],
        task_id=[str(task) for task in columns["task_id"]],
        group=columns.get("group"),
        facts={
            "bayes_accuracy": truth.bayes_accuracy,
            "temperature": truth.temperature,
            "setting": config.setting,
            "num_prototypes": len(truth.prototypes),
        },
    )


SOURCE = Source(
    name="synthetic",
    version="1.0.0",
    about=About(
        description=(
            "Comparisons by planted users, who are mixtures of planted ideal points; truth.npz"
            " beside the rows says what was planted."
        ),
        homepage="https://arxiv.org/abs/2406.08469",
        citation="",
        license="Apache-2.0",
    ),
    options=SyntheticConfig,
    features=_features,
    rows=_rows,
    dataset=_dataset,
    settings=tuple((setting, SyntheticConfig(setting=setting)) for setting in get_args(Setting)),
)
