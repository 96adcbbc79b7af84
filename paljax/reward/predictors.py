"""What evaluation asks of any model: margins for seen users, and for users who join later."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from paljax.data.batches import Tables
from paljax.data.dataset import Comparisons
from paljax.learners.new_users import NewUsers, adapt, assign
from paljax.models import Params, PreferenceModel
from paljax.predictions import EncodedTables, comparison_margins, encode

Margins = NDArray[Any]  # [n], in nats


class Predictor(NamedTuple):
    """A trained model behind the two questions of an evaluation."""

    seen: Callable[[Comparisons], Margins]  # comparisons of users of the training set
    # (support, query) comparisons of users numbered as in the training set -> margins of query
    joining: Callable[[Comparisons, Comparisons], Margins]


class Trained(NamedTuple):
    """A fitted preference model."""

    model: PreferenceModel
    params: Params
    population: Float[Array, "K"]  # the population's weights w̄; η where users are members
    # λ, pseudo-comparisons. None: a user is no mixture but a member of one prototype's group,
    # nobody knows which, and weights are probabilities.
    prior_strength: float | None

    @property
    def exclusive(self) -> bool:
        """Whether every user belongs to one prototype."""
        return self.prior_strength is None

    def margins(
        self, encoded: EncodedTables, comparisons: Comparisons, weights: Float[Array, "U K"]
    ) -> Margins:
        """Margin of every comparison for the user who made it."""
        return comparison_margins(
            self.model, self.params, encoded, comparisons, weights, exclusive=self.exclusive
        )


def join(
    trained: Trained, tables: Tables, support: Comparisons, num_users: int, *, room: int = 0
) -> NewUsers:
    """Weights of users from their support comparisons; w̄ for a user without any."""
    encoded = encode(trained.model, trained.params, tables)
    if trained.prior_strength is None:
        return assign(
            trained.model,
            trained.params,
            trained.population,
            encoded=encoded,
            comparisons=support,
            num_users=num_users,
        )
    return adapt(
        trained.model,
        trained.params,
        trained.population,
        prior_strength=trained.prior_strength,
        encoded=encoded,
        comparisons=support,
        num_users=num_users,
        room=room,
    )


def predict_with(
    trained: Trained, tables: Tables, weights: Float[Array, "U K"], *, room: int
) -> Predictor:
    """Predict with a preference model.

    Args:
        trained: The model.
        tables: Inputs of all items and prompts.
        weights: Weights of all users of the data set, seen ones fitted.
        room: Of `adapt`.

    Returns:
        The predictor; users who join are fitted to their support comparisons.
    """

    def margins_for(weights: Float[Array, "U K"], comparisons: Comparisons) -> Margins:
        encoded = encode(trained.model, trained.params, tables)
        return trained.margins(encoded, comparisons, weights)

    def joining(support: Comparisons, query: Comparisons) -> Margins:
        # All users of the data set, so that every fit of the run shares one compiled program.
        joined = join(trained, tables, support, len(weights), room=room)
        return margins_for(joined.weights, query)

    return Predictor(seen=lambda rows: margins_for(weights, rows), joining=joining)


def constant() -> Predictor:
    """Every reward is zero: each choice is a coin toss."""
    return Predictor(
        seen=lambda rows: np.zeros(len(rows.user)),
        joining=lambda support, query: np.zeros(len(query.user)),
    )
