"""The language model as a policy: contract, on-policy log-probabilities, what is trained."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paljax.errors import UserError
from paljax.learners.fit_policy import (
    PolicyOptimizer,
    PromptBatch,
    Rewards,
    Rollouts,
    fit_policy,
)
from paljax.learners.group_weights import GROUP_WEIGHTS
from paljax.learners.objectives import OBJECTIVES, Groups
from paljax.networks.causal_lm import Compute
from paljax.networks.decoder_config import DecoderConfig, Rotary
from paljax.networks.lora import trainable
from paljax.policy.language_model import Lora, language_model_policy, left_padded
from paljax.policy.normalize_rewards import Calibration
from paljax.policy.responses import draw_responses
from paljax.policy.text_policy import TextPrompts, text_policy

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
    sample = jax.jit(policy.sample, static_argnums=3)
    log_probs = jax.jit(policy.log_probs)
    samples = sample(params, jax.random.key(1), PROMPTS, N)
    assert samples.tokens.shape == samples.mask.shape == samples.log_probs.shape == (3, N, T)
    scored = log_probs(params, PROMPTS, samples.tokens, samples.mask)
    np.testing.assert_allclose(scored, samples.log_probs, atol=1e-5)

    def loss(params):  # more of token 11
        rewards = ((samples.tokens == 11) & samples.mask).sum(axis=2) - 0.5
        sequence = policy.log_probs(params, PROMPTS, samples.tokens, samples.mask).sum(axis=2)
        return -(rewards * sequence).mean()

    gradient = jax.jit(jax.grad(loss))(params)
    for trained, slope in zip(
        jax.tree.leaves(trainable(params)), jax.tree.leaves(gradient), strict=True
    ):
        assert trained or not np.asarray(slope).any()
    stepped = jax.tree.map(lambda value, slope: value - 0.05 * slope, params, gradient)
    assert jax.jit(loss)(stepped) < jax.jit(loss)(params)


def test_parameters_are_the_given_ones_and_init_is_a_copy():
    given = language_model_policy(CONFIG, max_tokens=T).init(jax.random.key(5))
    policy = text_policy(language_model_policy(CONFIG, given, max_tokens=T), low_rank=False)
    params = policy.init(jax.random.key(6))
    jax.tree.map(np.testing.assert_array_equal, params, given)
    # A loop donates its state: the reference must not share its memory.
    reference = policy.reference(params)
    jax.tree.map(lambda leaf: leaf.delete(), params)
    jax.tree.map(np.testing.assert_array_equal, reference, given)


def test_lora_reference_survives_donated_parameters():
    made = language_model_policy(CONFIG, max_tokens=T, lora_options=Lora(rank=2))
    policy = text_policy(made, low_rank=True)
    params = policy.init(jax.random.key(5))
    reference = policy.reference(params)
    jax.tree.map(lambda leaf: leaf.delete(), params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(reference))


def test_an_end_that_never_comes_is_finite():
    policy = language_model_policy(CONFIG, max_tokens=T, end_tokens=())
    params = policy.init(jax.random.key(0))
    samples = jax.jit(policy.sample, static_argnums=3)(params, jax.random.key(1), PROMPTS, N)
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


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["whole", "lora"])
def test_in_bfloat16_rounding_makes_no_kl_and_no_clipped_ratio(lora):
    made = language_model_policy(
        CONFIG, max_tokens=T, lora_options=lora, compute=Compute(jnp.bfloat16)
    )
    policy = text_policy(made, low_rank=lora is not None)
    base = language_model_policy(CONFIG, max_tokens=T).init(jax.random.key(7))
    base = jax.tree.map(lambda leaf: 4 * leaf, base)  # sharp enough that rounding shows
    if lora is None:
        policy = policy._replace(init=lambda key: jax.tree.map(jnp.array, base))
    prompts = TextPrompts(PROMPTS, None, Calibration(None, jnp.ones(2), None, None), base)

    def rewards(prompts, tokens, mask):
        return jnp.stack([((tokens == token) & mask).sum(axis=2) for token in (11, 12)], axis=2) / T

    groups = Groups(("left", "right"), jnp.array([0.7, 0.3]))
    learner = fit_policy(
        policy, Rewards(rewards), groups, OBJECTIVES["maxmin"](groups), num_prompts=3,
        follow=GROUP_WEIGHTS["argmin"](), smoothing=0.0, beta=1.0,
        rollouts=Rollouts(64, 1, 1e-3),
        optimizer=PolicyOptimizer(optax.sgd(0.1), optax.constant_schedule(1.0), 0.1),
    )  # fmt: skip
    state = jax.jit(learner.init)(jax.random.key(0))
    batch = PromptBatch(prompts, jnp.arange(3), jnp.full(3, 1 / 3))
    _, metrics = jax.jit(learner.step)(state, batch)
    assert abs(float(metrics["kl"])) < 1e-5
    assert float(metrics["clipped"]) == 0
    found = draw_responses(
        policy, rewards, state.params, state.reference, prompts, jax.random.key(1), samples=64
    )
    assert np.abs(found.log_ratio).max() < 1e-4
    # What the sampler says of the same draws is further off.
    drawn = jax.jit(policy.sample, static_argnums=3)(state.params, jax.random.key(1), prompts, 64)
    scored = jax.jit(policy.log_probs)(state.params, prompts, drawn.tokens, drawn.mask)
    assert np.abs(drawn.log_probs - scored).max() > 1e-2
