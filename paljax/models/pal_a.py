"""PAL-A: users as mixtures of K prototypical ideal points, rewards by distance to the user's point.

N items, D item width, d latent width, K prototypes, B gathered rows.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from paljax.kernels import ideal_point_rewards, mix
from paljax.models.preference import (
    Encoded,
    Inputs,
    Params,
    PreferenceModel,
    encoded_rewards,
    no_prompts,
)
from paljax.models.scale import INITIAL_LOG_SCALE, cosine_scale
from paljax.networks import MLP, Activation, Products, outputs
from paljax.ranges import Count, PositiveFloat, PositiveInt, Probability

UserPoint = Literal["project_then_mix", "latent", "mix_then_project"]
Distance = Literal["squared", "euclidean", "cosine"]


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
    user_point: UserPoint = "project_then_mix",
    distance: Distance = "squared",
    hidden_layers: Count = 0,
    activation: Activation = "gelu",
    dropout: Probability = 0.0,
    residual: bool = False,
    products: Products = "float32",
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
        products: What f multiplies: float32, or bfloat16 summed in float32.
        prototype_scale: Standard deviation of the prototypes' starting values.

    Returns:
        The model; rewards per prototype exist for squared distances unless mixed before f.

    Source:
        PAL, arXiv 2406.08469, section 3, model A.
    """
    projector = MLP(
        latent_width,
        hidden_layers,
        latent_width,
        activation,
        dropout,
        residual,
        products=products,
    )
    space = _Space(projector, num_prototypes, user_point, distance, prototype_scale)
    return PreferenceModel(
        num_prototypes=num_prototypes,
        uses_prompts=False,
        init=partial(_init, space),
        encode_items=partial(_encode_items, space),
        encode_prompts=no_prompts,
        rewards=partial(_rewards, space),
        prototype_rewards=encoded_rewards if space.linear else None,
    )


class _Space(NamedTuple):
    """Where items and users are points, and how the nearness of two is measured."""

    projector: MLP  # f
    num_prototypes: int
    user_point: UserPoint
    distance: Distance
    prototype_scale: float

    @property
    def mixed_first(self) -> bool:
        return self.user_point == "mix_then_project"

    @property
    def linear(self) -> bool:
        """Whether margins are linear in the weights."""
        return self.distance == "squared" and not self.mixed_first


def _init(space: _Space, key: PRNGKeyArray, items: Array, prompts: Inputs | None) -> Params:
    width = space.projector.width if space.user_point == "latent" else items.shape[1]
    points = jax.random.normal(jax.random.fold_in(key, 2), (space.num_prototypes, width))
    params = {
        "projector": space.projector.init(jax.random.fold_in(key, 1), items)["params"],
        "prototypes": space.prototype_scale * points,
    }
    if space.distance == "cosine":
        params["log_scale"] = jnp.asarray(INITIAL_LOG_SCALE)
    return params


def _latent_prototypes(space: _Space, params: Params) -> Float[Array, "K d"]:
    prototypes: Array = params["prototypes"]
    if space.user_point == "latent":
        return prototypes
    return outputs(space.projector, params["projector"], prototypes)


def _encode_items(
    space: _Space, params: Params, inputs: Array, *, dropout_key: PRNGKeyArray | None = None
) -> Encoded:
    points = outputs(space.projector, params["projector"], inputs, dropout_key=dropout_key, part=1)
    if space.mixed_first:
        return _Latent(points)
    prototypes = _latent_prototypes(space, params)
    if space.distance == "squared":
        return ideal_point_rewards(points, prototypes)
    if space.distance == "euclidean":
        origin = _origin(prototypes)
        points, prototypes = points - origin, prototypes - origin
    return _Products(
        products=jnp.matmul(points, prototypes.T, precision=jax.lax.Precision.HIGHEST),
        squared_norm=jnp.sum(points**2, axis=1),
    )


def _rewards(
    space: _Space, params: Params, items: Encoded, prompts: Encoded, weights: Float[Array, "B K"]
) -> Float[Array, "B"]:
    if space.linear:
        return mix(items, weights)
    if space.mixed_first:
        user = outputs(space.projector, params["projector"], weights @ params["prototypes"])
        if space.distance == "euclidean":
            return -_safe_root(jnp.sum((items.point - user) ** 2, axis=1))
        product = jnp.sum(items.point * user, axis=1)
        squared_item = jnp.sum(items.point**2, axis=1)
        squared_user = jnp.sum(user**2, axis=1)
    else:
        # u = Σ_k w_k p_k enters only through f(x)·p_k and the Gram matrix of the prototypes.
        prototypes = _latent_prototypes(space, params)
        if space.distance == "euclidean":
            prototypes = prototypes - _origin(prototypes)
        gram = jnp.matmul(prototypes, prototypes.T, precision=jax.lax.Precision.HIGHEST)
        product = mix(items.products, weights)
        squared_item = items.squared_norm
        squared_user = jnp.sum((weights @ gram) * weights, axis=1)
    if space.distance == "squared":
        return 2 * product - squared_item
    if space.distance == "euclidean":
        return -_safe_root(squared_item - 2 * product + squared_user)
    norms = _safe_root(squared_item) * _safe_root(squared_user)
    return cosine_scale(params["log_scale"]) * product / jnp.maximum(norms, 1e-12)


def _origin(prototypes: Float[Array, "K d"]) -> Float[Array, "1 d"]:
    """Where points are measured from: far away, ‖x‖² - 2 x·u + ‖u‖² would cancel."""
    return jax.lax.stop_gradient(jnp.mean(prototypes, axis=0, keepdims=True))


def _safe_root(squares: Float[Array, "B"]) -> Float[Array, "B"]:
    # The gradient of the root is infinite at zero: `where` twice keeps it out of both branches.
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
