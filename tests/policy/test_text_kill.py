"""A run of a language model that is killed and started again ends as the one nobody disturbed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from paljax import runs
from tests.policy.test_text_run import POLICY, begun, folder  # noqa: F401  (fixtures)

pytestmark = pytest.mark.usefixtures("quick_compilation")
EPOCHS = 6


def start(config: Any, run_dir: str, place: Path) -> subprocess.Popen[str]:
    (place / f"{run_dir}.yaml").write_text(json.dumps(config), encoding="utf-8")
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PALJAX_DATA_DIR": str(place / "data"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "paljax.train", "--config", f"{run_dir}.yaml", "--run-dir", run_dir],
        env=os.environ | settings,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_as_the_straight_run(folder: Path) -> None:  # noqa: F811
    config = POLICY | {"training": POLICY["training"] | {"epochs": EPOCHS}}  # type: ignore[operator]
    shutil.rmtree(folder / "straight")  # one of this process, not compiled alike
    finish(start(config, "straight", folder))
    log = folder / "killed" / runs.METRICS_LOG
    for epochs in (1, 3, 5):
        process = start(config, "killed", folder)
        while not log.exists() or log.read_bytes().count(b"\n") < epochs:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(start(config, "killed", folder))
    killed, straight = (folder / name for name in ("killed", "straight"))
    assert log.read_bytes().count(b"\n") == EPOCHS
    assert log.read_bytes() == (straight / runs.METRICS_LOG).read_bytes()
    # Stories of the trained model: they differ as soon as one parameter does.
    left, right = (pq.read_table(each / runs.SAMPLES) for each in (killed, straight))
    assert left.equals(right)
    found = [json.loads((each / runs.METRICS).read_text()) for each in (killed, straight)]
    for record in found:
        record.pop("timing")
    assert found[0] == found[1]
