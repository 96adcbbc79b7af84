"""A language model's policy on a grid of devices: the steps of one device, in parts."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paljax import config, runs
from paljax.data.encoders import causal_lm
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
from paljax.networks import causal_lm as causal_lm_network
from paljax.networks import huggingface, lora
from paljax.networks.causal_lm import Compute
from paljax.networks.sampling import Prompts
from paljax.policy.decoding import Decoder
from paljax.policy.grid import (
    FSDP,
    dealt,
    grid_of,
    on_grid,
    placed,
    places_on,
    require_divisible,
    shardings,
)
from paljax.policy.known_rewards import of_functions
from paljax.policy.language_model import Lora, language_model_policy
from paljax.policy.normalize_rewards import Calibration
from paljax.policy.tasks import policy_task
from paljax.policy.text_policy import TextPrompts, text_policy
from paljax.policy.text_problems import text_problem
from tests import tiny_language_model
from tests.eight_devices.test_parallel import assert_close, leaves
from tests.policy.test_language_model import CONFIG
from tests.policy.test_text_run import POLICY, REWARD, run, votes, write_lines

pytestmark = pytest.mark.usefixtures("quick_compilation")
B, N, T = 8, 3, 9


def learner_of(lora, grid):
    """The learner of a small Llama, whose two groups want other tokens."""
    policy = text_policy(
        language_model_policy(
            CONFIG,
            max_tokens=T,
            lora_options=lora,
            compute=Compute(remat=True, places=None if grid is None else places_on(grid)),
        ),
        low_rank=lora is not None,
    )

    def of_responses(prompts, tokens, mask):
        return jnp.stack([((tokens == token) & mask).sum(axis=2) for token in (11, 12)], axis=2) / T

    groups = Groups(("left", "right"), jnp.array([0.7, 0.3]))
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    # Epsilon so large that no gradient of rounding errors moves a parameter.
    adam = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(eps=1e-2),
        optax.scale_by_learning_rate(0.3),
    )
    learner = fit_policy(
        policy,
        Rewards(of_responses),
        groups,
        OBJECTIVES["maxmin"](groups),
        num_prompts=B,
        follow=GROUP_WEIGHTS["exponentiated_gradient"](),
        smoothing=0.9,
        beta=0.2,
        rollouts=Rollouts(N, 2, 0.2),
        optimizer=PolicyOptimizer(
            optax.masked(adam, policy.trainable(shapes)), lambda step: 1.0, 0.3
        ),
    )
    return learner if grid is None else on_grid(learner, grid)


def batch(grid):
    random = np.random.default_rng(0)
    tokens = random.integers(3, CONFIG.vocabulary, (B, 5)).astype(np.int32)
    mask = np.arange(5)[None] >= random.integers(0, 4, (B, 1))
    base = language_model_policy(CONFIG, max_tokens=T).init(jax.random.key(7))
    texts = TextPrompts(
        Prompts(jnp.asarray(tokens), jnp.asarray(mask)),
        None,
        Calibration(None, jnp.ones(2), None, None),
        placed(base, grid),
    )
    return PromptBatch(texts, jnp.arange(B), jnp.asarray(random.dirichlet(np.ones(B)), jnp.float32))


def steps(lora, grid):
    """The state and the metrics after two steps, as one scan."""
    learner, table = learner_of(lora, grid), batch(grid)
    state = jax.jit(learner.init)(jax.random.key(0))
    run = jax.jit(
        lambda state, table: jax.lax.scan(
            lambda state, _: learner.step(state, table), state, length=2
        ),
        donate_argnums=0,
    )
    return run(state, table)


@pytest.mark.parametrize(
    ("lora", "data", "fsdp"), [(None, 4, 2), (Lora(rank=2), 1, 8)], ids=["whole", "lora"]
)
def test_a_grid_takes_the_steps_of_one_device(lora, data, fsdp):
    expected = steps(lora, None)
    grid = grid_of(data, fsdp)
    found = steps(lora, grid)
    assert_close(found, expected)
    moved = leaves(found[0].params)
    assert max(np.abs(values).max() for values in moved.values()) > 0
    assert (np.asarray(found[1]["grad_norm"]) > 1e-3).all()
    wanted = shardings(found[0], grid)
    for leaf, place in zip(jax.tree.leaves(found[0]), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


def test_the_host_reads_the_texts_of_all_devices():
    random = np.random.default_rng(0)
    tokens = random.integers(0, 5, (B, N, T)).astype(np.int32)
    mask = np.arange(T) < random.integers(1, T + 1, (B, N, 1))
    score = of_functions(["concise"], Decoder(lambda ids: "x " * len(ids), (2,)))
    expected = -(mask & (tokens != 2)).sum(axis=2)

    def step(total, _):
        rewards = score(None, *dealt((jnp.asarray(tokens), jnp.asarray(mask)), grid_of(4, 2)))
        return total + rewards, rewards

    total, _ = jax.jit(lambda start: jax.lax.scan(step, start, length=3))(jnp.zeros((B, N, 1)))
    np.testing.assert_array_equal(total[:, :, 0], 3 * expected)


def test_every_large_parameter_and_its_moments_are_cut():
    grid = grid_of(2, 4)
    state = jax.eval_shape(learner_of(None, None).init, jax.random.key(0))
    places = shardings(state, grid)
    for part in (state.params, state.average, state.reference, state.optimizer):
        large = [leaf for leaf in jax.tree.leaves(part) if leaf.size > 2 * CONFIG.width]
        assert large
    for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True):
        held = np.prod(place.shard_shape(leaf.shape), initial=1)
        cut = FSDP in jax.tree.leaves(tuple(place.spec))
        assert held == leaf.size / (4 if cut else 1)
        assert cut or leaf.size <= 2 * CONFIG.width


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick_compilation):
    """A model, prompts, and a finished reward run."""
    folder = tmp_path_factory.mktemp("grid")
    tiny_language_model.write(folder / "tiny")
    write_lines(folder / "votes.jsonl", votes())
    words = ("the", "a", "cat", "dog", "big", "small", "saw", "ran", "happy", "sad")
    write_lines(folder / "prompts.jsonl", [{"prompt": f"the {word}"} for word in words])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PALJAX_DATA_DIR", str(folder / "data"))
        assert run(REWARD | {"parallel": {"num_devices": 1}}, "reward", folder) == 0
        yield folder
    causal_lm._opened.cache_clear()


def configuration(epochs, **grid):
    training = POLICY["training"] | {"epochs": epochs, "prompts_per_batch": 8}
    return POLICY | {
        "prompts": {"path": "prompts.jsonl", "held_out": 0.2},
        "training": training,
        "parallel": grid,
    }


def test_a_whole_run_on_a_grid_and_its_last_epoch_again_on_one_device(folder):
    """8 prompts a step; evaluated on 2, which 8 devices share by drawing some twice."""
    assert run(configuration(2, data=4, fsdp=2), "grid", folder) == 0
    shutil.copytree(folder / "grid", folder / "moved")
    for name in (runs.METRICS, runs.REPORT):
        (folder / "moved" / name).unlink()
    shutil.rmtree(folder / "moved" / runs.CHECKPOINTS / "maxmin" / "2")
    assert run(configuration(2), "moved", folder) == 0
    grid, moved = (
        json.loads((folder / name / runs.METRICS).read_text()) for name in ("grid", "moved")
    )
    for name in ("kl", "minimum"):
        assert moved["scores"][name] == pytest.approx(grid["scores"][name], abs=1e-3)
    assert grid["scores"]["kl"] > 1e-4
    logs = [
        [json.loads(line) for line in (folder / name / runs.METRICS_LOG).read_text().splitlines()]
        for name in ("grid", "moved")
    ]
    assert [record["epoch"] for record in logs[1]] == [1, 2]
    for left, right in zip(*logs, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-4)


def test_the_state_of_a_run_lies_in_parts(folder):
    (folder / "config.yaml").write_text(json.dumps(configuration(1, data=2, fsdp=4)))
    settings = config.load(folder / "config.yaml")
    problem = text_problem(settings)
    task = policy_task(settings, problem)
    state = jax.jit(task.learner.init)(jax.random.key(0))
    for params in (state.params, state.average, problem.prompts.language_model):
        kernel = params["layers"]["up"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == (3, 24 // 4, 40)


@pytest.mark.parametrize("options", [None, Lora(rank=2, targets=("query", "down"))])
def test_a_model_in_parts_is_saved_as_the_one_in_one_place(options, tmp_path, monkeypatch):
    """No parameter of all layers is put together anywhere."""
    params = causal_lm_network.init(jax.random.key(0), CONFIG)
    if options is not None:
        params = lora.add_lora(params, jax.random.key(1), **options._asdict())
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    huggingface.save(tmp_path / "one", params, CONFIG)
    in_parts = placed(params, grid_of(2, 4))
    copied, asarray = [], np.asarray

    def noticed(array, *rest, **more):
        if isinstance(array, jax.Array):
            copied.append(array.ndim)
        return asarray(array, *rest, **more)

    monkeypatch.setattr(np, "asarray", noticed)
    huggingface.save(tmp_path / "parts", in_parts, CONFIG)
    monkeypatch.undo()
    assert max(copied) == 2
    left, right = (tmp_path / name / huggingface.WEIGHTS for name in ("one", "parts"))
    assert left.read_bytes() == right.read_bytes()


@pytest.mark.parametrize(
    ("grid", "sizes", "line"),
    [
        ((4, 4), {}, r"parallel: data 4 x fsdp 4 is 16 devices, JAX has 8 \(cpu\)"),
        ((1, 5), {"width": 24}, "fsdp: 5 devices can't share a model of width 24 .*'4'"),
        ((4, 2), {"batch": 12}, "prompts_per_batch: 12 prompts .*8 devices.*give 16 or 8"),
        ((4, 2), {"batch": 3}, "prompts_per_batch: 3 prompts .* 8 devices equally; give 8$"),
    ],
)
def test_grids_that_do_not_fit_are_told_in_one_line(grid, sizes, line):
    with pytest.raises(UserError, match=line):
        require_divisible(grid_of(*grid), **({"width": 40, "batch": 40} | sizes))


def test_policies_of_tables_refuse_a_grid():
    record = {
        "stage": "policy",
        "rewards": {"name": "table", "rewards": [[[0.0], [1.0]]]},
        "objective": {"name": "utilitarian"},
        "parallel": {"fsdp": 2},
    }
    with pytest.raises(UserError, match="parallel: a policy 'categorical' runs on one device"):
        config.parse(record, where="test")
