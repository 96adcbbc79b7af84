"""What all command lines share: parsing, one clear line for an error, the exit status."""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from paljax.errors import RunError, Stopped, UserError


def say(line: str) -> None:
    """Print a line now, so that it stands in order with what other programs print."""
    print(line, flush=True)


def say_counts(counts: Mapping[str, int]) -> None:
    """Print how often each thing happened, a line each."""
    for what, count in counts.items():
        say(f"{what}: {count}")


def on_terminal() -> bool:
    """Whether a person watches: progress bars go to terminals only."""
    return sys.stderr.isatty()


def column_mapping(arguments: Sequence[str]) -> dict[str, str]:
    """Read `OURS=THEIRS` arguments as a column mapping."""
    mapping: dict[str, str] = {}
    for argument in arguments:
        ours, equals, theirs = argument.partition("=")
        if not (ours and equals and theirs):
            raise UserError(
                f"--column {ours}{equals}{theirs}: wanted OURS=THEIRS, as user_id=worker"
            )
        if ours in mapping:
            raise UserError(f"--column {argument}: {ours!r} is already {mapping[ours]!r}")
        mapping[ours] = theirs
    return mapping


def cache_compilations() -> None:
    """Keep compiled programs on disk, so that a program is compiled once and not at every start.

    JAX's own settings go first; JAX_COMPILATION_CACHE_DIR names another folder, and an empty one
    switches the cache off.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path.home() / ".cache" / "paljax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default JAX stores only what took a second to compile, which no step here does.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # A cache that can't be used costs time and nothing else; a full disk is told where it matters.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
) -> int:
    """Parse a command line and run it.

    Args:
        parser: The command line.
        command: Takes the parsed options.
        arguments: The arguments, None for those of the process.

    Returns:
        0, also for a run that was asked to stop and has saved; 1 when the run can't go on; 2 when
        what the user gave is wrong.
    """
    options = parser.parse_intermixed_args(arguments)
    try:
        command(options)
    except (UserError, RunError) as error:
        print(f"{parser.prog.removeprefix('python -m ')}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except Stopped as stopped:
        print(stopped)
    except BrokenPipeError:
        # The reader of our output has gone; keep Python from complaining again at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
