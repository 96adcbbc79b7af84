"""Sampled texts: whose log-probabilities, what noise, where they end, which tokens are cut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax.errors import UserError
from paljax.networks import huggingface
from paljax.networks.causal_lm import forward
from paljax.networks.sampling import (
    POLICY,
    Prompts,
    Sampling,
    log_distribution,
    sample,
    token_log_probs,
)
from tests.networks import tiny_checkpoints
from tests.networks.tiny_checkpoints import MASK, NEW_TOKENS, TOKENS, VOCABULARY

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROMPTS = Prompts(jnp.asarray(TOKENS), jnp.asarray(MASK))
N, T = 3, 7


@pytest.fixture(scope="module", params=["gpt2", "llama_3_1", "qwen3"])
def model(request, tmp_path_factory):
    folder = tiny_checkpoints.write(request.param, tmp_path_factory.mktemp("checkpoint"))
    return request.param, *huggingface.load(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tiny_checkpoints.write("llama_3_1", tmp_path_factory.mktemp("checkpoint"))
    return huggingface.load(folder)


def draw(model, prompts=PROMPTS, seed=0, num_samples=N, max_tokens=T, end_tokens=(), **options):
    config, params = model
    run = partial(
        sample,
        config=config,
        num_samples=num_samples,
        max_tokens=max_tokens,
        end_tokens=end_tokens,
        **options,
    )
    drawn = jax.jit(run)(params, jax.random.key(seed), prompts)
    return type(drawn)(*map(np.asarray, drawn))


def score(model, prompts, tokens, mask):
    config, params = model
    return np.asarray(
        jax.jit(partial(token_log_probs, config=config))(params, prompts, tokens, mask)
    )


def uncached(model, prompts, tokens):
    """Log-probabilities of a text's tokens, by `all_uncached`."""
    return np.take_along_axis(all_uncached(model, prompts, tokens), tokens[..., None], -1)[..., 0]


def all_uncached(model, prompts, tokens):
    """Log-probabilities [B, n, T, V] of one forward pass over prompt and text, text by text."""
    config, params = model
    run = jax.jit(partial(forward, config=config))
    log_probs = np.zeros((*tokens.shape, VOCABULARY))
    for b, n in np.ndindex(tokens.shape[:2]):
        text = np.concatenate([np.asarray(prompts.tokens[b]), tokens[b, n]])[None]
        mask = np.concatenate([np.asarray(prompts.mask[b]), np.ones(tokens.shape[2], bool)])[None]
        logits = np.asarray(run(params, text, mask)[0], np.float64)[0]
        P = prompts.tokens.shape[1]
        for t in range(tokens.shape[2]):
            row = logits[P + t - 1]
            log_probs[b, n, t] = row - row.max() - np.log(np.exp(row - row.max()).sum())
    return log_probs


def test_greedy_tokens_are_those_of_hugging_face(model, golden_answers):
    name, *model = model
    greedy = Sampling(temperature=0.0)
    drawn = draw(model, num_samples=1, max_tokens=NEW_TOKENS, sampling=greedy)
    assert drawn.tokens[:, 0].tolist() == golden_answers[name]["greedy"]
    assert (drawn.log_probs < 0).all()


def test_log_probs_of_sampler_scorer_and_whole_pass_agree(model):
    _, *model = model
    drawn = draw(model)
    assert drawn.mask.all()
    wanted = uncached(model, PROMPTS, drawn.tokens)
    np.testing.assert_allclose(drawn.log_probs, wanted, atol=1e-5)
    scored = score(model, PROMPTS, drawn.tokens, drawn.mask)
    np.testing.assert_allclose(scored, wanted, atol=1e-5)


def test_texts_stop_after_the_end_token_and_the_rest_is_masked(llama):
    free = draw(llama, num_samples=8)
    ends = (int(free.tokens[0, 0, 2]), 5)
    drawn = draw(llama, num_samples=8, end_tokens=ends)
    stopped = np.isin(free.tokens, ends)
    wanted = np.cumsum(stopped, axis=2) - stopped == 0
    np.testing.assert_array_equal(drawn.mask, wanted)
    np.testing.assert_array_equal(drawn.tokens, np.where(wanted, free.tokens, 0))
    assert 0 < stopped.any(axis=2).sum() < stopped.any(axis=2).size
    assert (drawn.log_probs[~wanted] == 0).all()
    scored = score(llama, PROMPTS, drawn.tokens, drawn.mask)
    np.testing.assert_allclose(scored, drawn.log_probs, atol=1e-5)
    assert (scored[~wanted] == 0).all()


