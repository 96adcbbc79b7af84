"""Mistakes of the user: what was given, what was wanted, and the nearest valid choice."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """What the user gave is wrong, told in one clear line. Commands print it and exit with 2."""


class RunError(Exception):
    """A well-formed run can't go on. Commands print the line and exit with 1."""


class Stopped(Exception):  # noqa: N818  (nothing went wrong)
    """The run was asked to stop and has saved. Commands print the line and exit with 0."""


@contextlib.contextmanager
def about(subject: object) -> Iterator[None]:
    """Name the file that holds a mistake of the user, where what finds it knows no file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{subject}: {error}") from None


def nearest(given: object, choices: Iterable[object]) -> str:
    """Name the valid choice that is nearest to what was given, or all of them.

    Args:
        given: What the user wrote.
        choices: The valid values.

    Returns:
        "did you mean 'x'?" where one choice is close, else "choose one of 'x', 'y'".
    """
    names = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.6)
    if not close and given:  # a part that only one of them has
        close = [name for name in names if str(given).lower() in name.lower()]
        close = close if len(close) == 1 else []
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose one of " + ", ".join(repr(name) for name in names)
