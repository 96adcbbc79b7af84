"""Configurations for hosts with GPUs: they load, and a step is traced and compiled by shapes alone.

No weights are downloaded or made: the sizes are those of the models' published config.json.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax.config import load
from paljax.data.encoders import CausalLM, Encoder
from paljax.data.encoders.causal_lm import open_model
from paljax.data.encoders.text_embeddings import TextEmbeddings
from paljax.learners.fit_policy import Rewards
from paljax.learners.objectives import Groups
from paljax.networks import causal_lm
from paljax.networks.decoder_config import DecoderConfig, Rotary
from paljax.networks.sampling import Prompts
from paljax.policy.decoding import Decoder
from paljax.policy.group_rewards import group_rewards
from paljax.policy.normalize_rewards import Calibration
from paljax.policy.problems import Problem
from paljax.policy.tasks import policy_task
from paljax.policy.text_policy import TextPrompts, take
from paljax.policy.text_problems import configured_policy, end_tokens_of, normalised
from paljax.policy.text_rewards import of_texts
from paljax.reward.fits import configured_model
from paljax.reward.predictors import Trained
from paljax.reward.trained_model import TrainedModel

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"
GPT2 = DecoderConfig(
    architecture="gpt2", vocabulary=50257, context=1024, width=768, layers=12, heads=12,
    kv_heads=12, head_width=64, mlp_width=3072, norm_epsilon=1e-5, rotary=None, layer_norm=True,
    gated=False, qkv_bias=True, output_bias=True, mlp_bias=True, tied=True, bos_token=50256,
    end_tokens=(50256,),
)  # fmt: skip
TULU2_7B = DecoderConfig(
    architecture="llama", vocabulary=32000, context=8192, width=4096, layers=32, heads=32,
    kv_heads=32, head_width=128, mlp_width=11008, norm_epsilon=1e-5, rotary=Rotary(10_000.0),
    bos_token=1, end_tokens=(2,),
)  # fmt: skip
CASES = [("gpt2_imdb", GPT2, 124_439_808), ("tulu2_7b", TULU2_7B, 6_738_415_616)]
X, P = 64, 32  # prompts and their tokens


def rewards_of(reward_config, sizes):
    """The configured reward model with random weights, reading states of this width."""
    (part,) = reward_config.encoder
    assert isinstance(part, CausalLM)
    zeros = np.zeros(sizes.width, np.float32)
    read = TextEmbeddings(open_model, part, "", part.max_length, zeros, 1.0)
    alone = reward_config.model.model_copy(update={"shared": None})
    model = configured_model(alone, alone.num_prototypes)
    params = model.init(jax.random.key(0), jnp.zeros((1, sizes.width)), None)
    people = {"ann": np.array([0.9, 0.1], np.float32), "ben": np.array([0.1, 0.9], np.float32)}
    trained = Trained(model, params, jnp.full(2, 0.5), None)
    encoder = Encoder({"causal_lm": read})
    return group_rewards(TrainedModel(reward_config, trained, encoder, None, people, {}))


def problem_of(config, reward_config, sizes):
    """The problem with shapes in the place of the language model's weights."""
    wanted = rewards_of(reward_config, sizes)
    ends = end_tokens_of(config.policy, sizes)
    in_nats = of_texts(wanted, sizes, opening=(1,), decoder=Decoder(str, ends), readers={})
    base = jax.eval_shape(partial(causal_lm.init, config=sizes), jax.random.key(0))
    calibration = Calibration(jnp.zeros((X, 2)), jnp.ones(2), None, None)
    tokens = jnp.zeros((X, P), jnp.int32)
    return Problem(
        policy=configured_policy(config.policy, sizes, None),
        rewards=Rewards(partial(normalised, in_nats)),
        groups=Groups(("positive", "concise"), jnp.full(2, 0.5)),
        num_rewards=2,
        prompts=TextPrompts(Prompts(tokens, tokens == 0), None, calibration, base),
        take=take,
        prompt_weights=np.full(X, 1 / X),
        inputs={},
        tables=None,
    )


def lowered(name, sizes):
    config = load(EXPERIMENTS / name / "policy.yaml")
    reward_config = load(EXPERIMENTS / name / "reward.yaml")
    assert reward_config.encoder[0].model == config.policy.model
    task = policy_task(config, problem_of(config, reward_config, sizes))
    state = jax.eval_shape(task.learner.init, jax.random.key(0))
    batch = jax.tree.map(lambda leaf: leaf[0], task.epoch_batches(0))

    def step(state, tables):
        return task.learner.step(state, task.to_batch(tables, batch))

    return state, task.tables, jax.jit(step, donate_argnums=0).lower(state, task.tables)


@pytest.mark.parametrize(("name", "sizes", "count"), CASES, ids=[case[0] for case in CASES])
def test_a_step_is_traced_by_shapes_alone(name, sizes, count):
    state, tables, step = lowered(name, sizes)
    base = jax.tree.leaves(tables.language_model)
    assert sum(leaf.size for leaf in base) == count
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # LoRA's state holds the low-rank parts alone: 2 x width x rank for 4 layers, and a scale each.
    assert trained == (count if name == "gpt2_imdb" else 32 * 4 * (2 * 4096 * 16 + 1))
    assert step.out_info[0].params.keys() == state.params.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes", "count"), CASES, ids=[case[0] for case in CASES])
def test_a_step_compiles_by_shapes_alone(name, sizes, count):
    compiled = lowered(name, sizes)[2].compile()
    assert compiled.memory_analysis().argument_size_in_bytes > 4 * count


@pytest.mark.parametrize("name", [case[0] for case in CASES] + ["maxmin_stories"])
def test_both_stages_load(name):
    reward, policy = (load(EXPERIMENTS / name / f"{stage}.yaml") for stage in ("reward", "policy"))
    assert (reward.stage, policy.stage) == ("reward", "policy")
