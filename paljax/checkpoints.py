"""Checkpoints of a fit, written by Orbax in the background; no pickle is ever read."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The newest checkpoints of one fit, numbered by finished epochs.

    Args:
        folder: Where they live; made when needed.
        keep: How many of the newest stay.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, number: int, state: Any) -> None:
        """Copy the state and write it in the background, whole or not at all."""
        self._manager.save(number, args=ocp.args.StandardSave(state))

    def latest(self) -> int | None:
        """Number of the newest whole checkpoint."""
        number: int | None = self._manager.latest_step()
        return number

    def restore(self, number: int, like: Any) -> Any:
        """Read a checkpoint as arrays of the shapes, types and devices of `like`."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(number, args=ocp.args.StandardRestore(target))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