def test_a_text_depends_on_key_row_and_number_and_not_on_the_batch(llama):
    whole = draw(llama, num_samples=4)
    first = draw(llama, Prompts(*(each[:1] for each in PROMPTS)), num_samples=2)
    np.testing.assert_array_equal(first.tokens[0], whole.tokens[0, :2])
    wider = Prompts(*(jnp.pad(each, [(0, 0), (5, 0)]) for each in PROMPTS))
    np.testing.assert_array_equal(draw(llama, wider, num_samples=4).tokens, whole.tokens)
    longer = draw(llama, num_samples=4, max_tokens=T + 4)
    np.testing.assert_array_equal(longer.tokens[..., :T], whole.tokens)
    assert len(np.unique(whole.tokens.reshape(8, T), axis=0)) == 8  # no noise is used twice
    assert (draw(llama, num_samples=4, seed=1).tokens != whole.tokens).any()


def test_a_prompt_of_one_token_is_enough(llama):
    prompts = Prompts(jnp.array([[7], [9]]), jnp.ones((2, 1), bool))
    drawn = draw(llama, prompts)
    wanted = uncached(llama, prompts, drawn.tokens)
    np.testing.assert_allclose(drawn.log_probs, wanted, atol=1e-5)
    np.testing.assert_allclose(score(llama, prompts, drawn.tokens, drawn.mask), wanted, atol=1e-5)


def test_frequencies_of_first_tokens_are_the_policys_probabilities(llama):
    config, params = llama
    many = 4000
    drawn = draw(llama, num_samples=many, max_tokens=1).tokens[:, :, 0]
    logits = np.asarray(forward(params, *PROMPTS, config, last=1)[0])[:, 0]
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = np.stack([np.bincount(row, minlength=VOCABULARY) / many for row in drawn])
    deviation = np.abs(found - wanted) / np.sqrt(wanted * (1 - wanted) / many)
    assert deviation.max() < 4.5


def cut_by_sorting(logits, sampling):
    """One row: sort, cut, renormalise; float64."""
    scaled = logits.astype(np.float64) / sampling.temperature
    probabilities = np.exp(scaled - scaled.max())
    order = np.argsort(-probabilities)
    if sampling.top_k is not None:
        probabilities[order[sampling.top_k :]] = 0
    probabilities /= probabilities.sum()
    if sampling.top_p is not None:
        reached = 0.0
        for token in order:
            if reached >= sampling.top_p:
                probabilities[token] = 0
            reached += probabilities[token]
    return probabilities / probabilities.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        POLICY,
        Sampling(temperature=0.6),
        Sampling(top_k=1),
        Sampling(top_k=5),
        Sampling(top_p=0.7),
        Sampling(top_p=0.999),
        Sampling(temperature=2.0, top_k=9, top_p=0.5),
        Sampling(top_k=1000, top_p=1.0),
    ],
    ids=str,
)
def test_cuts_are_those_of_sorting(sampling):
    logits = np.random.default_rng(3).normal(size=(6, 50)).astype(np.float32) * 3
    got = np.exp(np.asarray(jax.jit(partial(log_distribution, sampling=sampling))(logits)))
    for row, logits_row in zip(got, logits, strict=True):
        np.testing.assert_allclose(row, cut_by_sorting(logits_row, sampling), atol=1e-6)


def test_what_is_drawn_from_and_what_is_trained_are_told_apart(llama):
    drawn = draw(llama, num_samples=6, sampling=Sampling(temperature=0.7, top_k=3))
    np.testing.assert_allclose(drawn.log_probs, uncached(llama, PROMPTS, drawn.tokens), atol=1e-5)
    better = all_uncached(llama, PROMPTS, drawn.tokens) > drawn.log_probs[..., None] + 1e-5
    assert set(np.unique(better.sum(axis=3))) == {0, 1, 2}


def test_gradient_of_the_scorer_flows_through_the_prompt(llama):
    config, params = llama
    drawn = draw(llama, num_samples=1)

    def loss(params, one_pass):
        if not one_pass:
            return token_log_probs(params, PROMPTS, drawn.tokens, drawn.mask, config).sum()
        tokens = jnp.concatenate([PROMPTS.tokens, drawn.tokens[:, 0]], axis=1)
        mask = jnp.concatenate([PROMPTS.mask, drawn.mask[:, 0]], axis=1)
        logits = jax.nn.log_softmax(forward(params, tokens, mask, config)[0][:, -T - 1 : -1])
        return jnp.take_along_axis(logits, drawn.tokens[:, 0, :, None], axis=-1).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    got, wanted = gradient(params, False), gradient(params, True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), got, wanted)


def test_prompts_that_do_not_fit_are_refused(llama):
    with pytest.raises(UserError, match=r"prompts of 11 tokens and 40 new ones .* context of 48"):
        draw(llama, max_tokens=40)
