"""Multi-layer perceptrons: the item projector f, the shared reward b and the prompt maps g_k.

N rows, D input width, d output width, K maps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from paljax.networks.products import DOT_GENERAL, Products

# GELU in its exact form: the authors' code and torch's default use erf, jax.nn.gelu's default the
# tanh approximation.
Activation = Literal["gelu", "relu"]
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
}


class MLP(nn.Module):
    """Hidden layers of one width, then a linear layer. Dropout acts where a dropout key is given.

    Attributes:
        width: Output width d.
        hidden_layers: Number of hidden layers; 0 is a linear map.
        hidden_width: Width of the hidden layers.
        activation: A name in `ACTIVATIONS`.
        dropout: Probability of dropping a hidden unit, applied before the activation.
        residual: Add the input to the output where their widths agree.
        use_bias: Whether the last layer has a bias.
        products: What the layers multiply: float32 numbers, or bfloat16 ones summed in float32.

    Source:
        The projectors of PAL, arXiv 2406.08469, appendix; paljax's design, section 2.1.
    """

    width: int
    hidden_layers: int = 0
    hidden_width: int = 64
    activation: Activation = "gelu"
    dropout: float = 0.0
    residual: bool = False
    use_bias: bool = True
    products: Products = "float32"

    @nn.compact
    def __call__(self, inputs: Float[Array, "N D"]) -> Float[Array, "N d"]:
        training = self.has_rng("dropout")
        hidden, dot_general = inputs, DOT_GENERAL[self.products]
        for _ in range(self.hidden_layers):
            hidden = nn.Dense(self.hidden_width, dot_general=dot_general)(hidden)
            hidden = nn.Dropout(self.dropout, deterministic=not training)(hidden)
            hidden = ACTIVATIONS[self.activation](hidden)
        last = nn.Dense(self.width, use_bias=self.use_bias, dot_general=dot_general)
        outputs: Array = last(hidden)
        if self.residual and outputs.shape == inputs.shape:
            outputs = outputs + inputs
        return outputs


def BatchedMLP(count: int, **attributes: Any) -> nn.Module:  # noqa: N802  (a module's constructor)
    """K MLPs on one input as one batched network, [N, D] -> [N, K, d]; no loop over K.

    Args:
        count: K.
        **attributes: Those of `MLP`.

    Returns:
        The module; its parameters carry a leading axis K.
    """
    batched = nn.vmap(
        MLP,
        in_axes=None,
        out_axes=-2,
        axis_size=count,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
    )
    module: nn.Module = batched(**attributes)
    return module


def outputs(
    network: nn.Module,
    params: Any,
    inputs: Float[Array, "N D"],
    *,
    dropout_key: PRNGKeyArray | None = None,
    part: int = 0,
) -> Array:
    """What a network makes of its inputs.

    Args:
        network: An `MLP` or `BatchedMLP`.
        params: Its parameters.
        inputs: Vectors.
        dropout_key: Of the whole model; None drops nothing.
        part: Which of the model's networks this is: each drops by a key of its own.

    Returns:
        The outputs, leading axis N.
    """
    rngs = {} if dropout_key is None else {"dropout": jax.random.fold_in(dropout_key, part)}
    return jnp.asarray(network.apply({"params": params}, inputs, rngs=rngs))
