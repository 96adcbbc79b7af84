"""What analysis.json says of groups: how well each is served, who gains, what they agree on."""

from typing import Self

from pydantic import BaseModel, Field, model_validator

from paljax.reporting.numbers import Fraction, Number


class GroupGain(BaseModel):
    """Accuracy minus that of the shared reward on a group's comparisons, paired within users."""

    accuracy: float
    interval: tuple[float, float] | None


class Group(BaseModel):
    """Accuracy of each model (by name) on one group of comparisons."""

    group: str
    n: int = Field(ge=0)
    n_users: int | None = Field(default=None, ge=0)
    accuracy: dict[str, Fraction]
    intervals: dict[str, tuple[Number, Number] | None] = {}
    gain: GroupGain | None = None


class Gap(BaseModel):
    """How far one model's worst-served group is behind its best-served one."""

    best: str
    worst: str
    gap: float = Field(ge=0, le=1)
    interval: tuple[float, float] | None


class ShareOfUsers(BaseModel):
    """A share of the users with its interval."""

    share: float = Field(ge=0, le=1)
    interval: tuple[float, float] | None


class Histogram(BaseModel):
    """Users in bins of their gain."""

    edges: list[float]
    users: list[int]

    @model_validator(mode="after")
    def _a_bin_between_two_edges(self) -> Self:
        if len(self.edges) != len(self.users) + 1:
            raise ValueError(f"{len(self.users)} bins want {len(self.users) + 1} edges")
        return self


class UserGains(BaseModel):
    """How many users a reward of their own serves better or worse than the shared one."""

    users: int = Field(ge=0)
    better: ShareOfUsers
    worse: ShareOfUsers
    same: ShareOfUsers
    clearly_better: int = Field(ge=0)
    clearly_worse: int = Field(ge=0)
    quantiles: dict[str, float]
    histogram: Histogram


class SharedItem(BaseModel):
    """An item, and what the prototypes make of it, in nats from each one's mean item."""

    item: str
    mean: float
    spread: float = Field(ge=0)
    rewards: list[float]


class CommonGround(BaseModel):
    """Items on which the prototypes agree and disagree most."""

    liked: list[SharedItem] = []
    disliked: list[SharedItem] = []
    disputed: list[SharedItem] = []

    @property
    def all_items(self) -> list[SharedItem]:
        """Of all three kinds."""
        return [*self.liked, *self.disliked, *self.disputed]
