"""What a learner says to the other devices that take the same step on other comparisons.

Shared parameters are the same on every device and their gradients are summed; what belongs to a
user lives on one device and is spoken of to nobody.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


class Devices(NamedTuple):
    """How one device's part of a step becomes the whole step; a tree is a pytree of arrays."""

    total: Callable[[Any], Any]  # tree -> its sum over all devices, the same on each
    local: Callable[[Any], Any]  # shared tree -> the same values; gradients stay on the device
    own_key: Callable[[PRNGKeyArray], PRNGKeyArray]  # shared key -> a key of this device


ONE_DEVICE = Devices(total=lambda tree: tree, local=lambda tree: tree, own_key=lambda key: key)


def part_of_mean(
    values: Float[Array, "B"], present: Bool[Array, "B"], devices: Devices = ONE_DEVICE
) -> Float[Array, ""]:
    """What this device's comparisons add to the mean over all devices' comparisons."""
    return jnp.sum(jnp.where(present, values, 0)) / jnp.maximum(devices.total(jnp.sum(present)), 1)


def along(axis: str) -> Devices:
    """Devices that lie along a named axis of `shard_map` or `pmap`.

    A learner differentiates its own device's part of the loss with respect to `local` copies of
    shared parameters, and then sums gradients by `total`. Without `local` the gradient of what is
    the same everywhere is already a sum under `shard_map` and not under `pmap`, and a mean of it
    would be as many times too large as there are devices.

    Args:
        axis: Name of the axis.

    Returns:
        Sums over the axis.
    """

    def local(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis, to="varying"), tree)

    def own_key(key: PRNGKeyArray) -> PRNGKeyArray:
        return jax.random.fold_in(key, jax.lax.axis_index(axis))

    return Devices(total=lambda tree: jax.lax.psum(tree, axis), local=local, own_key=own_key)
