"""One run directory, one run: a lock file names the process that has it.

The lock is the operating system's, which frees it when its holder dies, however it dies; the file's
text is for people, and for file systems shared by machines that don't lock for each other.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from paljax.errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run directory, which is made where it does not exist.

    A lock whose process is dead is taken over: by the system on this machine. A clock that jumps
    does no harm, since no time is compared.

    Raises:
        UserError: If another process has the directory.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't make the run directory ({error.strerror})") from None
    try:
        file = _locked(folder / LOCK)
    except BlockingIOError:
        raise UserError(
            f"{folder}: {_holder(folder / LOCK)} is running there; wait for it, or choose another "
            "--run-dir"
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: can't be locked ({error.strerror})") from None
    with file:
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
        file.truncate(0)
        file.write(json.dumps(me) + "\n")
        file.flush()
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _locked(path: Path) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        # Whoever had it before may have deleted it since we opened it.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()


def _holder(path: Path) -> str:
    try:
        holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
