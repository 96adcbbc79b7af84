"""Checkpoints that can't be read end in one error, and nothing is heard of them afterwards."""

import sys
import time

import jax.numpy as jnp
import pytest
from numpy.testing import assert_array_equal

from paljax.checkpoints import Checkpoints, DamagedError

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
