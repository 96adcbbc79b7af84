"""Checkpoints that can't be read end in one error, and nothing is heard of them afterwards."""

import errno
import os
import sys
import threading
import time

import jax.numpy as jnp
import pytest
from etils import epath
from numpy.testing import assert_array_equal

from paljax.checkpoints import Checkpoints, DamagedError
from paljax.errors import UserError

# So many arrays that some are still being read when the first one fails.
STATE = {f"layer {number}": jnp.full((9, 5), number) for number in range(40)}


def half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_what_was_saved_is_restored(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, STATE)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 3
        restored = checkpoints.restore(3, STATE)
    for name, values in STATE.items():
        assert_array_equal(restored[name], values)


@pytest.mark.parametrize("damaged", ["manifest.ocdbt", "d/*"])
def test_no_read_outlives_a_damaged_checkpoint(damaged, tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, STATE)
    for path in (tmp_path / "0" / "default").glob(damaged):
        half(path)
    late = []
    monkeypatch.setattr(sys, "unraisablehook", late.append)
    with Checkpoints(tmp_path) as checkpoints:
        for _ in range(3):
            with pytest.raises(DamagedError, match="0: can't be read: "):
                checkpoints.restore(0, STATE)
    time.sleep(0.2)
    assert not late


def test_no_thread_outlives_a_write_that_failed(tmp_path, monkeypatch, caplog):
    """Not even while a log of the failure is kept, which holds all that Orbax had in hand."""
    text_files = type(epath.Path(tmp_path))

    def full(path, *arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(text_files, "write_text", full)
    before = set(threading.enumerate())
    told = pytest.raises(UserError, match="No space left on device")
    with told, Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, STATE)
    assert "_CHECKPOINT_METADATA" in caplog.text
    assert not [each for each in set(threading.enumerate()) - before if not each.daemon]


def test_it_is_told_whether_an_older_checkpoint_is_left(tmp_path):
    folder, said = tmp_path / "fit", []
    with Checkpoints(folder) as checkpoints:
        for number in (1, 2, 3):
            checkpoints.save(number, STATE)
    half(folder / "3" / "default" / "manifest.ocdbt")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore_newest(STATE, say=said.append) is not None
        half(folder / "2" / "default" / "manifest.ocdbt")
        assert checkpoints.restore_newest(STATE, say=said.append) is None
    assert [line.split("moved to ")[1] for line in said] == [
        f"{tmp_path / 'fit.damaged'}; the fit goes on from the one before",
        f"{tmp_path / 'fit.damaged'}; no older one is left, the fit begins again",
    ]
