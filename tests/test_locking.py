"""Two runs on one directory: the second refuses; a dead holder's lock is free."""

import json
import subprocess
import sys
import time

import pytest

from paljax.errors import UserError
from paljax.locking import LOCK, held

HOLD = "import sys, time; from pathlib import Path; from paljax.locking import held\n"
HOLD += "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)\n"


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_refuses_until_the_first_is_dead(tmp_path):
    folder = tmp_path / "run"
    process = holder(folder)
    try:
        with pytest.raises(UserError, match=rf"run: process {process.pid} on .* choose") as caught:
            held(folder).__enter__()
        assert "\n" not in str(caught.value)
    finally:
        process.kill()
        process.communicate()
    assert (folder / LOCK).exists()  # stale: nobody holds it
    with held(folder):
        assert json.loads((folder / LOCK).read_text(encoding="utf-8"))["pid"] != process.pid
        with pytest.raises(UserError):
            held(folder).__enter__()
    assert not (folder / LOCK).exists()


def test_a_clock_that_jumps_and_a_damaged_lock_do_no_harm(tmp_path, monkeypatch):
    (tmp_path / LOCK).write_text("{", encoding="utf-8")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with held(tmp_path), pytest.raises(UserError, match="is running there"):
        held(tmp_path).__enter__()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="can't make the run directory"):
        held(tmp_path / "file" / "run").__enter__()
