"""Baselines: what they know and what they do not."""

import numpy as np
import pytest
import yaml

from paljax.config import load
from paljax.data.dataset import assemble
from paljax.reward.baselines import item_majority
from paljax.reward.published import as_published


def test_item_majority_counts_wins_and_halves_ties():
    rows = [("ann", "tea", "rum", 0), ("ben", "tea", "rum", 0), ("ann", "rum", "milk", 1)]
    users, chosen, rejected, tie = zip(*rows, strict=True)
    data = assemble(users, chosen, rejected, tie=[bool(t) for t in tie])  # tea, rum, milk
    model = item_majority(data.comparisons, num_items=4)
    one_each = np.array([0, 1, 2]), np.array([1, 2, 3])
    pairs = data.comparisons._replace(chosen=one_each[0], rejected=one_each[1])
    rewards = np.log([3 / 1, 1.5 / 3.5, 1.5 / 1.5, 1.0])
    np.testing.assert_allclose(model.seen(pairs), rewards[:3] - rewards[1:])
    np.testing.assert_array_equal(model.joining(data.comparisons, pairs), model.seen(pairs))


@pytest.mark.parametrize("uses_prompts", [False, True])
def test_pal_as_published_keeps_data_and_budget(tmp_path, uses_prompts):
    ours = {
        "seed": 3,
        "data": {"name": "electricity"},
        "model": {"name": "pal_a", "num_prototypes": 8, "latent_width": 6},
        "training": {"epochs": 7},
        "learner": {"name": "episodes"},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(ours))
    config = load(tmp_path / "c.yaml")
    theirs = as_published(config, uses_prompts=uses_prompts)
    for kept in ("seed", "data", "splits", "encoder", "training", "loss"):
        assert getattr(theirs, kept) == getattr(config, kept)
    assert theirs.model.num_prototypes == 2
    assert theirs.model.shared is None
    assert theirs.model.name == ("pal_b" if uses_prompts else "pal_a")
    assert (theirs.model.similarity if uses_prompts else theirs.model.distance) == "cosine"
    assert theirs.learner.name == "gradient"
    assert theirs.optimizer.learning_rate.networks == 1e-4
    assert theirs.optimizer.learning_rate.user_weights == 5e-3
