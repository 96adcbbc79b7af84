"""The configuration of a run: YAML, typed, every key checked, mistakes told in one line.

Sections that name a function (`model`) take the function's keyword arguments as their keys, so a
new model is configured without a change here.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from paljax.data.encoders import EncoderConfig, Numbers
from paljax.errors import UserError, nearest
from paljax.learners.losses import LOSSES
from paljax.models import MODELS, bradley_terry
from paljax.ranges import Count, NonNegativeFloat, PositiveFloat, PositiveInt, Probability

Share = Annotated[float, Ge(0), Lt(1)]
PositiveShare = Annotated[float, Gt(0), Le(1)]
Seed = Annotated[int, Ge(0), Lt(2**32)]


class Section(BaseModel):
    """A section of the configuration; a key that it does not have is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def section_of(function: Callable[..., Any], name: str, **replaced: Any) -> type[Section]:
    """The section whose keys are the keyword arguments of a function.

    Args:
        function: Its annotations are the types, its defaults the defaults.
        name: The value of the key `name`, which chooses the function.
        **replaced: Fields that are added or whose (type, default) differ from the function's.

    Returns:
        The section's class.
    """
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for key, parameter in inspect.signature(function).parameters.items():
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[key] = (parameter.annotation, default)
    made: type[Section] = create_model(f"{name}_section", __base__=Section, **(fields | replaced))
    return made


SharedSection = section_of(bradley_terry, "bradley_terry")


def _model_section(name: str) -> type[Section]:
    function = MODELS[name]
    if "num_prototypes" not in inspect.signature(function).parameters:
        return section_of(function, name)
    return section_of(
        function,
        name,
        num_prototypes=(PositiveInt | Literal["auto"], "auto"),
        # The reward that all users share; null leaves it out.
        shared=(SharedSection | None, Field(default_factory=SharedSection)),
        # false switches the prototypes off; what remains is the shared reward.
        personal=(bool, True),
    )


if TYPE_CHECKING:
    ModelSection = Any  # made from the registry; its keys are a model's keyword arguments
else:
    ModelSection = Annotated[
        Union[tuple(_model_section(name) for name in MODELS)],  # noqa: UP007  (of a tuple)
        Field(discriminator="name"),
    ]


class FileData(Section):
    """Comparisons in a file of the user's."""

    name: Literal["file"] = "file"
    path: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    columns: dict[str, str] = {}
    on_bad_row: Literal["error", "skip"] = "error"


class ElectricityData(Section):
    """361 people's choices among electricity contracts."""

    name: Literal["electricity"] = "electricity"


class SyntheticData(Section):
    """Planted users, prototypes and projector; see `paljax.data.synthetic.SyntheticConfig`."""

    name: Literal["synthetic"] = "synthetic"
    num_users: PositiveInt = 100
    comparisons_per_user: PositiveInt = 100
    num_prototypes: PositiveInt = 3
    width: PositiveInt = 16
    latent_width: PositiveInt = 16
    setting: Literal["partition", "mixture"] = "partition"
    separation: PositiveFloat = 1.5
    concentration: PositiveFloat = 1.0
    temperature: NonNegativeFloat = 0.0
    projector: Literal["linear", "mlp", "identity"] = "linear"
    num_items: Annotated[int, Ge(2)] | None = None
    seed: Count = 0


class RandomSplits(Section):
    """Split by user, and by choice task inside each user."""

    name: Literal["random"] = "random"
    validation: Share = 0.2
    test: Share = 0.2
    unseen_users: Share = 0.2
    query: PositiveShare = 0.34
    seed: Count = 0


class ColumnSplits(Section):
    """Take the split from the column `split`."""

    name: Literal["column"] = "column"


class LossSection(Section):
    """The loss on margins."""

    name: str = "logistic"
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    weight_by_user: bool = False

    @model_validator(mode="after")
    def _known_loss(self) -> Self:
        if self.name not in LOSSES:
            raise ValueError(f"loss.name: unknown loss {self.name!r}; {nearest(self.name, LOSSES)}")
        return self


class GradientLearner(Section):
    """Users' weights are parameters; any model."""

    name: Literal["gradient"] = "gradient"


class EpisodesLearner(Section):
    """Users' weights are solved on part of their choices; models linear in the weights."""

    name: Literal["episodes"] = "episodes"
    users_per_batch: PositiveInt = 128
    most_comparisons: PositiveInt = 64  # of a user in one episode


class ByGroup(Section):
    """One number a parameter group."""

    networks: NonNegativeFloat
    prototypes: NonNegativeFloat
    scale: NonNegativeFloat
    user_weights: NonNegativeFloat


