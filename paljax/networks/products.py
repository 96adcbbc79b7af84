"""Matrix products of networks: in float32, or of bfloat16 numbers with sums in float32.

N rows, D input width, E output width.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

Products = Literal["float32", "bfloat16"]
_ROW_MAJOR = Layout(major_to_minor=(0, 1))


@jax.custom_vjp
def bfloat16_product(inputs: Float[Array, "N D"], kernel: Float[Array, "D E"]) -> Array:
    """inputs @ kernel of numbers rounded to bfloat16, summed in float32; so are its gradients.

    bfloat16 has float32's range and 8 bits of precision, so nothing is scaled. JAX's own gradient
    of a product with a float32 sum would multiply in float32 again.

    Source:
        Mixed precision training, arXiv 1710.03740; bfloat16, arXiv 1905.12322.
    """
    return _contract(_rounded(inputs), _rounded(kernel), 1, 0)


def _forward(
    inputs: Float[Array, "N D"], kernel: Float[Array, "D E"]
) -> tuple[Array, tuple[Array, Array]]:
    held = _rounded(inputs), _rounded(kernel)
    return _contract(*held, 1, 0), held


def _backward(held: tuple[Array, Array], slope: Float[Array, "N E"]) -> tuple[Array, Array]:
    inputs, kernel = held
    slope = _rounded(slope)
    of_kernel = jax.lax.platform_dependent(
        inputs, slope, cpu=_of_kernel_on_cpu, default=lambda x, g: _contract(x, g, 0, 0)
    )
    return _contract(slope, kernel, 1, 1), of_kernel


bfloat16_product.defvjp(_forward, _backward)


def _of_kernel_on_cpu(inputs: Array, slope: Array) -> Array:
    # XLA's CPU multiplies bfloat16 as it is where both sides lie in the order of the product, and
    # converts them to float32 elsewhere: laid out anew this is twice as fast.
    return _contract(with_layout_constraint(inputs.T, _ROW_MAJOR), slope, 1, 0)


def _contract(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    axes = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


def _rounded(numbers: Array) -> Array:
    return jnp.asarray(numbers, jnp.bfloat16)


def _dense_in_bfloat16(inputs: Array, kernel: Array, axes: Any, precision: Any = None) -> Array:
    """`bfloat16_product` as a Dense layer calls it, on the last axis of its inputs."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    return bfloat16_product(rows, kernel).reshape(*inputs.shape[:-1], -1)


# What `flax.linen.Dense` multiplies with; None is its own.
DOT_GENERAL: Mapping[Products, Callable[..., Array] | None] = {
    "float32": None,
    "bfloat16": _dense_in_bfloat16,
}
