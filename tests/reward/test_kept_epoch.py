"""Which epoch of a fit is kept: the best where it may stop early, else the last."""

import json

import numpy as np
import pytest
import yaml

from paljax import train
from paljax.runs import METRICS, METRICS_LOG

EPOCHS = 8

pytestmark = pytest.mark.usefixtures("quick_compilation")


def choices_without_a_reason(path):
    """Coin tosses: the more a model learns from some, the worse it foresees others."""
    generator = np.random.default_rng(3)
    with path.open("w", encoding="utf-8") as file:
        for user in range(10):
            for _ in range(12):
                chosen, rejected = generator.normal(size=(2, 6)).tolist()
                row = {"user_id": f"user {user}", "chosen": chosen, "rejected": rejected}
                file.write(json.dumps(row) + "\n")
    return str(path)


@pytest.mark.parametrize(("patience", "keeps"), [(None, "last"), (EPOCHS, "best")])
def test_the_last_epoch_is_kept_where_a_fit_never_stops_early(tmp_path, patience, keeps):
    record = {
        "data": {"name": "file", "path": choices_without_a_reason(tmp_path / "choices.jsonl")},
        "splits": {"name": "random", "unseen_users": 0.0},
        "model": {"name": "bradley_terry", "hidden_layers": 1},
        "optimizer": {"learning_rate": {"networks": 0.1}, "schedule": "constant"},
        "training": {"epochs": EPOCHS, "batch_size": 32, "patience": patience},
        "evaluation": {"shots": [0], "resamples": 100},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    run = tmp_path / "run"
    assert train.main(["--config", str(tmp_path / "config.yaml"), "--run-dir", str(run)]) == 0

    lines = map(json.loads, (run / METRICS_LOG).read_text(encoding="utf-8").splitlines())
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    best = int(np.argmin(losses)) + 1
    assert len(losses) == EPOCHS
    assert best < EPOCHS  # or the two rules would keep the same epoch
    selection = json.loads((run / METRICS).read_text(encoding="utf-8"))["selection"]
    kept = EPOCHS if keeps == "last" else best
    assert selection["epochs"] == kept
    np.testing.assert_allclose(
        selection["candidates"][0]["validation_nll"], losses[kept - 1], rtol=1e-5
    )