class LearningRates(ByGroup):
    networks: NonNegativeFloat = 3e-3
    prototypes: NonNegativeFloat = 3e-3
    scale: NonNegativeFloat = 3e-3
    user_weights: NonNegativeFloat = 3e-2


class WeightDecays(ByGroup):
    networks: NonNegativeFloat = 1e-4
    prototypes: NonNegativeFloat = 0.0
    scale: NonNegativeFloat = 0.0
    user_weights: NonNegativeFloat = 0.0


class OptimizerSection(Section):
    """AdamW by parameter group; user rows are updated lazily."""

    learning_rate: LearningRates = Field(default_factory=LearningRates)
    weight_decay: WeightDecays = Field(default_factory=WeightDecays)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: Share = 0.05
    clip_norm: PositiveFloat | None = 1.0
    beta1: Probability = 0.9
    beta2: Probability = 0.999


class TrainingSection(Section):
    """How long to train, and when to look and to save."""

    epochs: PositiveInt = 100
    batch_size: PositiveInt = 256
    patience: PositiveInt | None = 20  # epochs without a better validation loss; null: never stop
    checkpoint_every: PositiveInt = 10  # epochs


class SelectionSection(Section):
    """What validation data choose."""

    num_prototypes: Annotated[list[PositiveInt], MinLen(1)] = [1, 2, 4, 8]  # for `auto`
    prior_strength: Annotated[list[PositiveFloat], MinLen(1)] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    refit: bool = True  # train once more on training and validation data, as selected


class EvaluationSection(Section):
    """How a run is scored."""

    shots: Annotated[list[Count], MinLen(1)] = [0, 1, 2, 5, 10, 20]
    resamples: Annotated[int, Ge(100)] = 1000


