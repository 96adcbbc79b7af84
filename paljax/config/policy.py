"""The configuration of a policy run."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from annotated_types import Ge, Gt, MinLen
from pydantic import Field, model_validator

from paljax.config.sections import Section, Seed, Share, section_of
from paljax.errors import nearest
from paljax.learners.group_weights import GROUP_WEIGHTS
from paljax.learners.objectives import OBJECTIVES
from paljax.ranges import PositiveFloat, PositiveInt, Probability

# A table of all sequences is kept; 4 letters and 8 tokens are what fits a laptop.
MOST_SEQUENCES = 200_000


class CategoricalPolicy(Section):
    """One item of a table for every prompt."""

    name: Literal["categorical"] = "categorical"


class TabularPolicy(Section):
    """Sequences over letters and an end token, a table of next tokens for every prefix."""

    name: Literal["tabular_autoregressive"] = "tabular_autoregressive"
    letters: Annotated[list[str], MinLen(1)] = ["a", "b"]
    length: PositiveInt = 4  # the most tokens, the end among them

    @model_validator(mode="after")
    def _can_be_enumerated(self) -> Self:
        if len(set(self.letters)) < len(self.letters):
            raise ValueError(f"policy.letters: {self.letters!r} names a letter twice")
        last = len(self.letters) ** (self.length - 1)
        if last * (len(self.letters) + 1) > MOST_SEQUENCES:
            raise ValueError(
                f"policy.length: {len(self.letters)} letters make more than {MOST_SEQUENCES:,} "
                f"sequences of {self.length} tokens; wanted fewer letters or a smaller length"
            )
        return self


class TableRewards(Section):
    """Rewards of every group, written out: prompts, then actions, then groups' rewards."""

    name: Literal["table"] = "table"
    rewards: list[list[list[float]]]
    reference: list[list[float]] | None = None  # probabilities, a row a prompt; null: uniform
    prompt_weights: list[float] | None = None  # null: every prompt alike


class FileRewards(Section):
    """The same from a JSON, Parquet or npz file; see `paljax.policy.reward_files`."""

    name: Literal["file"] = "file"
    path: Annotated[str, Field(pattern=r"^[^\x00]+$")]


class SequenceReward(Section):
    """constant + Σ counts of letters + per_token (tokens - 1), the end token counted."""

    constant: float = 0.0
    counts: dict[str, float] = {}
    per_token: float = 0.0


class SequenceRewards(Section):
    """Rewards that count letters and tokens of a sequence."""

    name: Literal["sequences"] = "sequences"
    rewards: Annotated[list[SequenceReward], MinLen(1)]


class GroupsSection(Section):
    """Who is to be served; by default every reward is a group, all of one size."""

    names: list[str] | None = None
    matrix: list[list[float]] | None = None  # A: a row a group, a column a reward
    shares: list[Annotated[float, Ge(0)]] | None = None  # of the population


OBJECTIVE_SECTIONS = {name: section_of(OBJECTIVES[name], name) for name in OBJECTIVES}
GROUP_WEIGHTS_SECTIONS = {
    # Smoothing is the decay of the average of utilities that the weights follow.
    name: section_of(GROUP_WEIGHTS[name], name, smoothing=(Probability, 0.9))
    for name in GROUP_WEIGHTS
}
if TYPE_CHECKING:
    ObjectiveSection = Any  # made from the registries; keys are keyword arguments
    GroupWeightsSection = Any
else:
    ObjectiveSection = Annotated[
        Union[tuple(OBJECTIVE_SECTIONS.values())],  # noqa: UP007  (of a tuple)
        Field(discriminator="name"),
    ]
    GroupWeightsSection = Annotated[
        Union[tuple(GROUP_WEIGHTS_SECTIONS.values())],  # noqa: UP007
        Field(discriminator="name"),
    ]


class PolicyOptimizerSection(Section):
    """AdamW, one learning rate."""

    learning_rate: PositiveFloat = 0.05
    weight_decay: Annotated[float, Ge(0)] = 0.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: Share = 0.0
    clip_norm: PositiveFloat | None = 1.0
    beta1: Probability = 0.9
    beta2: Probability = 0.999


class RolloutsSection(Section):
    """How responses are drawn and used."""

    samples: Annotated[int, Ge(2)] = 64  # a prompt, the baseline of each is the others' mean
    updates: PositiveInt = 1  # of the policy from one set of responses
    clip: Annotated[float, Gt(0)] = 0.2  # PPO's ε


class PolicyTrainingSection(Section):
    """How long to train, and when to save."""

    epochs: PositiveInt = 20
    steps_per_epoch: PositiveInt = 100
    prompts_per_batch: PositiveInt | None = None  # drawn by weight; null: all of them
    checkpoint_every: PositiveInt = 5  # epochs


class PolicyEvaluationSection(Section):
    """What is reported."""

    iterate: Literal["last", "average_weights", "average_policy"] = "average_weights"
    samples: Annotated[int, Ge(2)] = 1000  # fresh ones a prompt


class PolicyConfig(Section):
    """All of a policy run. `versions` is written by paljax and ignored when read."""

    stage: Literal["policy"] = "policy"
    seed: Seed = 0
    rewards: Annotated[TableRewards | FileRewards | SequenceRewards, Field(discriminator="name")]
    normalize: Literal["reference", "regret", "win_rate", "none"] = "reference"
    groups: GroupsSection = Field(default_factory=GroupsSection)
    policy: Annotated[CategoricalPolicy | TabularPolicy, Field(discriminator="name")] = Field(
        default_factory=CategoricalPolicy
    )
    beta: PositiveFloat = 0.1  # of the KL, in the unit of the normalised rewards
    objective: ObjectiveSection = Field(default_factory=OBJECTIVE_SECTIONS["maxmin"])
    group_weights: GroupWeightsSection = Field(
        default_factory=GROUP_WEIGHTS_SECTIONS["exponentiated_gradient"]
    )
    rollouts: RolloutsSection | None = Field(default_factory=RolloutsSection)  # null: exact
    optimizer: PolicyOptimizerSection = Field(default_factory=PolicyOptimizerSection)
    training: PolicyTrainingSection = Field(default_factory=PolicyTrainingSection)
    evaluation: PolicyEvaluationSection = Field(default_factory=PolicyEvaluationSection)
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _rewards_fit_the_policy(self) -> Self:
        of_sequences = isinstance(self.rewards, SequenceRewards)
        wanted = "tabular_autoregressive" if of_sequences else "categorical"
        if self.policy.name != wanted:
            raise ValueError(
                f"policy.name: {self.policy.name!r} does not go with rewards.name "
                f"{self.rewards.name!r}; did you mean {wanted!r}?"
            )
        if isinstance(self.rewards, SequenceRewards) and isinstance(self.policy, TabularPolicy):
            letters = self.policy.letters
            for place, reward in enumerate(self.rewards.rewards):
                for letter in reward.counts:
                    if letter not in letters:
                        raise ValueError(
                            f"rewards.rewards.{place}.counts: no letter {letter!r}; "
                            f"{nearest(letter, letters)}"
                        )
        return self
