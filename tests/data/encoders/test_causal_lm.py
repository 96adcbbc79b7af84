"""The part `causal_lm`: states of the language model itself, one text at a time, in plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from paljax.data.encoders import PARTS, CausalLM
from paljax.data.encoders.causal_lm import _opened, open_model
from paljax.errors import UserError
from paljax.networks import causal_lm, huggingface
from tests import tiny_language_model
from tests.tiny_language_model import WORDS

pytestmark = pytest.mark.usefixtures("quick_compilation")
TEXTS = ("sun happy", "the cat saw a big dog", "rain", "sad " * 60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_language_model.write(tmp_path_factory.mktemp("encoder") / "tiny")


def embedded(config, texts=TEXTS):
    vectors = np.zeros((len(texts), open_model(config).width), np.float32)
    cut = np.zeros(len(texts), bool)
    for block in open_model(config).embed(texts):
        vectors[block.places], cut[block.places] = block.vectors, block.cut
    return vectors, cut


@pytest.mark.parametrize("pooling", ["mean", "last", "sum"])
def test_states_are_the_penultimate_layers_after_the_opening_token(folder, pooling):
    vectors, cut = embedded(CausalLM(model=str(folder), pooling=pooling, tokens_per_batch=40))
    sizes, params = huggingface.load(folder)
    assert cut.tolist() == [False, False, False, True]
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = [1, *(WORDS.index(word) + 3 for word in text.split())][: sizes.context]
        states = causal_lm.hidden_states(
            params, jnp.array([ids]), jnp.ones((1, len(ids)), bool), sizes, layer=2
        )
        of_text = np.asarray(states)[0, 1:]
        wanted = {"mean": of_text.mean(axis=0), "last": of_text[-1], "sum": of_text.sum(axis=0)}
        np.testing.assert_allclose(vector, wanted[pooling], rtol=1e-4, atol=1e-4)


def test_a_text_that_nothing_stands_before_is_read_whole(tmp_path):
    """As GPT-2's, whose config.json names a bos token all the same."""
    plain = tiny_language_model.write(tmp_path / "plain", opens=False)
    config = CausalLM(model=str(plain), tokens_per_batch=40)
    vectors, cut = embedded(config)
    sizes, params = huggingface.load(plain)
    assert sizes.bos_token == 1
    assert open_model(config).limit == sizes.context
    assert cut.tolist() == [False, False, False, True]
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = [WORDS.index(word) + 3 for word in text.split()][: sizes.context]
        states = causal_lm.hidden_states(
            params, jnp.array([ids]), jnp.ones((1, len(ids)), bool), sizes, layer=2
        )
        np.testing.assert_allclose(vector, states[0].mean(axis=0), rtol=1e-4, atol=1e-4)


def test_the_revision_says_what_an_embedding_depends_on(folder, tmp_path):
    config = CausalLM(model=str(folder))
    other = tiny_language_model.write(tmp_path / "other", scale=0.5)
    settled = tiny_language_model.write(tmp_path / "settled")
    (settled / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    changed = [{"layer": -1}, {"pooling": "last"}, {"max_length": 5}, {"model": str(other)},
               {"model": str(settled)}]  # fmt: skip
    revisions = {open_model(config.model_copy(update=change)).revision for change in ({}, *changed)}
    assert len(revisions) == 6
    again = tiny_language_model.write(tmp_path / "again")
    assert open_model(CausalLM(model=str(again))).revision == open_model(config).revision


@pytest.mark.parametrize("layer", [0, 4, -4])
def test_a_layer_that_there_is_not_is_refused(folder, layer):
    with pytest.raises(UserError, match=f"layer {layer} of a model with 3 layers; wanted 1 to 3"):
        open_model(CausalLM(model=str(folder), layer=layer))


def test_it_is_a_part_and_a_model_is_read_once(folder):
    assert PARTS["causal_lm"].config is CausalLM
    before = _opened.cache_info().misses
    open_model(CausalLM(model=str(folder), layer=1))
    open_model(CausalLM(model=str(folder), layer=2))
    assert _opened.cache_info().misses - before <= 1
