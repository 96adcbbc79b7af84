"""Where comparisons come from, and who learns from which of them."""

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import Field

from paljax.config.sections import PositiveShare, Section, Share
from paljax.ranges import Count, NonNegativeFloat, PositiveFloat, PositiveInt


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


DataSection = Annotated[FileData | ElectricityData | SyntheticData, Field(discriminator="name")]
SplitsSection = Annotated[RandomSplits | ColumnSplits, Field(discriminator="name")]
