"""The steps that a TPU pod would run, compiled ahead of time on a machine without a TPU.

The reward step is that of PAL-B (d = 1,024, K = 8), every chip with its users and its comparisons;
the policy step that of a language model of the shape of Llama 7B, all of it trained, from shapes
alone: responses drawn, scored by the reference and by rewards that read the frozen model, and one
gradient step.
"""

import os
from typing import Any, NamedTuple

# There is no TPU here, nor a metadata server to ask for one, and no TPU to quarrel over.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.compiled import Work, work_of
from benchmarks.plain_adamw import PLAIN_ADAMW
from paljax import models
from paljax.data.batches import Batch
from paljax.data.encoders.causal_lm import Reading, read_states
from paljax.learners.devices import along
from paljax.learners.fit_by_gradient import fit_by_gradient
from paljax.learners.fit_policy import (
    PolicyOptimizer,
    PromptBatch,
    Rewards,
    Rollouts,
    fit_policy,
)
from paljax.learners.group_weights import GROUP_WEIGHTS
from paljax.learners.learner import Learner
from paljax.learners.losses import LOSSES
from paljax.learners.objectives import OBJECTIVES, Groups
from paljax.networks.causal_lm import Compute
from paljax.networks.decoder_config import DecoderConfig, Rotary
from paljax.networks.sampling import Prompts
from paljax.parallel import AXIS, data_parallel
from paljax.policy.grid import DATA, FSDP, grid_on, on_grid, places_on, shardings
from paljax.policy.language_model import language_model_policy
from paljax.policy.normalize_rewards import Calibration
from paljax.policy.text_policy import TextPrompts, text_policy

WIDTH, NUM_PROTOTYPES = 1024, 8
USERS_PER_CHIP = 100_000_000 // 256
BATCH_PER_CHIP = 4096
LLAMA_7B = DecoderConfig(
    architecture="llama",
    vocabulary=32_000,
    context=4096,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=32,
    head_width=128,
    mlp_width=11_008,
    norm_epsilon=1e-5,
    rotary=Rotary(10_000.0),
    bos_token=1,
    end_tokens=(2,),
)
OPENING = (1,)  # tokens that a text of LLAMA_7B opens with
NUM_SAMPLES, PROMPT_TOKENS, NEW_TOKENS = 4, 128, 128


class Compiled(NamedTuple):
    """What a compiled step is known to do on each chip."""

    step: str
    topology: str
    chips: int
    size: str  # users, or the grid of the language model
    memory: int  # bytes: arguments, results that take no argument's place, and temporaries
    work: Work


def compile_reward_step(
    topology: str, chips: int, *, users_per_chip: int, batch_per_chip: int
) -> Compiled:
    """Compile the reward step for so many chips of a topology."""
    mesh = Mesh(np.array(_chips(topology)[:chips]), (AXIS,))
    users = chips * users_per_chip
    learner = reward_learner(users)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    spread, same = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
    placed = type(state)(
        *(
            _placed(part, spread if name in learner.of_users else same)
            for name, part in state._asdict().items()
        )
    )
    step = data_parallel(
        lambda state, batch, tables: learner.step(state, batch),
        mesh,
        "shard_map",
        of_users=learner.of_users,
    )
    batch = _placed(batch_shapes(chips, batch_per_chip), spread)
    compiled = step.lower(placed, batch, ()).compile()  # type: ignore[attr-defined]
    return _read("reward", topology, chips, f"{users:,} users", compiled)


def reward_learner(num_users: int) -> Learner:
    """The learner of PAL-B for so many users, one among many devices."""
    return fit_by_gradient(
        models.pal_b(num_prototypes=NUM_PROTOTYPES, latent_width=WIDTH, hidden_layers=1),
        example_items=jnp.zeros((1, WIDTH)),
        example_prompts=jnp.zeros((1, WIDTH)),
        num_users=num_users,
        loss=LOSSES["logistic"],
        prior_strength=2.0,
        optimizer=PLAIN_ADAMW,
        devices=along(AXIS),
    )


