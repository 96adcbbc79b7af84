"""Where comparisons come from, and who learns from which of them."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field

from paljax.config.sections import PositiveShare, Section, Share, options_section
from paljax.data.sources import SOURCES
from paljax.ranges import Count


class FileData(Section):
    """Comparisons in a file of the user's."""

    name: Literal["file"] = "file"
    path: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    columns: dict[str, str] = {}
    on_bad_row: Literal["error", "skip"] = "error"


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


if TYPE_CHECKING:
    DataSection = Any  # made from the registry; a section's keys are the data set's options
else:
    DataSection = Annotated[
        Union[FileData, *(options_section(source) for source in SOURCES.values())],
        Field(discriminator="name"),
    ]
SplitsSection = Annotated[RandomSplits | ColumnSplits, Field(discriminator="name")]
