"""Numbers with the range that a hyper-parameter allows; the configuration checks them."""

from typing import Annotated

from annotated_types import Ge, Gt, Lt

Count = Annotated[int, Ge(0)]
PositiveInt = Annotated[int, Ge(1)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Lt(1)]
