"""Baselines: what they know and what they do not."""

import numpy as np
import pytest
import yaml

from paljax.config import Config, load
from paljax.data.dataset import assemble
from paljax.reward.baselines import item_majority, principal_components, with_levels
from paljax.reward.published import MOST_EPOCHS, PATIENCE, as_published


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
def test_pal_as_published_keeps_data_and_takes_its_own_time(tmp_path, uses_prompts):
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
    for kept in ("seed", "data", "splits", "encoder", "loss"):
        assert getattr(theirs, kept) == getattr(config, kept)
    assert theirs.training.batch_size == config.training.batch_size
    assert theirs.training.epochs == MOST_EPOCHS
    assert theirs.training.patience == PATIENCE  # its best epoch, by validation
    assert theirs.model.num_prototypes == 2
    assert theirs.model.shared is None
    assert theirs.model.name == ("pal_b" if uses_prompts else "pal_a")
    assert (theirs.model.similarity if uses_prompts else theirs.model.distance) == "cosine"
    assert theirs.learner.name == "gradient"
    assert theirs.optimizer.learning_rate.networks == 1e-4
    assert theirs.optimizer.learning_rate.user_weights == 5e-3


PUBLISHED = {
    # Those of model (with prompts: PAL-B), prior and optimiser that the authors' code trains.
    "model": {"num_prototypes": 2, "hidden_layers": 1, "activation": "gelu", "dropout": 0.0,
              "residual": False, "shared": None, "anchored": False, "personal": True},
    "optimizer": {
        "learning_rate": {"networks": 1e-4, "prototypes": 1e-4, "scale": 1e-4,
                          "user_weights": 5e-3},
        "weight_decay": {"networks": 0.01, "prototypes": 0.0, "scale": 0.0, "user_weights": 0.0},
        "schedule": "constant", "warmup_fraction": 0.0, "clip_norm": None,
        "beta1": 0.9, "beta2": 0.999,
    },
}  # fmt: skip


@pytest.mark.parametrize("uses_prompts", [False, True])
def test_pal_as_published_has_its_authors_settings_whatever_ours_are(uses_prompts):
    ours = Config.model_validate(
        {
            "data": {"name": "electricity"},
            "model": {"name": "pal_a", "num_prototypes": 8, "hidden_layers": 3, "dropout": 0.2,
                      "activation": "relu", "residual": True, "prototype_scale": 0.3},
            "prior_strength": 6.0,
            "selection": {"prior_strength": [2.0, 9.0]},
            "optimizer": {
                "learning_rate": dict.fromkeys(PUBLISHED["optimizer"]["learning_rate"], 0.03),
                "weight_decay": dict.fromkeys(PUBLISHED["optimizer"]["weight_decay"], 0.3),
                "schedule": "linear", "warmup_fraction": 0.2, "clip_norm": 3.0,
                "beta1": 0.5, "beta2": 0.9,
            },
        }
    )  # fmt: skip
    theirs = as_published(ours, uses_prompts=uses_prompts)
    model = theirs.model.model_dump()
    assert {name: model[name] for name in PUBLISHED["model"]} == PUBLISHED["model"]
    assert theirs.optimizer.model_dump() == PUBLISHED["optimizer"]
    assert uses_prompts or theirs.model.user_point == "latent"
    # Next to nothing: a hundredth of a comparison, and no other strength is tried.
    assert theirs.prior_strength == 0.01
    assert theirs.selection.prior_strength == [0.01]


def test_principal_components_keep_distances_along_the_directions_of_most_spread():
    generator = np.random.default_rng(0)
    spreads = np.array([5.0, 3.0, 1.0, 0.01, 0.0, 0.0])
    rotation = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    planted = generator.normal(size=(50, 6)) * spreads
    features = (planted @ rotation + 7).astype(np.float32)
    training = np.repeat(np.arange(30), 3).astype(np.int32)
    found = principal_components(features, training, most=3)
    assert found.shape == (50, 3)
    seen = found[training]
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose((seen[:, 0] ** 2).mean(), 1, rtol=1e-4)
    # Of items that training never saw, too, all distances are kept, in one unit.
    far = np.linalg.norm(planted[0] - planted[31:], axis=1)
    np.testing.assert_allclose(
        np.linalg.norm(found[0] - found[31:], axis=1) / far,
        np.linalg.norm(found[0] - found[31]) / far[0],
        rtol=1e-3,
    )
    again = principal_components(features, training, most=16)
    assert again.shape[1] == 4  # no direction without spread


def test_principal_components_weigh_items_by_how_often_they_appear():
    features = np.array([[0.0, 0], [1, 0], [0, 2]], np.float32)
    rows = np.array([0, 1] * 50 + [2], np.int32)
    found = principal_components(features, rows, most=1)
    assert abs(found[0, 0] - found[1, 0]) > abs(found[0, 0] - found[2, 0])


def test_equal_items_have_no_components():
    assert principal_components(np.ones((3, 40), np.float32), np.array([0, 1])).shape == (3, 0)


def test_levels_have_a_threshold_of_their_own_and_nothing_else():
    features = np.arange(8, dtype=np.float32).reshape(4, 2) + 1
    wider = with_levels(features, 2)
    np.testing.assert_array_equal(wider[:2], [[1, 2, 0, 0], [3, 4, 0, 0]])
    np.testing.assert_array_equal(wider[2:], [[0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(with_levels(features, 0), features)
