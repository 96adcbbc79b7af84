"""One fit on many devices: each has a block of users, and all take every step together.

A device holds its users' rows of the state and their comparisons; what all users share is on every
device, and of that alone gradients travel. D devices along one axis, in any number of processes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from paljax.errors import UserError
from paljax.learners.devices import ONE_DEVICE, Devices, along
from paljax.learners.learner import Learner, Metrics, State

AXIS = "devices"
Backend = Literal["shard_map", "pmap", "jit"]
# (state, batches, tables) -> (state, metrics); D stacks of batches, one after the other
Step = Callable[[State, Any, Any], tuple[State, Metrics]]
Tree = TypeVar("Tree")


class Parallel(NamedTuple):
    """Which devices share a fit, and how."""

    mesh: Mesh
    backend: Backend

    @property
    def num_devices(self) -> int:
        """D."""
        return int(self.mesh.devices.size)

    @property
    def devices(self) -> Devices:
        """What a learner says to the other devices."""
        return ONE_DEVICE if self.backend == "jit" else along(AXIS)


def on_devices(backend: Backend, num_devices: int | None) -> Parallel:
    """Choose devices.

    Args:
        backend: `shard_map`; `pmap`, the older way to say the same, in one process; or `jit`, on
            one device.
        num_devices: D; None takes all devices of all processes, and one for `jit`.

    Returns:
        The devices; one alone is always driven by `jit`, since it has nobody to speak to.

    Raises:
        UserError: If there are not so many, or the backend can't drive them.
    """
    available = jax.devices()
    wanted = num_devices or (1 if backend == "jit" else len(available))
    if wanted > len(available):
        raise UserError(
            f"parallel.num_devices: {wanted} wanted, JAX has {len(available)} "
            f"({available[0].platform}); give {len(available)} or null for all"
        )
    if jax.process_count() > 1 and wanted != len(available):
        raise UserError(
            f"parallel.num_devices: {wanted} wanted, but {jax.process_count()} processes share all "
            f"of their {len(available)} devices; give null"
        )
    if backend == "jit" and wanted > 1:
        raise UserError(
            f"parallel.backend: 'jit' drives one device, {wanted} are wanted; did you mean "
            "'shard_map'?"
        )
    if backend == "pmap" and jax.process_count() > 1:
        raise UserError("parallel.backend: 'pmap' is for one process; did you mean 'shard_map'?")
    mesh = Mesh(np.array(available[:wanted]), (AXIS,))
    return Parallel(mesh, "jit" if wanted == 1 else backend)


def data_parallel(
    step: Step, mesh: Mesh, backend: Backend, *, of_users: tuple[str, ...] = ()
) -> Step:
    """Run one step on every device, each with its own batches and its own users' rows.

    Args:
        step: What each device runs; its learner speaks to the others `along` the axis.
        mesh: The devices, along one axis `AXIS`.
        backend: Same body, same numbers.
        of_users: Fields of the state whose leading axis is the users.

    Returns:
        The compiled step on whole arrays. The leading axis of `batches` and of the fields
        `of_users` is D equal parts; the memory of the state is used again.
    """
    if backend == "jit":
        return jax.jit(step, donate_argnums=0)
    if backend == "pmap":
        return _by_pmap(step, mesh, of_users)

    def sharded(state: State, batches: Any, tables: Any) -> tuple[State, Metrics]:
        parts = _by_field(state, of_users, PartitionSpec(AXIS), PartitionSpec())
        return jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(parts, PartitionSpec(AXIS), PartitionSpec()),
            out_specs=(parts, PartitionSpec()),
            # The kernels' loops start from constants and would each have to name the axis.
            check_vma=False,
        )(state, batches, tables)

    return jax.jit(sharded, donate_argnums=0)


def _by_pmap(step: Step, mesh: Mesh, of_users: tuple[str, ...]) -> Step:
    num_devices = mesh.devices.size

    def split(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.reshape(num_devices, -1, *leaf.shape[1:]), tree)

    def join(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)

    def mapped(state: State, batches: Any, tables: Any) -> tuple[State, Metrics]:
        axes = _by_field(state, of_users, 0, None)
        run = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(axes, 0, None),
            out_axes=(axes, None),
            devices=list(mesh.devices.flat),
        )
        state = state._replace(**{name: split(getattr(state, name)) for name in of_users})
        state, metrics = run(state, split(batches), tables)
        return state._replace(**{name: join(getattr(state, name)) for name in of_users}), metrics

    return jax.jit(mapped, donate_argnums=0)


def start(learner: Learner, key: Any, parallel: Parallel) -> State:
    """The learner's first state, every user's row made where it belongs."""
    if parallel.backend == "jit":
        return jax.jit(learner.init)(key)
    shapes = jax.eval_shape(learner.init, key)
    places = _by_field(
        shapes,
        learner.of_users,
        NamedSharding(parallel.mesh, PartitionSpec(AXIS)),
        NamedSharding(parallel.mesh, PartitionSpec()),
    )
    return jax.jit(learner.init, out_shardings=places)(key)


def deal(batches: Tree, parallel: Parallel) -> Tree:
    """Give every device its part of the leading axis."""
    return _place(batches, parallel, PartitionSpec(AXIS))


def replicate(tree: Tree, parallel: Parallel) -> Tree:
    """Give every device the whole."""
    return _place(tree, parallel, PartitionSpec())


def one_copy(tree: Tree) -> Tree:
    """Of what every device has, the copy of this process's first."""
    copy: Tree = jax.tree.map(
        lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, tree
    )
    return copy


def rows_of(table: Any, rows: Any, parallel: Parallel) -> Any:
    """Some rows of an array that lies on all devices by its leading axis, on each device."""
    if parallel.backend == "jit":
        return jax.numpy.take(table, rows, axis=0)
    return one_copy(_rows(NamedSharding(parallel.mesh, PartitionSpec()))(table, rows))


def _rows(place: NamedSharding) -> Callable[[Any, Any], Any]:
    return jax.jit(partial(jax.numpy.take, axis=0), out_shardings=place)


def _place(tree: Tree, parallel: Parallel, spec: PartitionSpec) -> Tree:
    if parallel.backend == "jit":
        return tree
    place = NamedSharding(parallel.mesh, spec)

    def put(leaf: Any) -> Any:
        if jax.process_count() == 1:
            return jax.device_put(leaf, place)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])

    placed: Tree = jax.tree.map(put, tree)
    return placed


def _by_field(state: State, of_users: tuple[str, ...], users: Any, shared: Any) -> Any:
    """One value for every field of a state, by whether its leading axis is the users."""
    return type(state)(*(users if name in of_users else shared for name in state._fields))
