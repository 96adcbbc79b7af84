"""A run compiles what is expensive once: a refit and every support of a curve share programs."""

import json

import numpy as np
import pytest

from paljax import loop, train
from paljax.learners import new_users

CONFIG = """\
data: {name: file, path: votes.jsonl}
model: {name: pal_a, num_prototypes: 2, latent_width: 3, shared: null}
learner: {name: episodes, users_per_batch: 8, most_comparisons: 16}
training: {epochs: 3, patience: null}
evaluation: {shots: [0, 1, 2, 5], resamples: 100}
"""


def votes(num_users=20, comparisons=15):
    generator = np.random.default_rng(0)
    for user in range(num_users):
        taste = generator.normal(size=3)
        for _ in range(comparisons):
            pair = generator.normal(size=(2, 3)).round(3).tolist()
            better, worse = sorted(pair, key=lambda item: -float(taste @ item))
            yield {"user_id": f"u{user}", "chosen": better, "rejected": worse}


@pytest.fixture
def finished(tmp_path, monkeypatch, quick_compilation):
    lines = (json.dumps(row) + "\n" for row in votes())
    (tmp_path / "votes.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    loop._epoch_program.cache_clear()
    compiled = []
    whole = loop.epoch_program
    monkeypatch.setattr(
        loop, "epoch_program", lambda task: compiled.append(whole(task)) or compiled[-1]
    )
    new_users._fit_margins.clear_cache()
    assert train.main(["--config", "config.yaml", "--run-dir", "run"]) == 0
    return compiled


def test_a_refit_and_every_number_of_support_comparisons_share_programs(finished):
    # The shared reward learns in shuffled batches, of which a refit has more; it has K = 1.
    assert sum(program._cache_size() for program in set(finished)) == 3
    assert new_users._fit_margins._cache_size() == 2
