"""LoRA as a transformation of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paljax.errors import UserError
from paljax.networks import huggingface
from paljax.networks.causal_lm import forward
from paljax.networks.lora import (
    add_lora,
    freeze_base,
    has_lora,
    merge_lora,
    trainable,
)
from tests.networks import tiny_checkpoints
from tests.networks.tiny_checkpoints import MASK, TOKENS

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(4)
OPTIONS = {"rank": 3, "alpha": 12.0, "targets": ("query", "key", "down")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return huggingface.load(tiny_checkpoints.write("qwen2", tmp_path_factory.mktemp("lora")))


def logits_of(params, config):
    return np.asarray(jax.jit(lambda params: forward(params, TOKENS, MASK, config)[0])(params))


def perturbed(params):
    """As after training: B is no longer zero."""
    layers = {
        name: layer
        | ({"lora_b": jax.random.normal(KEY, layer["lora_b"].shape)} if "lora_b" in layer else {})
        for name, layer in params["layers"].items()
    }
    return {**params, "layers": layers}


def test_adding_changes_nothing_and_merging_keeps_the_function(model):
    config, params = model
    start = logits_of(params, config)
    added = add_lora(params, KEY, **OPTIONS)
    np.testing.assert_array_equal(logits_of(added, config), start)
    trained = perturbed(added)
    changed = logits_of(trained, config)
    assert np.abs(changed - start).max() > 0.5
    merged = merge_lora(trained)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    np.testing.assert_allclose(logits_of(merged, config), changed, atol=1e-4)


def test_merged_kernel_is_the_equation(model):
    _, params = model
    trained = perturbed(add_lora(params, KEY, **OPTIONS))
    merged = merge_lora(trained)["layers"]["key"]["kernel"]
    layer = {name: np.asarray(leaf, np.float64) for name, leaf in trained["layers"]["key"].items()}
    for place in range(3):
        wanted = layer["kernel"][place] + 12 / 3 * layer["lora_a"][place] @ layer["lora_b"][place]
        np.testing.assert_allclose(merged[place], wanted, rtol=1e-5, atol=1e-5)


def test_only_the_low_rank_parts_are_trained(model):
    config, params = model
    assert all(jax.tree.leaves(trainable(params)))
    params = add_lora(jax.tree.map(jnp.asarray, params), KEY, **OPTIONS)
    assert sum(jax.tree.leaves(trainable(params))) == 2 * 3

    def loss(params):
        return (forward(freeze_base(params), TOKENS, MASK, config)[0] ** 2).mean()

    gradient = jax.jit(jax.grad(loss))(params)
    optimizer = optax.masked(optax.adamw(0.1), trainable)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    moved = {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(after), strict=True
        )
        if (np.asarray(old) != np.asarray(new)).any()
    }
    # A has no gradient while B is zero; weight decay moves it.
    assert moved == {
        f"layers.{name}.{part}" for name in OPTIONS["targets"] for part in ("lora_a", "lora_b")
    }
    assert has_lora(params)
    assert not has_lora(merge_lora(params))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"targets": ["quary"]}, "targets: no linear layer 'quary'; did you mean 'query'?"),
        ({"rank": 13}, "rank: 13 does not fit layer 'value' of 24 x 12; give 1 to 12"),
        ({"rank": 0}, "rank: 0 does not fit layer 'query' of 24 x 24; give 1 to 24"),
    ],
)
def test_mistakes_are_named(model, options, line):
    with pytest.raises(UserError) as caught:
        add_lora(model[1], KEY, **options)
    assert str(caught.value) == line
