"""New users: weights from a few comparisons while networks and prototypes stay as they are.

U users, n the most comparisons of one user, K prototypes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from paljax.data.by_user import UserBlock, rows_by_user, user_blocks, weighted_choices
from paljax.data.dataset import Comparisons
from paljax.data.iterations import choices_by_user
from paljax.kernels import SimplexFit, fit_simplex, fit_simplex_nonlinear
from paljax.learners.fit_by_em import expect
from paljax.models import Params, PreferenceModel, gather, margins
from paljax.predictions import EncodedTables, Pairs, pair, prototype_margins

# Frank-Wolfe gap in nats of a user's log-posterior; float32 reaches it for dozens of comparisons.
GAP_TOLERANCE = 1e-5


class NewUsers(NamedTuple):
    """Users' weights with how far they can be from the optimum.

    Where users are members of groups, weights are the probabilities of the groups: exact, so that
    the gap is zero, and with the covariance of the unknown membership.
    """

    weights: Float[Array, "U K"]
    gap: Float[
        Array, "U"
    ]  # Frank-Wolfe gap in nats; bounds the distance to the optimum if certified
    covariance: Float[Array, "U K K"]  # Laplace, on the simplex: rows sum to zero
    iterations: Int[Array, "U"]  # Newton steps
    certified: bool  # False where margins are not linear in the weights: the gap is then local


def adapt(
    model: PreferenceModel,
    params: Params,
    population: Float[Array, "K"],
    *,
    prior_strength: float | Float[Array, ""],
    encoded: EncodedTables,
    comparisons: Comparisons,
    num_users: int,
    room: int = 0,
) -> NewUsers:
    """Fit all users' weights to their comparisons, users with about as many side by side.

    Minimises Σ_j -log σ(m_j(w)) - λ Σ_k w̄_k log w_k for each user. A tie counts half for each side.

    Args:
        model: The trained model.
        params: Its parameters.
        population: The population's weights w̄.
        prior_strength: λ > 0, in pseudo-comparisons.
        encoded: All items and prompts after the model's networks.
        comparisons: The users' comparisons; `user` counts from 0.
        num_users: U; a user without comparisons gets w̄ exactly.
        room: n at least: fits with the same room share a compiled program.

    Returns:
        Weights, gap, covariance and iterations of every user.

    Source:
        paljax's design, section 2.3; PAL, arXiv 2406.08469, section 3 (new users).
    """
    comparisons, sample_weights = weighted_choices(comparisons)
    pairs = pair(encoded, comparisons)
    strength = jnp.asarray(prior_strength, jnp.float32)
    if model.prototype_rewards is not None:
        blocks = user_blocks(comparisons, sample_weights, num_users, room=room)
        of_pairs = prototype_margins(model, params, pairs)
        fits = [
            _fit_linear(of_pairs, block.rows, block.mask, population, strength) for block in blocks
        ]
        fitted = _by_user(fits, blocks, num_users)
    else:  # one block: a program of these takes longer to compile than to run
        rows, mask = rows_by_user(comparisons, sample_weights, num_users, room=room)
        of_rows = gather(pairs, jnp.asarray(rows))
        fitted = _fit_nonlinear(model, params, of_rows, mask, population, strength)
    return NewUsers(
        weights=fitted.weights,
        gap=fitted.gap,
        covariance=fitted.covariance,
        iterations=fitted.iterations,
        certified=model.prototype_rewards is not None,
    )


def _by_user(fits: Sequence[SimplexFit], blocks: Sequence[UserBlock], num_users: int) -> SimplexFit:
    """Fits of blocks in the order of the users."""
    users = np.concatenate([block.users for block in blocks])
    place = np.empty(num_users + 1, np.int64)
    place[users] = np.arange(len(users))
    order = jnp.asarray(place[:num_users])
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *fits)
    fitted: SimplexFit = jax.tree.map(lambda leaf: jnp.take(leaf, order, axis=0), joined)
    return fitted


def assign(
    model: PreferenceModel,
    params: Params,
    sizes: Float[Array, "K"],
    *,
    encoded: EncodedTables,
    comparisons: Comparisons,
    num_users: int,
) -> NewUsers:
    """Probabilities of the groups of all users, given their comparisons: an E-step.

    Args:
        model: The trained model, each of whose prototypes is a group's reward.
        params: Its parameters.
        sizes: η, the groups' shares of the users; 0 for a group without any.
        encoded: All items and prompts after the model's networks.
        comparisons: The users' comparisons; `user` counts from 0. A tie is half a choice for each
            side.
        num_users: U; a user without comparisons gets η.

    Returns:
        Probabilities q as weights, gap 0, covariance diag(q) - q qᵀ of the unknown membership, no
        iterations.

    Source:
        paljax's design, section 2.4.
    """
    choices = choices_by_user(comparisons, num_users=num_users)
    found = _expect(model, params, jnp.log(sizes), encoded, choices, num_users)
    weights = found.responsibilities
    return NewUsers(
        weights=weights,
        gap=jnp.zeros(num_users),
        covariance=jax.vmap(jnp.diag)(weights) - weights[:, :, None] * weights[:, None, :],
        iterations=jnp.zeros(num_users, jnp.int32),
        certified=True,
    )


_expect = jax.jit(expect, static_argnames=("model", "num_users"))


def _fit_linear(
    margin: Float[Array, "m K"], rows: Any, mask: Any, population: Array, strength: Array
) -> SimplexFit:
    of_rows = gather(margin, jnp.asarray(rows))
    fitted: SimplexFit = _fit_margins(of_rows, jnp.asarray(mask), population, strength)
    return fitted


@jax.jit
def _fit_margins(
    margin: Float[Array, "C n K"], mask: Array, population: Array, strength: Array
) -> SimplexFit:
    return fit_simplex(margin, mask, prior=population, strength=strength, tolerance=GAP_TOLERANCE)


@partial(jax.jit, static_argnames="model")
def _fit_nonlinear(
    model: PreferenceModel,
    params: Params,
    pairs: Pairs,
    mask: Any,
    population: Array,
    strength: Array,
) -> SimplexFit:
    def margin_of_user(weights: Float[Array, "K"], pairs: Pairs) -> Float[Array, "n"]:
        repeated = jnp.broadcast_to(weights, (mask.shape[1], weights.shape[0]))
        return margins(model, params, (pairs.chosen, pairs.rejected), pairs.prompt, repeated)

    return fit_simplex_nonlinear(
        margin_of_user,
        pairs,
        mask,
        prior=population,
        strength=strength,
        tolerance=GAP_TOLERANCE,
    )
