"""BERT agrees with its equations, padding changes nothing, and foreign weights are named."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax.errors import UserError
from paljax.networks import bert
from tests import tiny_bert
from tests.networks.bert_twin import hidden_states

HERE = Path("tiny")
TEXTS = [[2, 4, 5, 6, 3], [2, 7, 8, 9, 10, 11, 12, 3], [2, 3]]


def padded(texts, length):
    token_ids, mask = np.zeros((len(texts), length), np.int32), np.zeros((len(texts), length), bool)
    for row, text in enumerate(texts):
        token_ids[row, : len(text)], mask[row, : len(text)] = text, True
    return jnp.asarray(token_ids), jnp.asarray(mask)


def network(tensors=None, **changed):
    sizes = bert.read_config(tiny_bert.CONFIG | changed, where="config.json")
    tensors = tiny_bert.tensors() if tensors is None else tensors
    return bert.Bert(sizes), bert.read_params(sizes, tensors, where=HERE)


@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-12), (False, 2e-5)])
def test_hidden_states_are_those_of_the_equations(double, tolerance):
    module, params = network()
    with jax.enable_x64(double):
        if double:
            module = bert.Bert(module.config, dtype=jnp.float64)
            params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        hidden = jax.jit(module.apply)(params, *padded(TEXTS, 9))
        for row, text in enumerate(TEXTS):
            expected = hidden_states(tiny_bert.tensors(), tiny_bert.CONFIG, text)
            np.testing.assert_allclose(hidden[row, : len(text)], expected, atol=tolerance)


def test_padding_changes_nothing():
    module, params = network()
    short, long = (module.apply(params, *padded(TEXTS, length)) for length in (8, 16))
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(short[row, : len(text)], long[row, : len(text)], atol=1e-5)
    token_ids, mask = padded(TEXTS, 8)
    other = module.apply(params, jnp.where(mask, token_ids, 7), mask)
    np.testing.assert_allclose(other[0, :5], short[0, :5], atol=1e-5)
    assert np.isfinite(module.apply(params, token_ids, jnp.zeros_like(mask))).all()


def test_a_model_with_heads_and_old_names_is_the_same_encoder():
    old = {
        f"bert.{name}".replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
        for name, value in tiny_bert.tensors().items()
    }
    old["cls.predictions.bias"] = np.zeros(3, np.float32)
    for one, other in zip(
        jax.tree.leaves(network()[1]), jax.tree.leaves(network(old)[1]), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_the_activation_is_the_configured_one():
    outputs = {}
    for name in ("gelu", "gelu_new", "relu"):
        module, params = network(hidden_act=name)
        outputs[name] = np.asarray(module.apply(params, *padded(TEXTS, 8)))
    assert 1e-5 < np.abs(outputs["gelu"] - outputs["gelu_new"]).max() < 0.05
    assert np.abs(outputs["gelu"] - outputs["relu"]).max() > 0.05


def changed(**tensors):
    made = tiny_bert.tensors()
    for name, value in tensors.items():
        made.pop(name) if value is None else made.__setitem__(name, value)
    return made


QUERY, KEY = (f"encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({QUERY: None}, f"missing: {QUERY}$"),
        ({QUERY: np.zeros((12, 9))}, rf"of another shape: {QUERY} \[12, 9\] instead of \[12, 12\]"),
        ({"encoder.layer.2.output.dense.bias": np.zeros(12)}, "unknown: encoder.layer.2.output"),
        ({QUERY: None, KEY: None, "lm_head": np.zeros(2)}, f"missing: {QUERY}, {KEY}; unknown: lm"),
        (
            {name: None for name in tiny_bert.tensors() if name.startswith("encoder.layer.1")},
            r"missing: .*, .*, .* and 13 more$",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named_in_one_line(tensors, message):
    with pytest.raises(UserError, match=message) as caught:
        network(changed(**tensors))
    assert str(caught.value).startswith("tiny: the tensors do not fit config.json; ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"model_type": "roberta"},
            "model_type 'roberta' is no BERT layout; encoder 'transformers'",
        ),
        ({"hidden_act": "gelu_nwe"}, "hidden_act 'gelu_nwe' is not known; did you mean 'gelu_new'"),
        ({"hidden_size": None}, "hidden_size is None, wanted a positive number"),
        ({"num_hidden_layers": "6"}, "num_hidden_layers is '6', wanted a positive number"),
        ({"num_attention_heads": 5}, "hidden_size 12 does not divide among 5 attention heads"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
    ],
)
def test_a_configuration_that_is_no_bert_is_refused(keys, message):
    with pytest.raises(UserError, match=message):
        bert.read_config(tiny_bert.CONFIG | keys, where="config.json")
