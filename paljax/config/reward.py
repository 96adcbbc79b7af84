"""The configuration of a reward run."""

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args, get_origin

from annotated_types import Ge, MinLen
from pydantic import Field, model_validator

from paljax.config.data import DataSection, PairsSection, RandomSplits, SplitsSection
from paljax.config.sections import (
    LossSection,
    OptimizerSection,
    ParallelSection,
    Section,
    Seed,
    TrainingSection,
    section_of,
)
from paljax.data.encoders import EncoderConfig, Numbers
from paljax.errors import nearest
from paljax.learners.fit_by_em import Assignment
from paljax.models import MODELS, bradley_terry
from paljax.ranges import Count, NonNegativeFloat, PositiveFloat, PositiveInt

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
        # true: the shared reward is fitted first and stays; prototypes are deviations from it.
        anchored=(bool, False),
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


class GradientLearner(Section):
    """Users' weights are parameters; any model."""

    name: Literal["gradient"] = "gradient"


class EpisodesLearner(Section):
    """Users' weights are solved on part of their choices; models linear in the weights."""

    name: Literal["episodes"] = "episodes"
    users_per_batch: PositiveInt = 128
    most_comparisons: PositiveInt = 64  # of a user in one episode


class EMLearner(Section):
    """Each user is a member of one prototype's group; models with a reward for each prototype."""

    name: Literal["em"] = "em"
    assignment: Assignment = "soft"  # hard: each user counts for the likeliest group alone
    starts: PositiveInt = 4  # fits from different parameters, side by side; validation chooses
    passes: PositiveInt = 1  # through all comparisons in one M-step


class SelectionSection(Section):
    """What validation data choose."""

    num_prototypes: Annotated[list[PositiveInt], MinLen(1)] = [1, 2, 4, 8]  # for `auto`
    prior_strength: Annotated[list[PositiveFloat], MinLen(1)] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    # auto: the shared reward where validation data leave it open whether people differ.
    personalize: Literal["auto", "always"] = "auto"
    # Of the shared reward's networks, to choose from; null: the optimiser's decay alone.
    shared_weight_decay: Annotated[list[NonNegativeFloat], MinLen(1)] | None = None
    # Of the personalised model's networks, likewise.
    personal_weight_decay: Annotated[list[NonNegativeFloat], MinLen(1)] | None = None
    refit: bool = True  # train once more on training and validation data, as selected


class EvaluationSection(Section):
    """How a run is scored."""

    shots: Annotated[list[Count], MinLen(1)] = [0, 1, 2, 5, 10, 20]
    resamples: Annotated[int, Ge(100)] = 1000
    published_pal: bool = False  # also fit PAL as its authors' code does, as a baseline


class Config(Section):
    """All of a run. `versions` is written by paljax and ignored when read."""

    stage: Literal["reward"] = "reward"
    seed: Seed = 0
    data: DataSection
    splits: SplitsSection = Field(default_factory=RandomSplits)
    pairs: PairsSection | None = None  # of votes; null where the data are comparisons
    encoder: Annotated[list[Annotated[EncoderConfig, Field(discriminator="name")]], MinLen(1)] = [
        Numbers()
    ]
    prompt_encoder: Annotated[
        list[Annotated[EncoderConfig, Field(discriminator="name")]], MinLen(1)
    ] = [Numbers()]
    model: ModelSection
    loss: LossSection = Field(default_factory=LossSection)
    learner: Annotated[
        GradientLearner | EpisodesLearner | EMLearner, Field(discriminator="name")
    ] = Field(default_factory=GradientLearner)
    prior_strength: PositiveFloat = 2.0  # λ in training, pseudo-comparisons; episodes start there
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    selection: SelectionSection = Field(default_factory=SelectionSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    parallel: ParallelSection = Field(default_factory=ParallelSection)
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
    def _decay_only_shrinks(self) -> Self:
        rate = self.optimizer.learning_rate.networks
        for key in ("shared_weight_decay", "personal_weight_decay"):
            for decay in getattr(self.selection, key) or ():
                if rate * decay >= 1:
                    raise ValueError(
                        f"selection.{key}: {decay:g} takes {rate * decay:g} times the weights away "
                        f"in a step of optimizer.learning_rate.networks {rate:g}; give less than "
                        f"{1 / rate:g}"
                    )
        return self

    @model_validator(mode="after")
    def _both_rewards_are_tuned(self) -> Self:
        selection = self.selection
        if selection.personal_weight_decay is None:
            return self
        if self.model.name == "bradley_terry":
            raise ValueError(
                "selection.personal_weight_decay: model.name 'bradley_terry' has no personal part; "
                "give selection.shared_weight_decay"
            )
        if selection.shared_weight_decay is None:
            raise ValueError(
                "selection.personal_weight_decay: the shared reward that PAL is compared with has "
                "one decay; give it selection.shared_weight_decay to choose from, too"
            )
        return self

    @model_validator(mode="after")
    def _validation_users_choose(self) -> Self:
        if not getattr(self.splits, "validation_users", 0):
            return self
        if not self.selection.refit:
            raise ValueError(
                "splits.validation_users: training sees them in the refit alone, and "
                "selection.refit is false; set it to true, or splits.validation_users to 0"
            )
        if isinstance(self.learner, EMLearner):
            raise ValueError(
                "splits.validation_users: choose λ of people who join, and learner.name 'em' has "
                "none; leave it out"
            )
        if not getattr(self.model, "personal", False):
            raise ValueError(
                "splits.validation_users: choose λ of people who join, and the model has one "
                "reward for everybody; leave it out"
            )
        if not any(self.evaluation.shots):
            raise ValueError(
                "splits.validation_users: join with evaluation.shots comparisons, and all of these "
                "are 0; give one above 0, or leave validation_users out"
            )
        return self

    @model_validator(mode="after")
    def _anchor_can_hold(self) -> Self:
        if not getattr(self.model, "anchored", False):
            return self
        if self.model.shared is None:
            raise ValueError(
                "model.anchored: true measures prototypes from the shared reward, and model.shared "
                "is null; set model.anchored to false or give model.shared"
            )
        if isinstance(self.learner, EMLearner):
            raise ValueError(
                "model.anchored: true does not go with learner.name 'em', which learns how many "
                "people each prototype has; 'gradient' and 'episodes' do"
            )
        for key, value, choices in _not_linear(self.model):
            raise ValueError(
                f"model.{key}: {value!r} does not go with model.anchored: true, whose margins must "
                f"be linear in the users' weights; {nearest('', choices)}, or model.anchored: false"
            )
        return self

    @model_validator(mode="after")
    def _learner_fits_model(self) -> Self:
        if not isinstance(self.learner, GradientLearner):
            for key, value, choices in _not_linear(self.model):
                raise ValueError(
                    f"model.{key}: {value!r} does not go with learner.name {self.learner.name!r}, "
                    f"whose margins must be linear in the users' weights; {nearest('', choices)}, "
                    "or learner.name 'gradient'"
                )
        return self

    @model_validator(mode="after")
    def _em_has_a_likelihood(self) -> Self:
        if isinstance(self.learner, EMLearner) and self.loss.name != "logistic":
            raise ValueError(
                f"loss.name: {self.loss.name!r} is no log-likelihood, by which learner.name 'em' "
                "assigns users; wanted 'logistic'"
            )
        return self


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
