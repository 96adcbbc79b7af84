"""A run of a language model that is killed and started again ends as the one nobody disturbed."""

import json
import shutil
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from paljax import runs
from paljax.networks.huggingface import WEIGHTS
from tests import killing
from tests.policy.test_text_run import POLICY, begun  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("quick_compilation")
EPOCHS = 6


def assert_equal_runs(killed: Path, straight: Path) -> None:
    logs = [each / runs.METRICS_LOG for each in (killed, straight)]
    assert logs[0].read_bytes().count(b"\n") == EPOCHS
    assert logs[0].read_bytes() == logs[1].read_bytes()
    # Stories of the trained model: they differ as soon as one parameter does.
    left, right = (pq.read_table(each / runs.SAMPLES) for each in (killed, straight))
    assert left.equals(right)
    models = [each / runs.LANGUAGE_MODEL / WEIGHTS for each in (killed, straight)]
    assert models[0].read_bytes() == models[1].read_bytes()
    found = [json.loads((each / runs.METRICS).read_text()) for each in (killed, straight)]
    for record in found:
        record.pop("timing")
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_as_the_straight_run(folder: Path) -> None:
    """Ten kills, wherever they hit."""
    config = POLICY | {"training": POLICY["training"] | {"epochs": EPOCHS}}  # type: ignore[operator]
    (folder / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
    shutil.rmtree(folder / "straight")  # one of this process, not compiled alike
    straight, killed = (
        killing.Run(folder / "run.yaml", folder / name, folder / "compiled", folder)
        for name in ("straight", "killed")
    )
    killing.assert_survives(
        straight, killed, partial(killing.at_random, count=10), assert_equal_runs
    )
