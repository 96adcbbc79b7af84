"""PAL-A: users as mixtures of K prototypical ideal points, rewards by distance to the user's point.

N items, D item width, d latent width, K prototypes, B gathered rows.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from paljax.kernels import ideal_point_rewards, mix
from paljax.models.preference import Encoded, Inputs, Params, PreferenceModel, no_prompts
from paljax.models.scale import INITIAL_LOG_SCALE, cosine_scale
from paljax.networks import MLP, Activation
from paljax.ranges import Count, PositiveFloat, PositiveInt, Probability


class _Latent(NamedTuple):
    """An item before its user is known; `mix_then_project` needs the point itself."""

    point: Float[Array, "N d"]


class _Products(NamedTuple):
    """What distances and cosines to any mixture of prototypes need of an item."""

    products: Float[Array, "N K"]  # f(x)·p_k
    squared_norm: Float[Array, "N"]  # ‖f(x)‖²


def pal_a(
    *,
    num_prototypes: PositiveInt,
    latent_width: PositiveInt = 64,
    user_point: Literal["project_then_mix", "latent", "mix_then_project"] = "project_then_mix",
    distance: Literal["squared", "euclidean", "cosine"] = "squared",
    hidden_layers: Count = 0,
    activation: Activation = "gelu",
    dropout: Probability = 0.0,
    residual: bool = False,
    prototype_scale: PositiveFloat = 1.0,
) -> PreferenceModel:
    """Ideal-point rewards: an item is the better the nearer f(x) lies to the user's point u.

    Args:
        num_prototypes: K >= 1.
        latent_width: d.
        user_point: project_then_mix, u = w·f(P); latent, u = w·P with P in the latent space;
            mix_then_project, u = f(w·P), what the authors' code trains by default.
        distance: squared, -‖f(x) - u‖² without its item-free term, so that margins are linear in w;
            euclidean, -‖f(x) - u‖; cosine, s·cos(f(x), u).
        hidden_layers: Number of hidden layers, of the latent width, of the projector f.
        activation: gelu or relu.
        dropout: Probability of dropping a hidden unit of f, in [0, 1).
        residual: Add x to f(x) where their widths agree.
        prototype_scale: Standard deviation of the prototypes' starting values.

    Returns:
        The model; rewards per prototype exist for squared distances unless mixed before f.

    Source:
        PAL, arXiv 2406.08469, section 3, model A.
    """
    projector = MLP(latent_width, hidden_layers, latent_width, activation, dropout, residual)
    mixed_first = user_point == "mix_then_project"

    def project(params: Params, inputs: Array, dropout_key: PRNGKeyArray | None = None) -> Array:
        rngs = {} if dropout_key is None else {"dropout": dropout_key}
        variables = {"params": params["projector"]}
        return jnp.asarray(projector.apply(variables, inputs, rngs=rngs))

    def init(key: PRNGKeyArray, items: Array, prompts: Inputs | None) -> Params:
        width = latent_width if user_point == "latent" else items.shape[1]
        shape = (num_prototypes, width)
        params = {
            "projector": projector.init(jax.random.fold_in(key, 1), items)["params"],
            "prototypes": prototype_scale * jax.random.normal(jax.random.fold_in(key, 2), shape),
        }
        if distance == "cosine":
            params["log_scale"] = jnp.asarray(INITIAL_LOG_SCALE)
        return params

    def latent_prototypes(params: Params) -> Float[Array, "K d"]:
        prototypes: Array = params["prototypes"]
        return prototypes if user_point == "latent" else project(params, prototypes)

    def encode_items(
        params: Params, inputs: Array, *, dropout_key: PRNGKeyArray | None = None
    ) -> Encoded:
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, 1)
        points = project(params, inputs, key)
        if mixed_first:
            return _Latent(points)
        prototypes = latent_prototypes(params)
        if distance == "squared":
            return ideal_point_rewards(points, prototypes)
        if distance == "euclidean":
            origin = _origin(prototypes)
            points, prototypes = points - origin, prototypes - origin
        return _Products(
            products=jnp.matmul(points, prototypes.T, precision=jax.lax.Precision.HIGHEST),
            squared_norm=jnp.sum(points**2, axis=1),
        )

    def rewards(
        params: Params, items: Encoded, prompts: Encoded, weights: Float[Array, "B K"]
    ) -> Float[Array, "B"]:
        if distance == "squared" and not mixed_first:
            return mix(items, weights)
        if mixed_first:
            user = project(params, weights @ params["prototypes"])
            if distance == "euclidean":
                return -_safe_root(jnp.sum((items.point - user) ** 2, axis=1))
            product = jnp.sum(items.point * user, axis=1)
            squared_item = jnp.sum(items.point**2, axis=1)
            squared_user = jnp.sum(user**2, axis=1)
        else:
            # u = Σ_k w_k p_k enters only through f(x)·p_k and the Gram matrix of the prototypes.
            prototypes = latent_prototypes(params)
            if distance == "euclidean":
                prototypes = prototypes - _origin(prototypes)
            gram = jnp.matmul(prototypes, prototypes.T, precision=jax.lax.Precision.HIGHEST)
            product = mix(items.products, weights)
            squared_item = items.squared_norm
            squared_user = jnp.sum((weights @ gram) * weights, axis=1)
        if distance == "squared":
            return 2 * product - squared_item
        if distance == "euclidean":
            return -_safe_root(squared_item - 2 * product + squared_user)
        norms = _safe_root(squared_item) * _safe_root(squared_user)
        return cosine_scale(params["log_scale"]) * product / jnp.maximum(norms, 1e-12)

    def prototype_rewards(params: Params, items: Encoded, prompts: Encoded) -> Float[Array, "B K"]:
        return jnp.asarray(items)

    return PreferenceModel(
        num_prototypes=num_prototypes,
        uses_prompts=False,
        init=init,
        encode_items=encode_items,
        encode_prompts=no_prompts,
        rewards=rewards,
        prototype_rewards=prototype_rewards if distance == "squared" and not mixed_first else None,
    )


def _origin(prototypes: Float[Array, "K d"]) -> Float[Array, "1 d"]:
    """Where points are measured from: far away, ‖x‖² - 2 x·u + ‖u‖² would cancel."""
    return jax.lax.stop_gradient(jnp.mean(prototypes, axis=0, keepdims=True))


def _safe_root(squares: Float[Array, "B"]) -> Float[Array, "B"]:
    # The gradient of the root is infinite at zero: `where` twice keeps it out of both branches.
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
