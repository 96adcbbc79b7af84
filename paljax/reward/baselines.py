"""Baselines on numeric attributes: logistic regressions of each user, alone and as a mixed logit.

A user's reward is linear in the item's attributes, r(x) = θ_u·x. U users, n the most comparisons of
one user, D attributes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from paljax.data.by_user import rows_by_user, weighted_choices
from paljax.data.dataset import Comparisons
from paljax.kernels import log_choice
from paljax.reward.predictors import Margins, Predictor

# Standard deviations of attribute weights that validation data choose from, in nats a spread.
PRIOR_SPREADS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Where items have more numbers (embeddings), a D x D covariance of every user is no baseline.
MOST_ATTRIBUTES = 32
# Of embeddings, that a user's own regression reads: few choices can't tell more weights apart.
MOST_COMPONENTS = 16
# Rounds of EM: on electricity the mean moves by under a thousandth of its size after half of them.
EM_ROUNDS = 200
# From far away, and where the last round of EM ended: its next prior differs little.
NEWTON_STEPS, WARM_NEWTON_STEPS = 20, 2
STEP_LENGTHS = tuple(0.5**power for power in range(8))


class Population(NamedTuple):
    """Gaussian distribution of the users' attribute weights."""

    mean: Float[Array, "D"]
    covariance: Float[Array, "D D"]


class Users(NamedTuple):
    """How many users there are, and what a fit has room for."""

    number: int  # U
    room: int  # n at least, so that all fits of a run share a compiled program


class _UserRows(NamedTuple):
    """Attribute differences, chosen minus rejected, by user."""

    differences: Float[Array, "U n D"]
    mask: Float[Array, "U n"]  # sample weight, 0 is padding


def user_weights(rows: _UserRows, population: Population) -> tuple[Array, Array]:
    """Most probable attribute weights of every user, with their Laplace covariances.

    Args:
        rows: The users' comparisons.
        population: The prior; a user without comparisons gets its mean.

    Returns:
        Weights [U, D] and covariances [U, D, D].
    """
    start = jnp.broadcast_to(population.mean, (len(rows.mask), len(population.mean)))
    return _all_newton(rows, population, start, NEWTON_STEPS)


def _all_newton(
    rows: _UserRows, population: Population, start: Float[Array, "U D"], steps: int
) -> tuple[Array, Array]:
    fit = partial(_newton, population=population, steps=steps)
    weights, covariances = jax.vmap(fit)(rows.differences, rows.mask, start=start)
    return weights, covariances


@jax.jit
def mixed_logit_population(rows: _UserRows) -> Population:
    """Mean and covariance of the users' attribute weights, by EM with Laplace's approximation.

    Args:
        rows: The users' comparisons; users without any are passed over.

    Returns:
        The population.

    Source:
        Train, Discrete Choice Methods with Simulation (2009), chapters 6 and 14; the E-step
        approximates every user's posterior by a Gaussian at its mode.
    """
    seen = (jnp.sum(rows.mask, axis=1) > 0).astype(rows.mask.dtype)
    share = seen / jnp.sum(seen)
    width = rows.differences.shape[2]

    def em_round(
        state: tuple[Population, Float[Array, "U D"]], _: None
    ) -> tuple[tuple[Population, Float[Array, "U D"]], None]:
        population, weights = state
        weights, covariances = _all_newton(rows, population, weights, WARM_NEWTON_STEPS)
        mean = share @ weights
        centred = weights - mean[None, :]
        scatter = jnp.einsum("u,ui,uj->ij", share, centred, centred)
        covariance = scatter + jnp.einsum("u,uij->ij", share, covariances)
        return (Population(mean, covariance), weights), None

    start = Population(jnp.zeros(width), jnp.eye(width))
    weights, _ = user_weights(rows, start)
    (population, _), _ = jax.lax.scan(em_round, (start, weights), None, length=EM_ROUNDS)
    return population


def item_majority(train: Comparisons, num_items: int) -> Predictor:
    """Everybody prefers the item that won more of its training comparisons.

    Args:
        train: Training comparisons; a tie is half a win for each side.
        num_items: N.

    Returns:
        The predictor. An item's reward is the log-odds of winning, with one win and one loss added,
        so that an item which training never saw has the reward zero.
    """
    rows, weights = weighted_choices(train)
    wins = np.bincount(rows.chosen, weights=weights, minlength=num_items)
    losses = np.bincount(rows.rejected, weights=weights, minlength=num_items)
    rewards = np.log((wins + 1) / (losses + 1))

    def margins(rows: Comparisons) -> Margins:
        return np.asarray(rewards[rows.chosen] - rewards[rows.rejected])

    return Predictor(seen=margins, joining=lambda support, query: margins(query))


def mixed_logit(features: NDArray[np.float32], train: Comparisons, users: Users) -> Predictor:
    """Hierarchical Gaussian mixed logit: every user's weights shrunk to the population's.

    Args:
        features: Standardised attributes of all items, [N, D].
        train: Training comparisons.
        users: How many they are.

    Returns:
        The predictor, by every user's most probable weights.
    """
    population = mixed_logit_population(_rows_of(features, train, users))
    return _predictor(features, train, users, population)


