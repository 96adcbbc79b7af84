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
    return _contract(slope, kernel, 1, 1), _contract(inputs, slope, 0, 0)


bfloat16_product.defvjp(_forward, _backward)


def _contract(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    """Sum over one axis of each, in float32."""

    def product(left: Array, right: Array, left_axis: int = left_axis) -> Array:
        axes = (((left_axis,), (right_axis,)), ((), ()))
        return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)

    def on_cpu(left: Array, right: Array) -> Array:
        # XLA's CPU multiplies bfloat16 as it is where both sides lie in the order of the product,
        # and converts them to float32 elsewhere: laid out anew this is twice as fast.
        left = left if left_axis == 1 else left.T
        left, right = (with_layout_constraint(side, _ROW_MAJOR) for side in (left, right))
        return product(left, right, 1)

    found: Array = jax.lax.platform_dependent(left, right, cpu=on_cpu, default=product)
    return found


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