class Config(Section):
    """All of a run. `versions` is written by paljax and ignored when read."""

    stage: Literal["reward"] = "reward"
    seed: Seed = 0
    data: Annotated[FileData | ElectricityData | SyntheticData, Field(discriminator="name")]
    splits: Annotated[RandomSplits | ColumnSplits, Field(discriminator="name")] = Field(
        default_factory=RandomSplits
    )
    encoder: Annotated[list[Annotated[EncoderConfig, Field(discriminator="name")]], MinLen(1)] = [
        Numbers()
    ]
    prompt_encoder: Annotated[
        list[Annotated[EncoderConfig, Field(discriminator="name")]], MinLen(1)
    ] = [Numbers()]
    model: ModelSection
    loss: LossSection = Field(default_factory=LossSection)
    learner: Annotated[GradientLearner | EpisodesLearner, Field(discriminator="name")] = Field(
        default_factory=GradientLearner
    )
    prior_strength: PositiveFloat = 2.0  # λ in training, pseudo-comparisons; episodes start there
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    selection: SelectionSection = Field(default_factory=SelectionSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _model_has_a_reward(self) -> Self:
        model = self.model
        if not getattr(model, "personal", True) and model.shared is None:
            raise ValueError(
                "model.personal: false leaves the shared reward alone, and model.shared is null; "
                "set model.personal to true or give model.shared"
            )
        return self

    @model_validator(mode="after")
    def _learner_fits_model(self) -> Self:
        if isinstance(self.learner, EpisodesLearner):
            for key, value, choices in _not_linear(self.model):
                raise ValueError(
                    f"model.{key}: {value!r} does not go with learner.name 'episodes', whose "
                    f"margins must be linear in the users' weights; {nearest('', choices)}, or "
                    "learner.name 'gradient'"
                )
        return self


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file.

    Args:
        path: A YAML file.
        overrides: `key.path=value`, each replacing or adding one value; the value is YAML.

    Returns:
        The checked configuration.

    Raises:
        UserError: If the file can't be read or a key or value is wrong; the message names the key,
            the value and the nearest valid choice.
    """
    record = read_yaml(path)
    for override in overrides:
        _apply(record, override)
    return parse(record, where=str(path))


def parse(record: Mapping[str, Any], *, where: str) -> Config:
    """Check a configuration that is already a mapping; `where` names it in errors."""
    try:
        return Config.model_validate(record)
    except ValidationError as error:
        raise UserError(f"{where}: {_one_line(error, record)}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; a key that is given twice is an error."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, wanted a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    try:
        record = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {_yaml_problem(error)}") from None
    if record is None:
        raise UserError(f"{path}: is empty, wanted keys and values")
    if not isinstance(record, dict):
        raise UserError(f"{path}: wanted keys and values, found {type(record).__name__}")
    return record


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return " ".join(str(error).split())


class _StrictLoader(yaml.SafeLoader):
    """YAML without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                line = node.value[place][0].start_mark.line + 1
                raise yaml.YAMLError(f"key {key!r} is given twice (line {line})")
        return super().construct_mapping(node, deep)


def _not_linear(section: Any) -> Iterator[tuple[str, str, list[str]]]:
    """Keys by which a model's margins are not linear in the weights, and the values that do."""
    function = MODELS[section.name]
    if "num_prototypes" not in inspect.signature(function).parameters:
        return

    def is_linear(key: str, value: str) -> bool:
        return function(num_prototypes=2, **{key: value}).prototype_rewards is not None

    for key, parameter in inspect.signature(function).parameters.items():
        choices = get_args(parameter.annotation)
        if get_origin(parameter.annotation) is Literal and not is_linear(
            key, getattr(section, key)
        ):
            linear = [choice for choice in choices if is_linear(key, choice)]
            yield key, getattr(section, key), linear


def _apply(record: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f"override {override!r}: wanted key.path=value")
    try:
        value = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: not YAML: {_yaml_problem(error)}") from None
    here: Any = record
    for depth, key in enumerate(keys):
        if isinstance(here, list):
            if not key.isdecimal() or int(key) >= len(here):
                raise UserError(
                    f"override {override!r}: {'.'.join(keys[:depth])} is a list of {len(here)}; "
                    f"{key!r} is no place in it"
                )
            key = int(key)  # type: ignore[assignment]
        elif not isinstance(here, dict):
            raise UserError(f"override {override!r}: {'.'.join(keys[:depth])} has no keys")
        if depth == len(keys) - 1:
            here[key] = value
        elif isinstance(here, list):
            here = here[key]  # type: ignore[call-overload]
        else:
            if here.get(key) is None:
                here[key] = {}
            here = here[key]


def _one_line(error: ValidationError, record: Mapping[str, Any]) -> str:
    """Tell the first mistake: the key, the value, and what was wanted."""
    first = error.errors()[0]
    location = _keys_in(first["loc"], record)
    key = ".".join(str(part) for part in location)
    kind, given, context = first["type"], first["input"], first.get("ctx", {})
    if kind == "extra_forbidden":
        section = _sections_at(location[:-1], record)
        valid = sorted({field for kind in section for field in kind.model_fields})
        return f"unknown key {key!r}; {nearest(location[-1], valid)}"
    if kind == "missing":
        return f"key {key!r} is missing"
    if kind == "union_tag_not_found":
        names = [kind.model_fields["name"].default for kind in _sections_at(location, record)]
        return f"key '{key}.name' is missing; {nearest('', names)}"
    if kind == "union_tag_invalid":
        names = re.findall(r"'([^']*)'", context["expected_tags"])
        return f"{key}.name: unknown {context['tag']!r}; {nearest(context['tag'], names)}"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"{key}: {given!r} is not known; {nearest(given, names)}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "model_attributes_type"):
        return f"{key}: {given!r} is wrong: wanted a section with keys of its own"
    return f"{key}: {given!r} is wrong: {first['msg'][0].lower()}{first['msg'][1:]}"


def _keys_in(location: Sequence[int | str], record: Mapping[str, Any]) -> list[int | str]:
    """The user's keys in pydantic's location, which also names the members of unions."""
    keys: list[int | str] = []
    here: Any = record
    for place, part in enumerate(location):
        if isinstance(here, (dict, list)) and (
            part in here if isinstance(here, dict) else isinstance(part, int)
        ):
            here = here[part]  # type: ignore[index]
            keys.append(part)
        elif place == len(location) - 1 and isinstance(here, dict):
            keys.append(part)  # a key that is missing
    return keys


def _sections_at(location: Sequence[int | str], record: Mapping[str, Any]) -> list[type[BaseModel]]:
    """Sections that the configuration may have at a location, by `name` where the user gave one."""
    sections: list[type[BaseModel]] = [Config]
    here: Any = record
    for part in location:
        here = here[part]
        if isinstance(part, str):
            fields = [
                section.model_fields[part] for section in sections if part in section.model_fields
            ]
            sections = [kind for field in fields for kind in _sections_in(field.annotation)]
    name = here.get("name") if isinstance(here, dict) else None
    named = [
        section
        for section in sections
        if name is not None and "name" in section.model_fields
        if section.model_fields["name"].default == name
    ]
    return named or sections


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