def batch_shapes(chips: int, batch_per_chip: int) -> Batch:
    """Shapes of the batches of all chips: every item and prompt distinct."""
    size = chips * batch_per_chip

    def shape(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    whole, real = shape(jnp.int32, size), shape(jnp.float32, size)
    return Batch(
        items=shape(jnp.float32, 2 * size, WIDTH),
        prompts=shape(jnp.float32, size, WIDTH),
        users=whole,
        chosen=whole,
        rejected=whole,
        prompt=whole,
        user=whole,
        weight=real,
        target=real,
        prior_share=real,
        present=shape(jnp.bool_, size),
    )


def compile_policy_step(
    topology: str,
    *,
    data: int,
    fsdp: int,
    network: DecoderConfig = LLAMA_7B,
    prompts_per_chip: int = 1,
    new_tokens: int = NEW_TOKENS,
) -> Compiled:
    """Compile the policy step for a grid of chips of a topology."""
    chips = data * fsdp
    grid = grid_on(_chips(topology)[:chips], data, fsdp)
    num_prompts = chips * prompts_per_chip
    learner = policy_learner(network, grid, num_prompts, new_tokens)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    state = jax.tree.map(_placed, state, shardings(state, grid))
    dealt = NamedSharding(grid, PartitionSpec((DATA, FSDP)))
    everywhere = NamedSharding(grid, PartitionSpec())

    def shape(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=dealt)

    texts = (num_prompts, PROMPT_TOKENS)
    batch = PromptBatch(
        prompts=TextPrompts(
            prompts=Prompts(shape(jnp.int32, *texts), shape(jnp.bool_, *texts)),
            reward_inputs=None,
            calibration=Calibration(None, _placed(jnp.ones(2), everywhere), None, None),
            language_model=state.params,
        ),
        rows=shape(jnp.int32, num_prompts),
        weights=shape(jnp.float32, num_prompts),
    )
    compiled = jax.jit(learner.step, donate_argnums=0).lower(state, batch).compile()
    return _read("policy", topology, chips, f"data {data} x fsdp {fsdp}", compiled)


def policy_learner(
    network: DecoderConfig, grid: Mesh, num_prompts: int, new_tokens: int
) -> Learner:
    """MaxMin of two groups, whose rewards are linear in the frozen model's penultimate states."""
    compute = Compute(jnp.bfloat16, remat=True, places=places_on(grid))
    policy = text_policy(
        language_model_policy(network, max_tokens=new_tokens, compute=compute), low_rank=False
    )
    groups = Groups(("first", "second"), jnp.array([0.5, 0.5]))
    reading = Reading(-2, "mean", OPENING, compute)
    heads = jax.random.normal(jax.random.key(0), (network.width, 2))

    def of_responses(texts: TextPrompts, tokens: Any, mask: Any) -> Any:
        flat, of_text = (each.reshape(-1, new_tokens) for each in (tokens, mask))
        states = read_states(texts.language_model, flat, of_text, network, reading)
        return (states @ heads).reshape(num_prompts, NUM_SAMPLES, 2)

    adam = optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale_by_learning_rate(1e-6)
    )
    learner = fit_policy(
        policy,
        Rewards(of_responses),
        groups,
        OBJECTIVES["maxmin"](groups),
        num_prompts=num_prompts,
        follow=GROUP_WEIGHTS["exponentiated_gradient"](),
        smoothing=0.9,
        beta=0.1,
        rollouts=Rollouts(NUM_SAMPLES, 1, 0.2),
        optimizer=PolicyOptimizer(adam, optax.constant_schedule(1.0), 1e-6),
    )
    return on_grid(learner, grid)


def _chips(topology: str) -> Any:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def _placed(tree: Any, where: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree
    )


def _read(step: str, topology: str, chips: int, size: str, compiled: Any) -> Compiled:
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    held += memory.output_size_in_bytes - memory.alias_size_in_bytes
    work = work_of(compiled.as_text(), devices=chips)
    return Compiled(step, topology, chips, size, held, work)
