"""One run in several processes: joining them, who writes, and what they must agree on.

All processes run the same program on the same data, so that each knows what the others do. Only the
first writes what is not a checkpoint. This is JAX's own multi-controller runtime.
"""

import atexit
import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from paljax.errors import UserError

# The others wait while the first one scores and writes; one that dies is noticed long before.
LONGEST_ENDING_S = 24 * 3600


_LOST = (
    "ended before its run did: another process was lost, or this one was killed; start the same "
    "command in all processes, and it goes on from the last checkpoint"
)
_TELL = "import sys\nif not sys.stdin.buffer.read(): print(sys.argv[1], file=sys.stderr)"
# Gloo says so of sockets, the coordination service of silence.
_OF_A_LOST_PROCESS = re.compile("Gloo|heartbeat|Connection (reset|closed)|Socket closed|by peer")
_watcher: subprocess.Popen[bytes] | None = None


class Address(NamedTuple):
    """This process among the others."""

    coordinator_address: str  # host:port of process 0
    num_processes: int
    process_id: int  # from 0


def join(address: Address | None, *, lost_after_s: int) -> None:
    """Join the other processes, before anything asks JAX for a device.

    A process that dies takes the others with it: JAX ends them when it has been silent for
    `lost_after_s`, or at once where it was the coordinator, and a last line says what that means.

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
    _have_the_end_told()
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


def line_of_loss(error: Exception) -> str | None:
    """What to say of an error by which a lost process shows itself; None of any other."""
    if alone() or not _OF_A_LOST_PROCESS.search(str(error)):
        return None
    reason = " ".join(str(error).split())[:160]
    return f"process {jax.process_index()} of {jax.process_count()}: {_LOST} ({reason})"


def _have_the_end_told() -> None:
    """Start a process that prints a last line should this one end before its time.

    JAX aborts from a thread of its own, with a stack trace and past any handler of Python's, when
    another process is lost; the hook that its client has for this crashes (jaxlib 0.10.2). What
    stays is to watch from outside: the end of a pipe says that this process is gone.
    """
    global _watcher
    if _watcher is not None:
        return
    line = f"process {os.getpid()} on {socket.gethostname()}: {_LOST}"
    _watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _TELL, line],
        stdin=subprocess.PIPE,
        start_new_session=True,  # signals to all processes of a job are not for it
    )
    # Before JAX registers its own end, and therefore after that: it may abort there, too.
    atexit.register(_ends_well)


def _ends_well() -> None:
    if _watcher is not None and _watcher.stdin is not None and not _watcher.stdin.closed:
        with contextlib.suppress(BrokenPipeError):
            _watcher.stdin.write(b"well")
            _watcher.stdin.close()
        _watcher.wait()


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
        _ends_well()
        os._exit(status)
