"""Numbers as result files hold them: a number that is not known, and a fraction, checked."""

import math
from typing import Annotated

from pydantic import AfterValidator


def _known(value: float | None) -> float | None:
    """NaN and infinities say "no such number" as null does: the worst group where there is none."""
    return value if value is not None and math.isfinite(value) else None


def _fraction(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{value:g} is no fraction: wanted a number from 0 to 1")
    return value


Number = Annotated[float | None, AfterValidator(_known)]
Fraction = Annotated[Number, AfterValidator(_fraction)]
