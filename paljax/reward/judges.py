"""What judges the epochs of a fit: a learner's state scored on validation comparisons."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from paljax.data.batches import Tables
from paljax.data.dataset import Comparisons
from paljax.data.iterations import Choices, choices_by_user
from paljax.data.prepare import Prepared
from paljax.learners.fit_by_em import EMState, best_start, expect, foresee
from paljax.learners.fit_by_episodes import EpisodeState
from paljax.learners.fit_by_gradient import FitState, weights_of
from paljax.learners.new_users import adapt
from paljax.models import Params, PreferenceModel
from paljax.parallel import Parallel, one_copy, rows_of
from paljax.predictions import EncodedTables, encode, pair, pair_margins
from paljax.processes import of_first

Scores = Mapping[str, Any]


class Fitted(NamedTuple):
    """The part of a learner's state that is the fitted model."""

    params: Params
    population: Float[Array, "K"]  # logits of w̄
    prior_strength: Float[Array, ""] | None  # λ where it was learned, in pseudo-comparisons


def fitted_by_gradient(state: FitState) -> Fitted:
    """What `fit_by_gradient` has fitted."""
    return Fitted(state.params, state.population, None)


def fitted_by_episodes(state: EpisodeState) -> Fitted:
    """What `fit_by_episodes` has fitted, λ among it."""
    return Fitted(state.params, state.population, jnp.exp(state.log_strength))


def fitted_by_em(state: EMState, scores: Scores) -> Fitted:
    """The best start; η takes the place of the population's weights."""
    best = best_start(-jnp.asarray(scores["loss"]))
    params, log_sizes = jax.tree.map(lambda leaf: leaf[best], (state.params, state.log_sizes))
    return Fitted(params, log_sizes, None)


def of_best_start(scores: Scores) -> Scores:
    """The scores of the start with the lowest loss."""
    best = best_start(-jnp.asarray(scores["loss"]))
    return {name: values[best] for name, values in scores.items()}


def judge_rows(
    model: PreferenceModel,
    tables: Tables,
    validation: Comparisons,
    rows: NDArray[np.int32],
    parallel: Parallel,
) -> Callable[[FitState], Scores]:
    """Score validation comparisons for the users' weights of the state.

    Args:
        model: The preference model.
        tables: What the comparisons index.
        validation: The comparisons.
        rows: Of the state's users, one for each comparison.
        parallel: The devices that the state lies on.

    Returns:
        The judge.
    """

    @jax.jit
    def scores(fitted: Fitted, logits: Float[Array, "n K"], tables: Tables) -> Scores:
        pairs = pair(encode(model, fitted.params, tables), validation)
        weights = weights_of(fitted.population, logits)
        return _scores(pair_margins(model, fitted.params, pairs, weights))

    def judge(state: FitState) -> Scores:
        fitted = one_copy(fitted_by_gradient(state))
        judged: Scores = scores(fitted, rows_of(state.user_logits, rows, parallel), tables)
        return judged

    return judge


def judge_joined(
    model: PreferenceModel, prepared: Prepared, train: Comparisons, validation: Comparisons
) -> Callable[[EpisodeState], Scores]:
    """Score validation comparisons for weights that are fitted to all training comparisons."""
    users = jnp.asarray(validation.user)
    num_users = len(prepared.dataset.users)

    @jax.jit
    def scores(params: Params, encoded: EncodedTables, weights: Float[Array, "U K"]) -> Scores:
        pairs = pair(encoded, validation)
        return _scores(pair_margins(model, params, pairs, jnp.take(weights, users, axis=0)))

    def judge(state: EpisodeState) -> Scores:
        fitted = one_copy(fitted_by_episodes(state))
        assert fitted.prior_strength is not None
        encoded = encode(model, fitted.params, prepared.tables)
        joined = adapt(
            model,
            fitted.params,
            jax.nn.softmax(fitted.population),
            prior_strength=fitted.prior_strength,
            encoded=encoded,
            comparisons=train,
            num_users=num_users,
            room=prepared.room,
        )
        judged: Scores = of_first(scores(fitted.params, encoded, joined.weights))
        return judged

    return judge


def judge_starts(
    model: PreferenceModel,
    prepared: Prepared,
    train: Comparisons,
    validation: Comparisons | None,
) -> Callable[[EMState], Scores]:
    """Score every start: by the evidence of its users' validation comparisons, given what the
    training comparisons say about their groups. Without any, by the fit's own evidence at its last
    E-step.

    What they say is the posterior, for hard E-steps too. `hard` is how groups are fitted; who a
    user is, in a finished run as for those who join, is a posterior whatever the fit was. So starts
    and epochs are judged by what the run will be scored by, and hard and soft fits by one measure.
    """
    num_users = len(prepared.dataset.users)
    if validation is None:
        return lambda state: {"loss": -state.evidence}
    seen = choices_by_user(train, num_users=num_users)
    held_out = choices_by_user(validation, num_users=num_users)

    @jax.jit
    def scores(state: EMState, tables: Tables, seen: Choices, held_out: Choices) -> Scores:
        def of_start(params: Params, log_sizes: Array) -> Scores:
            encoded = encode(model, params, tables)
            known = expect(model, params, log_sizes, encoded, seen, num_users).responsibilities
            found = foresee(model, params, jnp.log(known), encoded, held_out, num_users)
            return {"loss": -found.evidence, "accuracy": found.accuracy}

        return jax.vmap(of_start)(state.params, state.log_sizes)

    return lambda state: scores(state, prepared.tables, seen, held_out)


def _scores(margins: Float[Array, "n"]) -> Scores:
    return {
        "loss": jnp.mean(jax.nn.softplus(-margins)),
        "accuracy": jnp.mean(0.5 * (1 + jnp.sign(margins))),
    }
