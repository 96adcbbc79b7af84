"""Products of bfloat16 numbers with sums in float32, against loops over single numbers."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax import models
from paljax.networks.products import bfloat16_product
from tests.kernels import twins

N, D, E, K = 24, 16, 40, 3


def arrays(*shapes):
    generator = np.random.default_rng(0)
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


def rounded(numbers):
    return np.asarray(numbers).astype(jnp.bfloat16).astype(np.float64)


def test_products_and_gradients_are_those_of_rounded_numbers():
    inputs, kernel, slope = arrays((N, D), (D, E), (N, E))
    outputs, back = jax.vjp(bfloat16_product, inputs, kernel)
    of_inputs, of_kernel = back(jnp.asarray(slope))
    assert outputs.dtype == of_inputs.dtype == of_kernel.dtype == jnp.float32
    x, w, g = rounded(inputs), rounded(kernel), rounded(slope)
    np.testing.assert_allclose(outputs, twins.product(x, w), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_inputs, twins.product(g, w.T), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_kernel, twins.product(x.T, g), rtol=1e-5, atol=1e-5)


def test_several_kernels_side_by_side_are_one_after_the_other():
    inputs, kernels, slope = arrays((N, D), (K, D, E), (K, N, E))

    def run(kernel, slope):
        outputs, back = jax.vjp(bfloat16_product, inputs, kernel)
        return outputs, back(slope)

    together = jax.jit(jax.vmap(run))(kernels, slope)
    alone = [run(*each) for each in zip(kernels, slope, strict=True)]
    one_by_one = jax.tree.map(lambda *each: np.stack(each), *alone)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), together, one_by_one)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU")
@pytest.mark.parametrize("batched", [(), (2,)], ids=["one", "side by side"])
def test_nothing_is_multiplied_in_float32_on_a_cpu(batched):
    def both(inputs, kernel):
        return bfloat16_product(bfloat16_product(inputs, kernel), kernel)

    def step(inputs, kernel, slope):
        product = jax.vmap(both, (None, 0), -2) if batched else both
        return jax.vjp(product, inputs, kernel)[1](slope)

    arguments = arrays((128, 64), (*batched, 64, 64), (128, *batched, 64))
    text = jax.jit(step).lower(*arguments).compile().as_text()
    operands = re.findall(r" dot\(%(\S+), %(\S+)\)", text)
    types = dict(re.findall(r"%?([\w.]+)(?:: | = )(\w+)\[", text))
    assert len(operands) == 5  # one forward, and two of each layer's gradient
    assert {types[name] for names in operands for name in names} == {"bf16"}


@pytest.mark.parametrize("name", ["pal_a", "pal_b"])
def test_a_head_in_bfloat16_is_near_the_head_in_float32(name):
    items, prompts, weights = arrays((N, D), (N, E), (N, K))
    settings = {"num_prototypes": K, "latent_width": 8, "hidden_layers": 1}

    def rewards(products):
        model = getattr(models, name)(**settings, products=products)
        params = model.init(jax.random.key(0), items, prompts)
        encoded = model.encode_items(params, items)
        return model.rewards(
            params, encoded, model.encode_prompts(params, prompts), jax.nn.softmax(weights)
        )

    halved, whole = rewards("bfloat16"), rewards("float32")
    assert halved.dtype == jnp.float32
    assert 0 < np.abs(halved - whole).max() < 0.03 * np.abs(whole).max()
