"""A language model on many devices: its parameters in parts, every batch dealt to all.

The devices are a grid of `data` x `fsdp`. Along `fsdp` every large parameter, its average and its
optimiser's moments are cut along the model's width and gathered where they are used; along `data`
these parts repeat. Prompts, and all that is drawn from them, are dealt to all devices. XLA places
what lies between.

Source: fully sharded data parallelism: ZeRO, arXiv 1910.02054, section 5; GSPMD, arXiv 2105.04663.
"""

import math
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray

from paljax.errors import UserError, nearest
from paljax.learners.learner import Learner, Metrics, State
from paljax.networks.causal_lm import Places
from paljax.networks.logical_axes import Axes, logical_axes
from paljax.policies import Params, Policy

DATA, FSDP = "data", "fsdp"
# The width is an axis of every large matrix, so that one rule cuts them all.
_CUT = {"embed": FSDP}
Tree = TypeVar("Tree")


def grid_of(data: int, fsdp: int) -> Mesh | None:
    """The first `data` x `fsdp` devices as a grid; None for one device, which needs none.

    Raises:
        UserError: If there are not so many devices.
    """
    wanted, available = data * fsdp, jax.devices()
    if wanted > len(available):
        raise UserError(
            f"parallel: data {data} x fsdp {fsdp} is {wanted} devices, JAX has {len(available)} "
            f"({available[0].platform})"
        )
    return None if wanted == 1 else grid_on(available[:wanted], data, fsdp)


def grid_on(devices: Any, data: int, fsdp: int) -> Mesh:
    """These devices as a grid, neighbours on the machine beside each other."""
    automatic = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((data, fsdp), (DATA, FSDP), axis_types=automatic, devices=devices)


def require_divisible(grid: Mesh | None, *, width: int, batch: int) -> None:
    """Refuse a model or a batch that the grid can't share equally.

    Args:
        grid: The devices.
        width: Of the model.
        batch: Prompts a step.

    Raises:
        UserError: If one does not divide; it names what would.
    """
    if grid is None:
        return
    fsdp, devices = grid.shape[FSDP], grid.devices.size
    if width % fsdp:
        fits = [str(count) for count in range(1, fsdp + 1) if width % count == 0]
        raise UserError(
            f"parallel.fsdp: {fsdp} devices can't share a model of width {width} equally; "
            f"{nearest(str(fsdp), fits)}"
        )
    if batch % devices:
        below, above = batch // devices * devices, math.ceil(batch / devices) * devices
        raise UserError(
            f"training.prompts_per_batch: {batch} prompts can't be dealt to {devices} devices "
            f"equally; give {above}" + (f" or {below}" if below else "")
        )


def placed(params: Tree, grid: Mesh | None) -> Tree:
    """Parameters of a language model on the devices, each in its parts."""
    where = None if grid is None else shardings(params, grid)
    on_devices: Tree = jax.device_put(params, where)
    return on_devices


def repeated(tree: Tree, grid: Mesh | None) -> Tree:
    """What is small beside a language model, whole on every device."""
    where = None if grid is None else NamedSharding(grid, PartitionSpec())
    on_devices: Tree = jax.device_put(tree, where)
    return on_devices


def shardings(tree: Any, grid: Mesh) -> Any:
    """How parameters, or a state that holds them and their moments, lie on the grid."""

    def place(_: Any, axes: Axes) -> NamedSharding:
        return NamedSharding(grid, PartitionSpec(*(_CUT.get(name or "") for name in axes)))

    return jax.tree.map(place, tree, logical_axes(tree))


def places_on(grid: Mesh) -> Places:
    """How a language model's stream lies on a grid.

    Whole texts are dealt to the devices, which gather a layer's parameters once for many tokens.
    One new token of each text is little beside a layer: it is cut along the width as the parameters
    are, which then stay where they lie.
    """
    return Places(
        passes=NamedSharding(grid, PartitionSpec((DATA, FSDP))),
        tokens=NamedSharding(grid, PartitionSpec(DATA, None, FSDP)),
    )


def dealt(tree: Tree, grid: Mesh | None) -> Tree:
    """Inside a compiled function: the leading axis dealt to all devices."""
    if grid is None:
        return tree
    place = NamedSharding(grid, PartitionSpec((DATA, FSDP)))
    shared: Tree = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, place), tree)
    return shared


def start_on_grid(policy: Policy, grid: Mesh) -> Policy:
    """The policy of a language model whose first parameters are made in their parts."""

    def init(key: PRNGKeyArray) -> Params:
        params = policy.init(key)
        return jax.lax.with_sharding_constraint(params, shardings(params, grid))

    return policy._replace(init=init)


def on_grid(learner: Learner, grid: Mesh) -> Learner:
    """The learner of a language model with its state and its batches on a grid.

    Args:
        learner: Of `fit_policy`, on `TextPrompts`.
        grid: The devices.

    Returns:
        A learner of the same numbers; jit runs it, and other steps of a scan need no more.
    """

    def held(state: State) -> State:
        return jax.lax.with_sharding_constraint(state, shardings(state, grid))

    def init(key: PRNGKeyArray) -> State:
        return held(learner.init(key))

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        texts = batch.prompts
        texts = texts._replace(
            prompts=dealt(texts.prompts, grid),
            reward_inputs=dealt(texts.reward_inputs, grid),
        )
        batch = batch._replace(
            prompts=texts, rows=dealt(batch.rows, grid), weights=dealt(batch.weights, grid)
        )
        state, metrics = learner.step(held(state), batch)
        everywhere = NamedSharding(grid, PartitionSpec())
        return held(state), jax.lax.with_sharding_constraint(
            metrics, jax.tree.map(lambda _: everywhere, metrics)
        )

    return Learner(init, step, learner.of_users)
