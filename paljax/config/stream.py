"""The configuration of a reward run on a stream: comparisons and embeddings larger than memory."""

from typing import Annotated, Literal, Self

from annotated_types import Ge
from pydantic import Field, model_validator

from paljax.config.reward import ModelSection
from paljax.config.sections import LossSection, OptimizerSection, Section, Seed
from paljax.ranges import PositiveFloat, PositiveInt

FilePath = Annotated[str, Field(pattern=r"^[^\x00]+$")]


class StreamData(Section):
    """Where the shards and the embeddings are."""

    name: Literal["stream"] = "stream"
    comparisons: FilePath  # a folder of .parquet or .array_record shards
    items: FilePath  # .npy, [N, D]; `chosen` and `rejected` are its rows
    prompts: FilePath | None = None  # .npy, [M, E]; `prompt` is its rows
    num_users: PositiveInt  # U; `user` is a number below it
    # Rows that are shuffled among each other: random groups of the shards, as many as fill it.
    window: PositiveInt = 2_000_000
    held_out: PositiveInt = 10_000  # comparisons for validation, and as many for testing


class StreamTraining(Section):
    """How long to train. An epoch is so many steps, whatever the data's length."""

    steps_per_epoch: PositiveInt = 100
    epochs: PositiveInt
    batch_size: PositiveInt = 4096
    checkpoint_every: PositiveInt = 10  # epochs
    log_every: PositiveInt | None = None  # steps; null: once an epoch


class StreamEvaluation(Section):
    """How the held-out sample is scored."""

    resamples: Annotated[int, Ge(100)] = 1000


class StreamConfig(Section):
    """All of a run. `versions` is written by paljax and ignored when read."""

    stage: Literal["stream"] = "stream"
    seed: Seed = 0
    data: StreamData
    model: ModelSection
    loss: LossSection = Field(default_factory=LossSection)
    prior_strength: PositiveFloat = 2.0  # λ, pseudo-comparisons
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    training: StreamTraining
    evaluation: StreamEvaluation = Field(default_factory=StreamEvaluation)
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _can_be_streamed(self) -> Self:
        if getattr(self.model, "num_prototypes", 1) == "auto":
            raise ValueError(
                "model.num_prototypes: 'auto' fits several models, and a stream is gone through "
                "once; give a number"
            )
        if not getattr(self.model, "personal", True) and self.model.shared is None:
            raise ValueError(
                "model.personal: false leaves the shared reward alone, and model.shared is null; "
                "set model.personal to true or give model.shared"
            )
        if getattr(self.model, "anchored", False):
            raise ValueError(
                "model.anchored: true wants the shared reward first, and a stream fits both at "
                "once; set it to false, or give stage 'reward'"
            )
        if self.loss.weight_by_user:
            raise ValueError(
                "loss.weight_by_user: true is for data in memory; give stage stream false, or a "
                "column 'weight' in the shards"
            )
        if self.model.name == "pal_b" and self.data.prompts is None:
            raise ValueError("data.prompts: 'pal_b' needs them; 'pal_a' does without")
        return self
