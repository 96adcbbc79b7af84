"""The decoder against Hugging Face's torch code, and its own promises."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax.networks import huggingface
from paljax.networks.causal_lm import Cache, Compute, forward, hidden_states, init, pool
from paljax.networks.decoder_config import DecoderConfig, Rotary
from paljax.networks.logical_axes import logical_axes
from paljax.networks.lora import add_lora
from tests.networks import golden, tiny_checkpoints
from tests.networks.tiny_checkpoints import CHECKPOINTS, MASK, NEW_TOKENS, TOKENS

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request, tmp_path_factory):
    folder = tiny_checkpoints.write(request.param, tmp_path_factory.mktemp("checkpoint"))
    return request.param, folder, *huggingface.load(folder)


@pytest.fixture(scope="module", params=["gpt2", "llama_3_1", "qwen3"])
def one_of_each_kind(request, tmp_path_factory):
    return huggingface.load(tiny_checkpoints.write(request.param, tmp_path_factory.mktemp("kind")))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return huggingface.load(tiny_checkpoints.write("qwen3", tmp_path_factory.mktemp("qwen3")))


def logits_of(params, config, tokens=TOKENS, mask=MASK, **options):
    run = jax.jit(partial(forward, config=config, **options))
    return np.asarray(run(params, jnp.asarray(tokens), jnp.asarray(mask))[0])


def greedy(params, config, tokens, mask, count):
    """By whole forward passes, without a cache, into room that is already there."""
    start = tokens.shape[1]
    tokens = np.pad(tokens, [(0, 0), (0, count)])
    mask = np.pad(mask, [(0, 0), (0, count)])
    run = jax.jit(partial(forward, config=config))
    for place in range(start, start + count):
        logits, _ = run(params, tokens, mask)
        tokens[:, place] = np.asarray(logits[:, place - 1]).argmax(axis=-1)
        mask[:, place] = True
    return tokens[:, start:]


def close(given, wanted, *, relative=0.0):
    np.testing.assert_allclose(given, wanted, atol=1e-5, rtol=relative)


def test_logits_states_and_greedy_tokens_are_those_of_hugging_face(checkpoint, golden_answers):
    name, _, config, params = checkpoint
    wanted = golden_answers[name]
    close(logits_of(params, config)[:, -3:], wanted["logits"])
    states = jax.jit(partial(hidden_states, config=config))(params, TOKENS, MASK)
    close(states[:, -3:], wanted["penultimate"], relative=1e-5)
    assert greedy(params, config, TOKENS, MASK, NEW_TOKENS).tolist() == wanted["greedy"]


def test_golden_answers_are_what_hugging_face_says_today(checkpoint, golden_answers):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    name, folder, config, params = checkpoint
    live = golden.answers(folder)
    wanted = golden_answers[name]
    close(live["logits"][:, -3:], wanted["logits"])
    assert live["greedy"].tolist() == wanted["greedy"]
    close(np.where(MASK[..., None], logits_of(params, config) - live["logits"], 0), 0)


def test_saved_model_is_read_back_equal(checkpoint, tmp_path):
    _, folder, config, params = checkpoint
    huggingface.save(tmp_path / "saved", params, config)
    again, read = huggingface.load(tmp_path / "saved")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, read, params)
    original = huggingface.open_safetensors(folder)
    saved = huggingface.open_safetensors(tmp_path / "saved")
    assert saved.shapes == original.shapes
    for tensor in original.shapes:
        np.testing.assert_array_equal(saved.read(tensor), original.read(tensor))


def test_hugging_face_loads_a_saved_model(checkpoint, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    _, folder, config, params = checkpoint
    huggingface.save(tmp_path, params, config)
    close(golden.answers(tmp_path)["logits"], golden.answers(folder)["logits"])


def test_shards_and_bfloat16_are_read(qwen3, tmp_path):
    import ml_dtypes
    from safetensors.numpy import save_file

    config, params = qwen3
    huggingface.save(tmp_path, params, config)
    whole = huggingface.open_safetensors(tmp_path)
    tensors = {name: whole.read(name).astype(ml_dtypes.bfloat16) for name in whole.shapes}
    weight_map = {name: f"part-{place % 3}.safetensors" for place, name in enumerate(tensors)}
    for part in set(weight_map.values()):
        save_file({n: t for n, t in tensors.items() if weight_map[n] == part}, tmp_path / part)
    (tmp_path / huggingface.WEIGHTS).unlink()
    huggingface.write_json(tmp_path / huggingface.INDEX, {"weight_map": weight_map})
    _, read = huggingface.load(tmp_path)
    jax.tree.map(
        lambda given, wanted: np.testing.assert_array_equal(
            given, wanted.astype(ml_dtypes.bfloat16).astype(np.float32)
        ),
        read,
        params,
    )


def test_padding_changes_nothing(one_of_each_kind):
    config, params = one_of_each_kind
    tokens = TOKENS[1:, :7]
    wanted = logits_of(params, config, tokens, np.ones_like(tokens, bool))
    padded = np.pad(tokens, [(0, 0), (4, 2)], constant_values=9)
    mask = np.pad(np.ones_like(tokens, bool), [(0, 0), (4, 2)])
    close(logits_of(params, config, padded, mask)[:, 4:-2], wanted)


def test_cached_and_uncached_logits_agree(one_of_each_kind):
    config, params = one_of_each_kind

    @jax.jit
    def in_pieces(params, tokens, mask):
        logits, cache = forward(params, tokens[:, :5], mask[:, :5], config)
        pieces = [logits]
        for piece in (slice(5, 6), slice(6, 11)):
            logits, new = forward(params, tokens[:, piece], mask[:, piece], config, cache=cache)
            pieces.append(logits)
            keys, values = (
                jnp.concatenate(both, axis=3) for both in zip(cache[:2], new[:2], strict=True)
            )
            cache = Cache(keys, values, jnp.concatenate([cache.mask, new.mask], axis=1))
        return jnp.concatenate(pieces, axis=1)

    difference = in_pieces(params, TOKENS, MASK) - logits_of(params, config)
    close(np.where(MASK[..., None], difference, 0), 0)


def test_later_tokens_change_no_earlier_logits(qwen3):
    config, params = qwen3
    changed = TOKENS.copy()
    changed[:, 8:] = 30
    before, after = logits_of(params, config), logits_of(params, config, changed)
    close(np.where(MASK[..., None], before - after, 0)[:, :8], 0)
    assert np.abs(before[:, 8:] - after[:, 8:]).max() > 0.1


@pytest.mark.parametrize("compute", [Compute(remat=True), Compute(unroll=3)], ids=str)
def test_ways_to_run_are_one_function_and_one_gradient(qwen3, compute):
    config, params = qwen3

    def loss(params, compute):
        logits, _ = forward(params, TOKENS, MASK, config, compute=compute)
        return jnp.where(MASK[..., None], jax.nn.log_softmax(logits) ** 2, 0).mean()

    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    wanted, wanted_gradient = both(params, Compute())
    got, gradient = both(params, compute)
    close(got, wanted)
    jax.tree.map(close, gradient, wanted_gradient)


def test_bfloat16_is_near_and_gives_float32_logits(qwen3):
    config, params = qwen3
    exact = logits_of(params, config)
    near = logits_of(params, config, compute=Compute(dtype=jnp.bfloat16))
    assert near.dtype == np.float32
    difference = np.where(MASK[..., None], near - exact, 0)
    # Attention is sharp here, and rounded scores move it: on average by 4 % of the logits' spread.
    assert 1e-4 < np.abs(difference).max() < 1.0
    assert np.abs(difference).mean() < 0.06


def test_padding_alone_is_finite_with_its_gradient(qwen3):
    config, params = qwen3
    nothing = np.zeros_like(MASK)

    def loss(params):
        return forward(params, TOKENS, nothing, config)[0].sum()

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


def test_states_of_a_layer_are_those_of_a_shorter_network(qwen3):
    config, params = qwen3
    first = jax.tree.map(lambda stacked: stacked[:1], params["layers"])
    shorter = dataclasses.replace(config, layers=1)
    wanted = hidden_states({**params, "layers": first}, TOKENS, MASK, shorter, layer=-1)
    close(hidden_states(params, TOKENS, MASK, config, layer=1), wanted)
    with pytest.raises(ValueError, match="layer -5 of a network with 3"):
        hidden_states(params, TOKENS, MASK, config, layer=-5)


def test_pooling_reads_unmasked_tokens_only():
    states = jnp.arange(24.0).reshape(3, 4, 2)
    mask = jnp.array([[False, True, True, False], [True] * 4, [False] * 4])
    close(pool(states, mask, how="mean"), [[3, 4], [11, 12], [0, 0]])
    close(pool(states, mask, how="last"), [[4, 5], [14, 15], [0, 0]])


GPT2_SMALL = DecoderConfig(
    architecture="gpt2",
    vocabulary=50257,
    context=1024,
    width=768,
    layers=12,
    heads=12,
    kv_heads=12,
    head_width=64,
    mlp_width=3072,
    norm_epsilon=1e-5,
    rotary=None,
    layer_norm=True,
    gated=False,
    qkv_bias=True,
    output_bias=True,
    mlp_bias=True,
    tied=True,
)
LLAMA_7B = DecoderConfig(
    architecture="llama",
    vocabulary=32000,
    context=4096,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=32,
    head_width=128,
    mlp_width=11008,
    norm_epsilon=1e-5,
    rotary=Rotary(10_000.0),
)


@pytest.mark.parametrize(
    ("config", "count"), [(GPT2_SMALL, 124_439_808), (LLAMA_7B, 6_738_415_616)], ids=["gpt2", "7b"]
)
def test_shapes_alone_know_the_number_of_parameters_and_run(config, count):
    params = jax.eval_shape(partial(init, config=config), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    mask = jax.ShapeDtypeStruct((2, 8), jnp.bool_)
    logits, cache = jax.eval_shape(partial(forward, config=config), params, tokens, mask)
    assert logits.shape == (2, 8, config.vocabulary)
    assert cache.keys.shape == (config.layers, 2, config.kv_heads, 8, config.head_width)


def test_every_axis_of_every_parameter_has_a_name(checkpoint):
    _, _, config, params = checkpoint
    params = add_lora(params, jax.random.key(0), rank=2, targets=["query", "up", "down"])
    axes = logical_axes(params)
    sizes = {
        "layers": {config.layers},
        "vocabulary": {config.vocabulary},
        "context": {config.context},
        "embed": {config.width},
        "heads": {config.heads * config.head_width},
        "kv_heads": {config.kv_heads * config.head_width},
        "mlp": {config.mlp_width},
        "rank": {2},
    }

    def check(leaf, names):
        assert len(names) == leaf.ndim
        for size, name in zip(leaf.shape, names, strict=True):
            assert name is None or size in sizes[name]

    jax.tree.map(check, params, axes)


def test_config_of_another_path_is_hashable_and_equal(checkpoint):
    _, folder, config, _ = checkpoint
    again = huggingface.read_config(Path(folder) / "config.json")
    assert {config: 1}[again] == 1
