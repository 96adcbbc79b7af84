"""The language model as a policy: contract, on-policy log-probabilities, what is trained."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax.errors import UserError
from paljax.networks.causal_lm import Compute
from paljax.networks.decoder_config import DecoderConfig, Rotary
from paljax.policy.language_model import Lora, language_model_policy, left_padded

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = DecoderConfig(
    architecture="llama",
    vocabulary=19,
    context=24,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=4,
    mlp_width=24,
    norm_epsilon=1e-5,
    rotary=Rotary(10_000.0),
    end_tokens=(2,),
)
PROMPTS = left_padded([[3, 4, 5], [6], [7, 8]], context=24, max_tokens=9)
N, T = 5, 9


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["whole", "lora"])
def test_policy_scores_its_own_samples_and_learns_by_policy_gradient(lora):
    policy = language_model_policy(
        CONFIG, max_tokens=T, lora_options=lora, compute=Compute(remat=True)
    )
    params = policy.init(jax.random.key(0))
    reference = policy.reference(params)
    sample = jax.jit(policy.sample, static_argnums=3)
    log_probs = jax.jit(policy.log_probs)
    samples = sample(params, jax.random.key(1), PROMPTS, N)
    assert samples.tokens.shape == samples.mask.shape == samples.log_probs.shape == (3, N, T)
    assert samples.truncated.shape == (3, N)
    scored = log_probs(params, PROMPTS, samples.tokens, samples.mask)
    np.testing.assert_allclose(scored, samples.log_probs, atol=1e-5)
    started = log_probs(reference, PROMPTS, samples.tokens, samples.mask)
    np.testing.assert_allclose(started, scored, atol=1e-5)

    def loss(params):  # more of token 11
        rewards = ((samples.tokens == 11) & samples.mask).sum(axis=2) - 0.5
        sequence = policy.log_probs(params, PROMPTS, samples.tokens, samples.mask).sum(axis=2)
        return -(rewards * sequence).mean()

    gradient = jax.jit(jax.grad(loss))(params)
    for trained, slope in zip(
        jax.tree.leaves(policy.trainable(params)), jax.tree.leaves(gradient), strict=True
    ):
        assert trained or not np.asarray(slope).any()
    stepped = jax.tree.map(lambda value, slope: value - 0.05 * slope, params, gradient)
    assert jax.jit(loss)(stepped) < jax.jit(loss)(params)


def test_parameters_are_the_given_ones_and_init_is_a_copy():
    given = language_model_policy(CONFIG, max_tokens=T).init(jax.random.key(5))
    policy = language_model_policy(CONFIG, given, max_tokens=T)
    params = policy.init(jax.random.key(6))
    jax.tree.map(np.testing.assert_array_equal, params, given)
    # A loop donates its state: the reference must not share its memory.
    reference = policy.reference(params)
    jax.tree.map(lambda leaf: leaf.delete(), params)
    jax.tree.map(np.testing.assert_array_equal, reference, given)


def test_lora_reference_survives_donated_parameters():
    policy = language_model_policy(CONFIG, max_tokens=T, lora_options=Lora(rank=2))
    params = policy.init(jax.random.key(5))
    reference = policy.reference(params)
    jax.tree.map(lambda leaf: leaf.delete(), params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(reference))


def test_an_end_that_never_comes_is_finite_and_marked():
    policy = language_model_policy(CONFIG, max_tokens=T, end_tokens=())
    params = policy.init(jax.random.key(0))
    samples = jax.jit(policy.sample, static_argnums=3)(params, jax.random.key(1), PROMPTS, N)
    assert samples.truncated.all()
    assert samples.mask.all()
    assert np.isfinite(samples.log_probs).all()


def test_shapes_alone_are_enough():
    policy = language_model_policy(CONFIG, max_tokens=T, lora_options=Lora(rank=2))
    params = jax.eval_shape(policy.init, jax.random.key(0))
    prompts = jax.eval_shape(lambda: PROMPTS)
    samples = jax.eval_shape(
        partial(policy.sample, num_samples=N), params, jax.random.key(0), prompts
    )
    scored = jax.eval_shape(policy.log_probs, params, prompts, samples.tokens, samples.mask)
    assert scored.shape == (3, N, T)


def test_left_padding_puts_the_last_token_last():
    np.testing.assert_array_equal(PROMPTS.tokens, [[3, 4, 5], [0, 0, 6], [0, 7, 8]])
    assert PROMPTS.mask.sum(axis=1).tolist() == [3, 1, 2]
    assert jnp.all(PROMPTS.mask[:, -1])


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (partial(left_padded, [], context=9, max_tokens=2), "there are no prompts"),
        (partial(left_padded, [[1], []], context=9, max_tokens=2), "prompt 2 of 2 is empty"),
        (
            partial(left_padded, [[1] * 8], context=9, max_tokens=2),
            "prompt 1 of 1 has 8 tokens; with 2 new ones that is more than the model's context of "
            "9",
        ),
        (
            partial(language_model_policy, CONFIG, max_tokens=2, end_tokens=(19,)),
            "end token 19 is not in the model's vocabulary of 19",
        ),
    ],
)
def test_mistakes_are_named(make, line):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == line
