"""One run in several processes: joining them, who writes, and what they must agree on.

All processes run the same program on the same data, so that each knows what the others do. Only the
first writes what is not a checkpoint. This is JAX's own multi-controller runtime.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from paljax.errors import UserError

# The others wait while the first one scores and writes; one that dies is noticed long before.
LONGEST_ENDING_S = 24 * 3600


class Address(NamedTuple):
    """This process among the others."""

    coordinator_address: str  # host:port of process 0
    num_processes: int
    process_id: int  # from 0


def join(address: Address | None, *, lost_after_s: int) -> None:
    """Join the other processes, before anything asks JAX for a device.

    A process that dies takes the others with it: JAX ends them when it has been silent for
    `lost_after_s`, or at once where it was the coordinator.

    Args:
        address: Which one this is; None asks the scheduler's environment (Slurm, Open MPI,
            Kubernetes, TPU pods).
        lost_after_s: Silence in seconds after which another process counts as dead.

    Raises:
        UserError: If there is no such environment, or the others can't be reached.
    """
    # SIGTERM is ours: the loop finishes its epoch, saves and hands over.
    jax.config.update("jax_enable_preemption_service", False)
    where: dict[str, Any] = {}
    if address is not None:
        where = address._asdict()
    try:
        jax.distributed.initialize(
            **where,
            heartbeat_timeout_seconds=lost_after_s,
            initialization_timeout=max(lost_after_s, 60),
            shutdown_timeout_seconds=LONGEST_ENDING_S,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        asked = "environment" if address is None else f"coordinator {address.coordinator_address}"
        raise UserError(
            f"parallel.processes: can't join the others ({asked}): {reason}; a Slurm, Open MPI, "
            "Kubernetes or TPU job has an environment, else give coordinator, count and index"
        ) from None


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return bool(jax.process_index() == 0)


def alone() -> bool:
    """Whether there is no other process."""
    return bool(jax.process_count() == 1)


def any_of(flag: bool) -> bool:
    """Whether the flag is true in any process: all get the same answer."""
    if alone():
        return flag
    flags: list[bool] = multihost_utils.process_allgather(np.array(flag)).ravel().tolist()
    return any(flags)


def of_first(numbers: Any) -> Any:
    """The first process's numbers, so that the last bit of a sum can't part the processes."""
    if alone():
        return numbers
    return multihost_utils.broadcast_one_to_all(numbers)


@contextlib.contextmanager
def first_goes_ahead() -> Iterator[None]:
    """Let the first process prepare files that the others then find."""
    if not alone() and not is_first():
        multihost_utils.sync_global_devices("first goes ahead")
    try:
        yield
    finally:  # of what stopped the first, the others should hear themselves
        if not alone() and is_first():
            multihost_utils.sync_global_devices("first goes ahead")


def leave(status: int) -> None:
    """End a process that can't go on; at exit JAX would wait for those that wait for this one."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
