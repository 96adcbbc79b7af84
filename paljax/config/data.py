"""Where comparisons come from, and who learns from which of them."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from annotated_types import Ge, Le, MinLen
from pydantic import Field, model_validator

from paljax.config.sections import PositiveShare, Section, Share, options_section
from paljax.data.encoders.encoder import LEVEL_WIDTH
from paljax.data.sources import SOURCES
from paljax.data.votes_to_pairs import LearnFrom, Passes
from paljax.ranges import Count, NonNegativeFloat, PositiveInt


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
    # Tasks of an unseen user that may be learned from, instead of the share that `query` leaves.
    support: PositiveInt | None = None
    # Of seen users; until all is chosen they stand for people who join, and choose these's λ.
    validation_users: Share = 0.0
    seed: Count = 0


class ColumnSplits(Section):
    """Take the split from the column `split`."""

    name: Literal["column"] = "column"


class HeldOutSplits(Section):
    """Shares of what is held out for everybody."""

    validation: PositiveShare = 0.1
    test: PositiveShare = 0.2
    seed: Count = 0


class ItemsSplits(HeldOutSplits):
    """Cold items: the items of the test part are in no other part."""

    name: Literal["items"] = "items"


class PairsSplits(HeldOutSplits):
    """Two items that anybody compares in the test part are compared in no other part."""

    name: Literal["pairs"] = "pairs"


class TopicSplits(HeldOutSplits):
    """Whole topics, as debates, are for testing."""

    name: Literal["topic"] = "topic"
    topics: Annotated[list[str], MinLen(1)] | None = None  # to test on, instead of a share


class TimeSplits(Section):
    """The latest choice tasks, of each user or of all, are for testing."""

    name: Literal["time"] = "time"
    by: Literal["user", "all"] = "user"
    validation: PositiveShare = 0.2
    test: PositiveShare = 0.2


class PairsSection(Section):
    """How comparisons are formed of votes, once these are split."""

    passes: Passes = "drop"
    least_difference: NonNegativeFloat = 0.0  # of two votes that a pair is formed of
    most_per_user: PositiveInt | None = 200  # in each part
    # votes: each is learned from as comparisons with levels; pairs are still what is scored.
    learn_from: LearnFrom = "pairs"
    num_levels: Annotated[int, Ge(1), Le(LEVEL_WIDTH)] = 1  # 1 for yes or no, more for ratings
    seed: Count = 0

    @model_validator(mode="after")
    def _levels_are_of_votes(self) -> Self:
        if self.num_levels > 1 and self.learn_from != "votes":
            raise ValueError(
                f"pairs.num_levels: {self.num_levels} levels are what votes are compared with; "
                "give pairs.learn_from 'votes', or leave it out"
            )
        return self


if TYPE_CHECKING:
    DataSection = Any  # made from the registry; a section's keys are the data set's options
else:
    DataSection = Annotated[
        Union[FileData, *(options_section(source) for source in SOURCES.values())],
        Field(discriminator="name"),
    ]
SplitsSection = Annotated[
    RandomSplits | ColumnSplits | ItemsSplits | PairsSplits | TopicSplits | TimeSplits,
    Field(discriminator="name"),
]
