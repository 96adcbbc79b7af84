"""Checkpoints of a fit, written by Orbax in the background; no pickle is ever read."""

import asyncio
import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.options import AsyncOptions

from paljax import processes
from paljax.errors import UserError

_OF_THE_SYSTEM = [
    os.strerror(code)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG)
]
_MOST_FAILURES = 8  # a checkpoint writes fewer files of its own than that


class DamagedError(Exception):
    """A checkpoint that can't be read."""


class Checkpoints:
    """The newest checkpoints of one fit, numbered by finished epochs.

    Args:
        folder: Where they live; made when needed.
        keep: How many of the newest stay.

    Raises:
        UserError: If the folder can't be made.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        # In the background, a folder that can't be made is waited for by others for ten minutes.
        at_once = AsyncOptions(create_directories_asynchronously=False)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, async_options=at_once)
        self._folder = folder
        self._event_loops = _patient_event_loops()
        with self._written():
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, number: int, state: Any) -> None:
        """Copy the state and write it in the background, whole or not at all.

        Raises:
            UserError: If this checkpoint, or the one before, can't be written.
        """
        with self._written():
            self._manager.save(number, args=ocp.args.StandardSave(state))

    def latest(self) -> int | None:
        """Number of the newest whole checkpoint."""
        number: int | None = self._manager.latest_step()
        return number

    def restore(self, number: int, like: Any) -> Any:
        """Read a checkpoint as arrays of the shapes, types and devices of `like`.

        Raises:
            DamagedError: If it can't be read as that.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(number, args=ocp.args.StandardRestore(target))
        except Exception as error:  # what Orbax's readers raise; plain exceptions are among it
            where = self._folder / str(number)
            raise DamagedError(f"{where}: can't be read: {_in_short(error)}") from error

    def restore_newest(self, like: Any, *, say: Callable[[str], None]) -> Any | None:
        """Read the newest checkpoint that can be read; move those after it out of the way.

        Args:
            like: Gives shapes, types and devices.
            say: Told about every damaged checkpoint, in one line.

        Returns:
            The state; None where no checkpoint can be read.
        """
        for number in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self.restore(number, like)
            except DamagedError as error:
                aside = self._folder.with_name(f"{self._folder.name}.damaged")
                with processes.first_goes_ahead():
                    if processes.is_first():
                        aside.mkdir(exist_ok=True)
                        (self._folder / str(number)).rename(aside / f"{number}-{time.time_ns()}")
                self._manager.reload()
                then = (
                    "no older one is left, the fit begins again"
                    if self._manager.latest_step() is None
                    else "the fit goes on from the one before"
                )
                say(f"{error}; moved to {aside}; {then}")
        return None

    def __enter__(self) -> Self:
        self._event_loops.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            with self._written():
                self._close()
        except UserError:
            if error is None:
                raise  # else what went wrong first is told
        finally:
            self._event_loops.__exit__(None, None, None)

    def _close(self) -> None:
        """Wait for what is being written, and have Orbax let go of its threads.

        It does so when no write of before is left to have failed, and tells one failure a time.
        """
        failures: list[Exception] = []
        while len(failures) < _MOST_FAILURES:
            try:
                self._manager.close()
                break
            except Exception as error:  # Orbax passes on whatever its writers raise
                failures.append(error)
        if failures:
            raise failures[0]

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax passes on whatever its writers raise
            reason = _in_short(error)
            raise UserError(f"{self._folder}: a checkpoint can't be written: {reason}") from None


def _in_short(error: Exception) -> str:
    """One line: what the system said, which long reports have in their midst, or the beginning."""
    line = " ".join(str(error).split())
    of_system = next((reason for reason in _OF_THE_SYSTEM if reason in line), None)
    return line if len(line) <= 200 else of_system or line[:200]


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that lets what is pending finish before it closes."""

    def close(self) -> None:
        if not self.is_closed() and (pending := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        super().close()


@contextlib.contextmanager
def _patient_event_loops() -> Iterator[None]:
    """Have Orbax read and write in event loops that wait for all that is under way.

    It reads a checkpoint's arrays side by side, and writes them so, and closes its event loop when
    the first of them fails. TensorStore then reports the others to a closed loop, and prints a
    traceback for each.
    Python 3.14 deprecates policies: from there on these tracebacks are printed, before our line.
    """
    if sys.version_info >= (3, 14):
        yield
        return

    class _PatientLoops(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return _PatientLoop()

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_PatientLoops())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)
