"""Sections that stages share: what a section is, the loss, the optimiser, how long to train.

Sections that name a function take the function's keyword arguments as their keys, so a new model or
loss is configured without a change here.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from paljax.data.source import DirectSource, Source
from paljax.errors import UserError, nearest
from paljax.learners.losses import LOSSES
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
        function: Its annotations are the types, its defaults the defaults; what it takes by
            position only is no key.
        name: The value of the key `name`, which chooses the function.
        **replaced: Fields that are added or whose (type, default) differ from the function's.

    Returns:
        The section's class.
    """
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[key] = (parameter.annotation, default)
    made: type[Section] = create_model(f"{name}_section", __base__=Section, **(fields | replaced))
    return made


def options_section(source: Source | DirectSource) -> type[Section]:
    """The section whose keys are the options of a data set, and whose values the options accept."""

    def check(section: Section) -> Section:
        try:
            source.options(**section.model_dump(exclude={"name"}))
        except UserError as error:
            raise ValueError(str(error)) from None
        return section

    keys = section_of(source.options, source.name)
    validators: dict[str, Any] = {"options_fit": model_validator(mode="after")(check)}
    made: type[Section] = create_model(
        f"{source.name}_section", __base__=keys, __validators__=validators
    )
    return made


class LossSection(Section):
    """The loss on margins, which networks and prototypes minimise.

    Whatever it is, candidates and epochs are judged by their log-likelihood, and users' weights of
    the fitted model maximise their posterior (paljax's design, section 2.3): a user's answers are
    read one way when a model is trained and when users join it later.
    """

    name: str = "logistic"
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    weight_by_user: bool = False

    @model_validator(mode="after")
    def _known_loss(self) -> Self:
        if self.name not in LOSSES:
            raise ValueError(f"loss.name: unknown loss {self.name!r}; {nearest(self.name, LOSSES)}")
        return self


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
    # Epochs without a better validation loss; the best epoch is kept. null: train to the end, and
    # keep the last epoch.
    patience: PositiveInt | None = 20
    checkpoint_every: PositiveInt = 10  # epochs
    log_every: PositiveInt | None = None  # steps; null: once an epoch


class OneProcess(Section):
    """The run is one process."""

    name: Literal["one"] = "one"


class ScheduledProcesses(Section):
    """As many processes as the scheduler's environment says: Slurm, Open MPI, Kubernetes, TPUs."""

    name: Literal["environment"] = "environment"


class ExplicitProcesses(Section):
    """One of several processes, told where the first one listens."""

    name: Literal["explicit"] = "explicit"
    coordinator: Annotated[str, Field(pattern=r"^[^\s:]+:\d+$")]  # host:port of process 0
    count: PositiveInt
    index: Count  # of this process, from 0

    @model_validator(mode="after")
    def _index_below_count(self) -> Self:
        if self.index >= self.count:
            raise ValueError(
                f"parallel.processes.index: {self.index} is not below count={self.count}"
            )
        return self


class ParallelSection(Section):
    """Which devices share a fit; a run may go on with other ones."""

    backend: Literal["shard_map", "pmap", "jit"] = "shard_map"
    num_devices: PositiveInt | None = None  # null: all of all processes, or one for jit
    # Blocks that users are dealt to, a multiple of the devices. A run keeps those it began with, by
    # default one a device.
    blocks: PositiveInt | None = None
    processes: Annotated[
        OneProcess | ScheduledProcesses | ExplicitProcesses, Field(discriminator="name")
    ] = Field(default_factory=OneProcess)
    lost_after_s: PositiveInt = 100  # silence after which another process counts as dead
