"""What metrics.json says of the checks beside every accuracy."""

from pydantic import BaseModel, Field

from paljax.reporting.numbers import Fraction


class LabelSwap(BaseModel):
    """Accuracy where the two sides of every scored comparison are swapped."""

    accuracy: float = Field(ge=0, le=1)
    expected: float = Field(ge=0, le=1)


class KnownDifference(BaseModel):
    """A difference that is always there, with its interval."""

    accuracy: float
    interval: tuple[float, float] | None


class ShuffledUsers(BaseModel):
    """The gain over the shared reward where everybody is predicted as somebody else."""

    gain: KnownDifference


class FormatProbe(BaseModel):
    """Accuracy of a probe that sees only the format of the two texts."""

    accuracy: float = Field(ge=0, le=1)
    interval: tuple[float, float] | None


class FlipRate(BaseModel):
    """Share of new users' answers that turn when all labels that they gave are turned."""

    rate: float = Field(ge=0, le=1)
    interval: tuple[float, float] | None


class RepeatedPairs(BaseModel):
    """Scored comparisons that the same person also made in what is learned from."""

    n: int = Field(ge=0)
    accuracy_on_others: Fraction = None


class Audit(BaseModel):
    """What `paljax.reward.audit` found."""

    label_swap: LabelSwap
    shuffled_users: ShuffledUsers
    format_probe: FormatProbe | None = None
    flip_rate: FlipRate | None = None
    overlap: dict[str, int]
    overlap_counts: str = "choice tasks"
    repeated_pairs: RepeatedPairs  # of people who are known, in training
    repeated_pairs_of_new: RepeatedPairs | None = None  # of new people, in what they joined by
    ties: dict[str, int] = {}
