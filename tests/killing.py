"""Runs in processes of their own that are killed at chosen moments, in writes too."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paljax import runs

LONGEST_RUN = 600  # seconds
TRAIN = "import sys\nfrom paljax import train\nsys.exit(train.main(sys.argv[1:]))"
# Every file and every checkpoint is written aside and then renamed: the process dies there.
TRAIN_UNTIL_A_WRITE = """
import os, signal, sys
from paljax import train

left = int(sys.argv.pop(1))
def dying(rename):
    def renamed(*paths, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*paths, **options)
    return renamed

os.rename, os.replace = dying(os.rename), dying(os.replace)
sys.exit(train.main(sys.argv[1:]))
"""


class AfterEpochs(NamedTuple):
    """When a run has logged so many epochs, and then so much later."""

    epochs: int
    delay: float  # seconds


class InWrite(NamedTuple):
    """When so many files have been put in their places, and the next one is written."""

    writes: int


Moment = AfterEpochs | InWrite


class Run(NamedTuple):
    """A configuration that is trained in processes of its own."""

    config: Path
    run_dir: Path
    cache: Path  # of compiled programs
    folder: Path | None = None  # where the process works

    def start(self, moment: Moment | None = None) -> subprocess.Popen[str]:
        """Start it; one that dies in a write does so by itself."""
        program = [TRAIN]
        if isinstance(moment, InWrite):
            program = [TRAIN_UNTIL_A_WRITE, str(moment.writes)]
        settings = {
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the time here
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        command = [sys.executable, "-c", *program, "--config", self.config]
        return subprocess.Popen(
            [*command, "--run-dir", self.run_dir],
            env=os.environ | settings,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> str:
        """Run it to its end; returns what it said."""
        process = self.start()
        try:
            output, _ = process.communicate(timeout=LONGEST_RUN)
        finally:
            process.kill()
        assert process.returncode == 0, output
        return output

    def epochs_logged(self) -> int:
        """Epochs that it has finished; those of its last life may be done again."""
        folder = self.run_dir if self.folder is None else self.folder / self.run_dir
        log = folder / runs.METRICS_LOG
        return log.read_text(encoding="utf-8").count("\n") if log.exists() else 0

    def killed(self, moment: Moment) -> bool:
        """Start it and kill it then; False where it was over before."""
        process = self.start(moment)
        if isinstance(moment, AfterEpochs):
            deadline = time.monotonic() + LONGEST_RUN
            while self.epochs_logged() < moment.epochs and process.poll() is None:
                assert time.monotonic() < deadline, f"no {moment.epochs} epochs in time"
                time.sleep(0.002)
            time.sleep(moment.delay)
            process.kill()
        output, _ = process.communicate(timeout=LONGEST_RUN)
        assert process.returncode in (-signal.SIGKILL, 0), output
        return process.returncode == -signal.SIGKILL


def at_random(in_all: int, count: int) -> list[Moment]:
    """Moments over the whole of a run of so many epochs, every third of them in a write.

    The last two lives die in the first file that they write: while the run is scored.
    """
    generator = np.random.default_rng()
    epochs = np.sort(generator.integers(0, in_all + 1, count - 2))
    moments: list[Moment] = []
    for place, number in enumerate(epochs.tolist()):
        if place % 3 == 1:
            moments.append(InWrite(int(generator.integers(0, 4))))
        else:
            moments.append(AfterEpochs(number, float(generator.uniform(0, 0.5))))
    return [*moments, InWrite(0), InWrite(0)]


def assert_survives(
    straight: Run,
    killed: Run,
    moments: Callable[[int], Iterable[Moment]],
    assert_equal: Callable[[Path, Path], Any],
) -> str:
    """Kill a run at each of these moments, go on, and compare with a straight run.

    Args:
        straight: The run that nobody disturbs.
        killed: The same in another directory.
        moments: Of so many epochs that the straight run logs.
        assert_equal: Of the two run directories.

    Returns:
        What the last life said.
    """
    straight.finish()
    planned = list(moments(straight.epochs_logged()))
    hits = [killed.killed(moment) for moment in planned]
    print("killed at:", [*zip(planned, hits, strict=True)])
    output = killed.finish()
    assert all(hits), [*zip(planned, hits, strict=True)]
    assert_equal(killed.run_dir, straight.run_dir)
    return output
