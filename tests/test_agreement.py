"""Agreement of partitions against the twin that counts pairs, and of points under affine maps."""

import numpy as np
import pytest

from paljax.agreement import adjusted_rand_index, affine_r_squared
from tests.kernels import twins


@pytest.mark.parametrize("seed", range(5))
def test_the_index_is_that_of_counted_pairs(seed):
    generator = np.random.default_rng(seed)
    left, right = generator.integers(0, 4, 23), generator.integers(0, 3, 23)
    found = adjusted_rand_index(left, right)
    assert found == pytest.approx(twins.adjusted_rand_index(left, right), abs=1e-12)
    assert found == pytest.approx(adjusted_rand_index(right, left), abs=1e-12)
    assert -1 < found < 0.5


def test_labels_may_be_anything():
    numbers = np.array([7, 7, 0, 3, 3, 3])
    assert adjusted_rand_index(numbers, np.array(list("bbaccc"), object)) == 1
    assert adjusted_rand_index(numbers[:1], numbers[:1]) == 1
    assert adjusted_rand_index(np.zeros(6), np.arange(6)) == 0


def test_points_agree_up_to_an_affine_map():
    generator = np.random.default_rng(0)
    planted = generator.normal(size=(50, 3))
    learned = planted @ generator.normal(size=(3, 5)) + generator.normal(size=5)
    assert affine_r_squared(learned, planted) == pytest.approx(1)
    noisy = planted + generator.normal(size=planted.shape)
    assert 0.35 < affine_r_squared(noisy, planted) < 0.65
    # One dimension of three has a third of the variance.
    assert affine_r_squared(planted[:, :1], planted) < 0.55
