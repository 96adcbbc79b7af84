"""SIGTERM: a scheduler takes the machine back, and the run hands over what it has."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM instead of dying of it; a second one is not noted.

    Yields:
        Whether it has come.
    """
    come = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        come.set()
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield come.is_set  # only the main thread may listen
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield come.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
