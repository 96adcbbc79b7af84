"""`python -m paljax.train`: run the stage that a configuration names."""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paljax.commands import cache_compilations, run_command, say

if TYPE_CHECKING:
    from paljax.config import Config
    from paljax.config.sections import ParallelSection

# The module whose `run(settings, run_dir)` does a stage; imported when it is wanted.
STAGES: Mapping[str, str] = {
    "reward": "paljax.reward.run",
    "policy": "paljax.policy.run",
    "stream": "paljax.reward.streamed",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m paljax.train",
        description="Train the stage that a configuration names and write a run directory.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="replace values of the configuration"
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="where to write (default: runs/ and the name of the configuration)",
    )
    parser.add_argument(
        "--resume",
        choices=["auto", "never"],
        default="auto",
        help="auto continues a killed run of the same configuration (default); never refuses to",
    )
    return parser


def train(options: argparse.Namespace) -> None:
    """Run the command."""
    from paljax import config, processes, runs

    cache_compilations()
    settings = config.load(options.config, options.overrides)
    run_dir = options.run_dir or default_run_dir(options.config)
    if isinstance(settings, config.Config):
        settings = join_devices(settings, run_dir)
    runs.require_usable(run_dir, settings, resume=options.resume == "auto")
    finished = (run_dir / runs.REPORT).exists()
    if not finished:
        importlib.import_module(STAGES[settings.stage]).run(settings, run_dir)
    if processes.is_first():
        if finished:
            say(f"{run_dir}: this run is finished; --run-dir names a new one")
        say(f"report: {run_dir / runs.REPORT}")


def join_devices(settings: "Config", run_dir: Path) -> "Config":
    """Join the other processes of a run, and settle how users are dealt to the devices."""
    from paljax import runs
    from paljax.parallel import on_devices

    _join(settings.parallel)
    chosen = on_devices(settings.parallel.backend, settings.parallel.num_devices)
    return runs.with_blocks(run_dir, settings, chosen.num_devices)


def _join(section: "ParallelSection") -> None:
    """Join the other processes of the run, where the configuration has any."""
    from paljax import config, processes

    where = section.processes
    if isinstance(where, config.OneProcess):
        return
    address = None
    if isinstance(where, config.ExplicitProcesses):
        address = processes.Address(where.coordinator, where.count, where.index)
    processes.join(address, lost_after_s=section.lost_after_s)


def default_run_dir(config: Path) -> Path:
    """runs/NAME, after the configuration's file, or its folder where the file is config.yaml."""
    name = config.absolute().parent.name if config.stem == "config" else config.stem
    return Path("runs") / name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        status = run_command(parser(), train, arguments)
    except RuntimeError as error:
        from paljax import processes

        line = processes.line_of_loss(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        status = 1
    if status:
        from paljax import processes

        processes.leave(status)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
