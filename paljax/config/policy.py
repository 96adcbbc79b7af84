"""The configuration of a policy run."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from annotated_types import Ge, Gt, MinLen
from pydantic import Field, model_validator

from paljax.config.sections import PositiveShare, Section, Seed, Share, section_of
from paljax.errors import nearest
from paljax.learners.group_weights import GROUP_WEIGHTS
from paljax.learners.objectives import OBJECTIVES
from paljax.ranges import Count, PositiveFloat, PositiveInt, Probability
from paljax.text_functions import TEXT_FUNCTIONS

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


class LoraSection(Section):
    """Train low-rank parts of some layers only."""

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    targets: Annotated[list[str], MinLen(1)] = ["query", "value"]


class CausalLMPolicy(Section):
    """Texts that a causal language model writes after a prompt."""

    name: Literal["causal_lm"] = "causal_lm"
    model: str  # a name, a folder, a .bin or .gguf file, or a name on the hub
    tokenizer: str | None = None  # where it is not beside the weights
    revision: str | None = None  # on the hub
    lora: LoraSection | None = None  # null: every parameter is trained
    max_new_tokens: PositiveInt = 64
    end_tokens: list[Count] | None = None  # a response ends after any; null: the model's own
    # What responses are drawn from while learning; off 1, null, null the gradient is off-policy.
    # Rewards are calibrated and policies evaluated on what they say themselves: 1, null, null.
    temperature: PositiveFloat = 1.0
    top_k: PositiveInt | None = None
    top_p: PositiveShare | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; logits are float32
    checkpointing: bool = False  # recompute activations in the backward pass
    unroll: PositiveInt = 1  # layers a step of the scan; more is faster on CPUs


class PromptsSection(Section):
    """What a language model goes on from."""

    path: Annotated[str, Field(pattern=r"^[^\x00]+$")]  # .jsonl with `prompt`, or .txt, one a line
    held_out: Share = 0.2  # never trained on; the policy is evaluated on them (0: on all)


class RunRewards(Section):
    """What the groups of a finished reward run want."""

    name: Literal["run"] = "run"
    run: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    by: Literal["prototypes", "users", "clusters", "labels"] = "prototypes"
    num_clusters: PositiveInt = 2
    least_people: PositiveInt = 1  # that a prototype needs to be kept
    calibration: Annotated[int, Ge(2)] = 16  # responses of the reference policy a prompt


class FunctionRewards(Section):
    """Known functions of a response's text, each what one group wants; there is no reward run.

    A group has the name of its function unless `groups` says otherwise, all are of one size, and
    `normalize` holds as for learned rewards; the functions' values count as nats.
    """

    name: Literal["functions"] = "functions"
    functions: Annotated[list[str], MinLen(1)]  # of `paljax.text_functions`
    calibration: Annotated[int, Ge(2)] = 16  # responses of the reference policy a prompt

    @model_validator(mode="after")
    def _known_functions(self) -> Self:
        _require_functions("rewards.functions", self.functions)
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
    log_every: PositiveInt | None = None  # steps; null: once an epoch


class GridSection(Section):
    """The grid of devices that share a language model's fit; a run may go on with another one."""

    data: PositiveInt = 1  # times that the parameters lie there; each part of a batch is elsewhere
    fsdp: PositiveInt = 1  # devices that hold one copy of the parameters, each a part of it

    @model_validator(mode="before")
    @classmethod
    def _in_one_process(cls, record: Any) -> Any:
        if isinstance(record, dict) and "processes" in record:
            raise ValueError(
                "parallel.processes: a policy runs in one process, on the devices of one host; "
                "give data and fsdp alone (the reward stage runs in several processes)"
            )
        return record


class PolicyEvaluationSection(Section):
    """What is reported."""

    iterate: Literal["last", "average_weights", "average_policy"] = "average_weights"
    samples: Annotated[int, Ge(2)] = 1000  # fresh ones a prompt
    # Functions of text that judge the responses of a language model beside the rewards.
    functions: list[str] = []

    @model_validator(mode="after")
    def _known_functions(self) -> Self:
        _require_functions("evaluation.functions", self.functions)
        return self


# The policy whose responses a kind of rewards is about, where it is not a table of actions.
_POLICY_OF = {
    "sequences": "tabular_autoregressive",
    "run": "causal_lm",
    "functions": "causal_lm",
}


class PolicyConfig(Section):
    """All of a policy run. `versions` is written by paljax and ignored when read."""

    stage: Literal["policy"] = "policy"
    seed: Seed = 0
    rewards: Annotated[
        TableRewards | FileRewards | SequenceRewards | RunRewards | FunctionRewards,
        Field(discriminator="name"),
    ]
    prompts: PromptsSection | None = None  # of a language model
    normalize: Literal["reference", "regret", "win_rate", "none"] = "reference"
    groups: GroupsSection = Field(default_factory=GroupsSection)
    policy: Annotated[
        CategoricalPolicy | TabularPolicy | CausalLMPolicy, Field(discriminator="name")
    ] = Field(default_factory=CategoricalPolicy)
    beta: PositiveFloat = 0.1  # of the KL, in the unit of the normalised rewards
    objective: ObjectiveSection = Field(default_factory=OBJECTIVE_SECTIONS["maxmin"])
    group_weights: GroupWeightsSection = Field(
        default_factory=GROUP_WEIGHTS_SECTIONS["exponentiated_gradient"]
    )
    rollouts: RolloutsSection | None = Field(default_factory=RolloutsSection)  # null: exact
    optimizer: PolicyOptimizerSection = Field(default_factory=PolicyOptimizerSection)
    training: PolicyTrainingSection = Field(default_factory=PolicyTrainingSection)
    evaluation: PolicyEvaluationSection = Field(default_factory=PolicyEvaluationSection)
    parallel: GridSection = Field(default_factory=GridSection)
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _rewards_fit_the_policy(self) -> Self:
        wanted = _POLICY_OF.get(self.rewards.name, "categorical")
        if self.policy.name != wanted:
            raise ValueError(
                f"policy.name: {self.policy.name!r} does not go with rewards.name "
                f"{self.rewards.name!r}; did you mean {wanted!r}?"
            )
        _check_language_model(self)
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


def _check_language_model(config: PolicyConfig) -> None:
    """What texts need, and what can't be done with them."""
    if config.policy.name != "causal_lm":
        if config.prompts is not None:
            raise ValueError(f"prompts: a policy {config.policy.name!r} has none; leave them out")
        if config.evaluation.functions:
            raise ValueError("evaluation.functions: are of texts, for policy.name 'causal_lm'")
        if config.parallel != GridSection():
            raise ValueError(
                f"parallel: a policy {config.policy.name!r} runs on one device; leave it out"
            )
        return
    if config.prompts is None:
        raise ValueError("key 'prompts' is missing: policy.name 'causal_lm' needs prompts.path")
    if config.rollouts is None:
        raise ValueError("rollouts: null is for actions that can be enumerated; give samples")
    if config.evaluation.iterate == "average_policy":
        raise ValueError(
            "evaluation.iterate: 'average_policy' is for actions that can be enumerated; "
            "choose one of 'last', 'average_weights'"
        )


def _require_functions(key: str, names: list[str]) -> None:
    for place, name in enumerate(names):
        if name not in TEXT_FUNCTIONS:
            raise ValueError(f"{key}: {name!r} is not known; {nearest(name, TEXT_FUNCTIONS)}")
        if name in names[:place]:
            raise ValueError(f"{key}: {name!r} is given twice")