def per_user_logistic_regression(
    features: NDArray[np.float32], train: Comparisons, users: Users, *, spread: float
) -> Predictor:
    """A logistic regression of each user alone, with a Gaussian prior around zero.

    Args:
        features: Standardised attributes of all items, [N, D].
        train: Training comparisons.
        users: How many they are.
        spread: Standard deviation of the prior.

    Returns:
        The predictor.
    """
    width = features.shape[1]
    population = Population(jnp.zeros(width), spread**2 * jnp.eye(width))
    return _predictor(features, train, users, population)


def principal_components(
    features: NDArray[np.float32], rows: NDArray[np.int32], *, most: int = MOST_COMPONENTS
) -> NDArray[np.float32]:
    """Coordinates of all items along the directions in which training items differ most.

    Args:
        features: Of all items, [N, D].
        rows: Items of training, one entry for every time that one appears.
        most: Of the components.

    Returns:
        [N, C], C at most `most`, D and one less than the distinct training items. Coordinates are
        from the training items' mean and scaled together, so that the first has mean square one.
    """
    appearing, counts = np.unique(rows, return_counts=True)
    share = counts / counts.sum()
    centred = features.astype(np.float64) - share @ features[appearing].astype(np.float64)
    weighted = np.sqrt(share)[:, None] * centred[appearing]
    _, spreads, directions = np.linalg.svd(weighted, full_matrices=False)
    told = spreads[:most] > 1e-6 * max(spreads[0], 1e-12)
    components = centred @ directions[:most][told].T
    scaled: NDArray[np.float32] = (components / max(spreads[0], 1e-12)).astype(np.float32)
    return scaled


def with_levels(features: NDArray[np.float32], num_levels: int) -> NDArray[np.float32]:
    """Features of items of which the last are levels, each with a number of its own and no other.

    Args:
        features: Numbers of all items, [N, C].
        num_levels: How many of them are levels that votes are compared with, L.

    Returns:
        [N, C + L], so that a weight of every level is its threshold.
    """
    wider = np.pad(features, ((0, 0), (0, num_levels)))
    first = len(features) - num_levels
    wider[first:, : features.shape[1]] = 0
    wider[first:, features.shape[1] :] = np.eye(num_levels)
    return wider


def best_spread(
    features: NDArray[np.float32],
    train: Comparisons,
    validation: Comparisons,
    users: Users,
    spreads: Sequence[float] = PRIOR_SPREADS,
) -> float:
    """The prior's standard deviation that serves validation data best, by log-likelihood."""

    def validation_nll(spread: float) -> float:
        predictor = per_user_logistic_regression(features, train, users, spread=spread)
        return float(np.logaddexp(0, -predictor.seen(validation)).mean())

    return min(spreads, key=validation_nll)


def _predictor(
    features: NDArray[np.float32], train: Comparisons, users: Users, population: Population
) -> Predictor:
    def margins_after(support: Comparisons) -> Callable[[Comparisons], Margins]:
        weights, _ = _fit_users(_rows_of(features, support, users), population)
        on_host = np.asarray(weights, np.float64)
        return lambda rows: np.sum(on_host[rows.user] * _differences(features, rows), axis=1)

    return Predictor(
        seen=margins_after(train),
        joining=lambda support, query: margins_after(support)(query),
    )


_fit_users = jax.jit(user_weights)


def _newton(
    differences: Float[Array, "n D"],
    mask: Float[Array, "n"],
    *,
    population: Population,
    start: Float[Array, "D"],
    steps: int,
) -> tuple[Float[Array, "D"], Float[Array, "D D"]]:
    """Maximise Σ_j mask_j log σ(d_j·θ) + log N(θ; μ, Σ) for one user by damped Newton."""
    precision = jnp.linalg.inv(population.covariance)

    def log_posterior(weights: Array) -> Array:
        deviation = weights - population.mean
        likelihood = jnp.vdot(mask, log_choice(differences @ weights))
        return likelihood - jnp.vdot(deviation, precision @ deviation) / 2

    def negative_hessian(weights: Array) -> Array:
        chosen = jax.nn.sigmoid(differences @ weights)
        curvature = mask * chosen * (1 - chosen)
        return jnp.asarray((differences.T * curvature[None, :]) @ differences + precision)

    def step(weights: Array, _: None) -> tuple[Array, None]:
        direction = jnp.linalg.solve(negative_hessian(weights), jax.grad(log_posterior)(weights))
        lengths = jnp.asarray((*STEP_LENGTHS, 0.0), weights.dtype)
        values = jax.vmap(lambda length: log_posterior(weights + length * direction))(lengths)
        return weights + lengths[jnp.argmax(values)] * direction, None

    weights, _ = jax.lax.scan(step, start, None, length=steps)
    return weights, jnp.linalg.inv(negative_hessian(weights))


def _rows_of(features: NDArray[np.float32], rows: Comparisons, users: Users) -> _UserRows:
    rows, weights = weighted_choices(rows)
    places, mask = rows_by_user(rows, weights, users.number, room=users.room)
    return _UserRows(jnp.asarray(_differences(features, rows)[places]), jnp.asarray(mask))


def _differences(features: NDArray[np.float32], rows: Comparisons) -> NDArray[np.float32]:
    return features[rows.chosen] - features[rows.rejected]
