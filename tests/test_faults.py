"""A disk that is full or read-only, a clock that jumps, two runs at once: a line, and nothing lost.

Kills are in test_resume.py, damaged checkpoints in test_loop.py, bad input in test_bad_inputs.py.
"""

import datetime
import errno
import gc
import itertools
import os
import random
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from paljax import runs, train
from tests import killing
from tests.policy import test_run as policy_runs
from tests.test_resume import assert_equal_runs, config

pytestmark = pytest.mark.usefixtures("quick_compilation")
STAGES = ("reward", "policy")
LONGEST_END = 30  # seconds in which what was begun in the background has to end


def write_config(stage, folder):
    if stage == "reward":
        return config(folder, "gradient", epochs=4, checkpoint_every=1)
    training = {"epochs": 4, "steps_per_epoch": 5, "checkpoint_every": 1}
    return policy_runs.write(folder, training=training)


def assert_equal(stage, killed, straight):
    compare = assert_equal_runs if stage == "reward" else policy_runs.assert_equal_runs
    compare(killed, straight)


def run(path, run_dir):
    return train.main(["--config", str(path), "--run-dir", str(run_dir)])


def ended(path, run_dir, capfd, wanted):
    """Run what may not be able to go on: then in one line, and no thread goes on waiting."""
    capfd.readouterr()
    before = set(threading.enumerate())
    status = run(path, run_dir)
    line = capfd.readouterr().err
    if status:
        assert re.fullmatch(rf"paljax\.train: [^\n]*{wanted}[^\n]*\n", line), line
    deadline = time.monotonic() + LONGEST_END
    while left := [each for each in set(threading.enumerate()) - before if not each.daemon]:
        assert time.monotonic() < deadline, left
        gc.collect()  # an idle pool's thread ends with its pool
        time.sleep(0.02)
    return status


def refused(*arguments):
    assert ended(*arguments) == 2


@pytest.fixture(scope="module", params=STAGES)
def straight(request, tmp_path_factory, quick_compilation):
    """A stage, its configuration, and a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp(request.param)
    path = write_config(request.param, folder)
    assert run(path, folder / "straight") == 0
    return request.param, path, folder / "straight"


def mount(place, *options):
    """Mount what may have to be skipped; only an administrator may."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", *options, str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting takes an administrator: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A place for a small disk, unmounted afterwards."""
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], capture_output=True, check=False)


@pytest.mark.parametrize("room", ["size=4k", "size=100k", "size=150k", "nr_inodes=16"])
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(room, straight, disk, capfd):
    stage, path, finished = straight
    mount(disk, "-t", "tmpfs", "-o", room, "tmpfs")
    refused(path, disk / "run", capfd, "No space left on device")
    mount(disk, "-o", "remount,size=64m,nr_inodes=100000")
    assert run(path, disk / "run") == 0
    assert_equal(stage, disk / "run", finished)


def test_a_run_on_a_read_only_disk_is_refused(straight, disk, capfd):
    _, path, _ = straight
    mount(disk, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    (disk / "run").mkdir()
    mount(disk, "-o", "remount,ro")
    refused(path, disk / "run", capfd, "Read-only file system")
    assert not list((disk / "run").iterdir())


def test_a_run_whose_disk_becomes_read_only_goes_on_later(straight, disk, capfd):
    stage, path, finished = straight
    mount(disk, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    fault = Fault(left=8)
    with pytest.MonkeyPatch.context() as patch:
        fault.into(patch, errno.EROFS)
        refused(path, disk / "run", capfd, "Read-only file system")
    mount(disk, "-o", "remount,ro")
    refused(path, disk / "run", capfd, "Read-only file system")
    mount(disk, "-o", "remount,rw")
    assert run(path, disk / "run") == 0
    assert_equal(stage, disk / "run", finished)


class Fault:
    """Lets so many writes pass, and fails in all that follow."""

    def __init__(self, left):
        self.left = left

    def into(self, patch, reason):
        def failing(call):
            def called(*arguments, **options):
                self.left -= 1
                if self.left < 0:
                    raise OSError(reason, os.strerror(reason))
                return call(*arguments, **options)

            return called

        def opened(path, mode="r", *arguments, **options):
            if "w" in mode or "a" in mode:
                self.left -= 1
                if self.left < 0:
                    raise OSError(reason, os.strerror(reason))
            return open_path(path, mode, *arguments, **options)

        open_path = Path.open
        patch.setattr(Path, "open", opened)
        for name in ("rename", "replace", "mkdir", "fsync"):
            patch.setattr(os, name, failing(getattr(os, name)))


def assert_survives_a_full_disk(straight, tmp_path, capfd, writes):
    """Fail after so many writes of a life, for all these numbers or until the run is over."""
    stage, path, finished = straight
    for passing in writes:
        with pytest.MonkeyPatch.context() as patch:
            Fault(passing).into(patch, errno.ENOSPC)
            if ended(path, tmp_path / "run", capfd, "No space left on device") == 0:
                break
    assert run(path, tmp_path / "run") == 0
    assert_equal(stage, tmp_path / "run", finished)


def test_a_write_that_fails_is_told_and_done_again(straight, tmp_path, capfd):
    assert_survives_a_full_disk(straight, tmp_path, capfd, random.sample(range(20), 3))


@pytest.mark.slow
def test_every_write_that_fails_is_told_and_done_again(straight, tmp_path, capfd):
    assert_survives_a_full_disk(straight, tmp_path, capfd, itertools.count())


def test_a_clock_that_jumps_changes_nothing(straight, tmp_path, monkeypatch):
    """An hour back at every look, in the first half of a run and in the second."""
    stage, path, finished = straight
    now = [time.time()]

    def earlier():
        now[0] -= 3600
        return now[0]

    class Earlier(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(earlier(), tz)

    monkeypatch.setattr(time, "time", earlier)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * earlier()))
    monkeypatch.setattr(datetime, "datetime", Earlier)
    with pytest.MonkeyPatch.context() as patch:
        Fault(left=12).into(patch, errno.ENOSPC)
        assert run(path, tmp_path / "run") == 2
    assert run(path, tmp_path / "run") == 0
    assert_equal(stage, tmp_path / "run", finished)


def test_of_two_runs_that_start_at_once_one_is_refused(straight, tmp_path):
    stage, path, finished = straight
    compiled = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    both = [killing.Run(path, tmp_path / "run", compiled).start() for _ in range(2)]
    said = [process.communicate(timeout=killing.LONGEST_RUN)[0] for process in both]
    statuses = [process.returncode for process in both]
    assert sorted(statuses) == [0, 2], said
    last = said[statuses.index(2)].splitlines()[-1]
    assert re.search(r"run: process \d+ on .* is running there; wait for it", last)
    assert "Traceback" not in "".join(said)
    assert (tmp_path / "run" / runs.REPORT).exists()
    if stage == "policy":
        return
    assert (tmp_path / "run" / runs.SPLITS).read_bytes() == (finished / runs.SPLITS).read_bytes()
