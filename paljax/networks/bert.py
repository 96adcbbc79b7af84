"""BERT: a bidirectional transformer that turns token ids into one hidden state a token.

Reads any checkpoint of the BERT layout: `bert-*` itself and the sentence encoders trained from it,
all-MiniLM-L6-v2 among them. Layers are normalised after the residual, as the paper has it. B texts,
T tokens, D hidden width, H heads.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from paljax.errors import UserError, nearest
from paljax.pretrained import require_shapes

Params = Any  # a pytree of arrays

# As `config.json` names them; "gelu" is the exact form.
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


# The score of padding: finite, so that a text of padding alone has no NaN, and its weight still 0.
_MASKED = -1e30


class BertConfig(NamedTuple):
    """The keys of `config.json` that decide what is computed; the names are that file's."""

    vocab_size: int
    hidden_size: int  # D
    num_hidden_layers: int
    num_attention_heads: int  # H
    intermediate_size: int
    hidden_act: str
    max_position_embeddings: int  # the longest text, in tokens
    type_vocab_size: int
    layer_norm_eps: float


class Bert(nn.Module):
    """The encoder up to the last hidden states; the pooler, made for another task, is left out.

    Attributes:
        config: Sizes of the checkpoint.
        dtype: Of the matrix products; normalisation, softmax and the residual stay in float32.

    Source:
        Devlin et al., arXiv 1810.04805, section 3.
    """

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, token_ids: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        config = self.config
        embed = partial(nn.Embed, features=config.hidden_size)
        words = embed(config.vocab_size, name="words")(token_ids)
        positions = embed(config.max_position_embeddings, name="positions")
        token_types = embed(config.type_vocab_size, name="token_types")
        # One text has one segment: every token is of type 0.
        of_place = positions(jnp.arange(token_ids.shape[1])) + token_types(jnp.zeros(1, jnp.int32))
        normalise = partial(nn.LayerNorm, epsilon=config.layer_norm_eps)
        hidden: Array = normalise(name="normalise")(words + of_place[None])
        for layer in range(config.num_hidden_layers):
            hidden = _Layer(config, self.dtype, name=f"layer_{layer}")(hidden, mask)
        return hidden


class _Layer(nn.Module):
    """Attention, then two dense layers; each is added to its input and normalised."""

    config: BertConfig
    dtype: Any

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        config = self.config
        dense = partial(nn.Dense, dtype=self.dtype)
        normalise = partial(nn.LayerNorm, epsilon=config.layer_norm_eps)
        # The three projections as one product: a matrix three times as wide is faster than three.
        projected = dense(3 * config.hidden_size, name="query_key_value")(hidden)
        attended = _attend(projected, mask, num_heads=config.num_attention_heads)
        hidden = normalise(name="normalise_attention")(
            hidden + dense(config.hidden_size, name="attention_output")(attended)
        )
        inner = _ACTIVATIONS[config.hidden_act](
            dense(config.intermediate_size, name="inner")(hidden)
        )
        outputs: Array = normalise(name="normalise_output")(
            hidden + dense(config.hidden_size, name="output")(inner)
        )
        return outputs


def _attend(
    projected: Float[Array, "B T 3D"], mask: Bool[Array, "B T"], *, num_heads: int
) -> Float[Array, "B T D"]:
    """Softmax attention of every token over the tokens of its own text."""
    batch, length, width = projected.shape
    split = projected.reshape(batch, length, 3, num_heads, width // (3 * num_heads))
    query, key, value = (split[:, :, part] for part in range(3))
    # The softmax wants at least float32 also where the products are in bfloat16.
    precise = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=precise)
    scores = scores / np.sqrt(query.shape[-1])
    scores = jnp.where(mask[:, None, None, :], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, length, width // 3)


def read_config(record: Mapping[str, Any], *, where: object) -> BertConfig:
    """The sizes in `config.json`.

    Args:
        record: The file's content.
        where: The file, to name in errors.

    Returns:
        The configuration.

    Raises:
        UserError: If it is no BERT or a key is missing or wrong.
    """
    family = record.get("model_type")
    if family != "bert":
        raise UserError(
            f"{where}: model_type {family!r} is no BERT layout; "
            "encoder 'transformers' reads any Hugging Face encoder"
        )
    defaults = {"hidden_act": "gelu", "type_vocab_size": 2, "layer_norm_eps": 1e-12}
    held = {name: record.get(name, defaults.get(name)) for name in BertConfig._fields}
    for name, value in held.items():
        numeric = type(value) in (int, float) if name == "layer_norm_eps" else type(value) is int
        if name != "hidden_act" and not (numeric and value > 0):
            raise UserError(f"{where}: {name} is {value!r}, wanted a positive number")
    config = BertConfig(**held)
    if config.hidden_act not in _ACTIVATIONS:
        choices = nearest(config.hidden_act, _ACTIVATIONS)
        raise UserError(f"{where}: hidden_act {config.hidden_act!r} is not known; {choices}")
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"{where}: hidden_size {config.hidden_size} does not divide among "
            f"{config.num_attention_heads} attention heads"
        )
    if record.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(
            f"{where}: position_embedding_type {record['position_embedding_type']!r} "
            "is not known; choose one of 'absolute'"
        )
    return config


def read_params(config: BertConfig, tensors: Mapping[str, NDArray[Any]], *, where: Path) -> Params:
    """Parameters of `Bert` from a checkpoint's tensors.

    Args:
        config: Sizes of the checkpoint.
        tensors: By the names that Hugging Face gives them, with or without the prefix "bert.".
            The pooler and the heads of training tasks are not read.
        where: The model's folder, to name in errors.

    Returns:
        What `Bert.apply` takes, in float32.

    Raises:
        UserError: If tensors are missing, unknown or of another shape.
    """
    encoder = {
        _canonical(name): tensor for name, tensor in tensors.items() if not _LEFT_OUT.match(name)
    }
    require_shapes(encoder, _shapes(config), where=where)

    def tensor(name: str) -> NDArray[np.float32]:
        return np.asarray(encoder[name], np.float32)

    def dense(*names: str) -> Params:
        # Torch keeps a matrix as [out, in]; several are laid side by side along their outputs.
        kernel = np.concatenate([tensor(f"{name}.weight") for name in names]).T
        return {
            "kernel": kernel,
            "bias": np.concatenate([tensor(f"{name}.bias") for name in names]),
        }

    def normalise(name: str) -> Params:
        return {"scale": tensor(f"{name}.weight"), "bias": tensor(f"{name}.bias")}

    params = {
        "words": {"embedding": tensor("embeddings.word_embeddings.weight")},
        "positions": {"embedding": tensor("embeddings.position_embeddings.weight")},
        "token_types": {"embedding": tensor("embeddings.token_type_embeddings.weight")},
        "normalise": normalise("embeddings.LayerNorm"),
    }
    for layer in range(config.num_hidden_layers):
        prefix = f"encoder.layer.{layer}"
        parts = (f"{prefix}.attention.self.{part}" for part in ("query", "key", "value"))
        params[f"layer_{layer}"] = {
            "query_key_value": dense(*parts),
            "attention_output": dense(f"{prefix}.attention.output.dense"),
            "normalise_attention": normalise(f"{prefix}.attention.output.LayerNorm"),
            "inner": dense(f"{prefix}.intermediate.dense"),
            "output": dense(f"{prefix}.output.dense"),
            "normalise_output": normalise(f"{prefix}.output.LayerNorm"),
        }
    return {"params": params}


# Heads of training tasks, and numbers that follow from the configuration.
_LEFT_OUT = re.compile(r"(bert\.)?(pooler\.|cls\.|classifier\.|embeddings\.position_ids$)")


def _canonical(name: str) -> str:
    """Today's name of a tensor; checkpoints converted from TensorFlow have gamma and beta."""
    name = name.removeprefix("bert.")
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that a checkpoint must hold."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, width),
    }
    matrices = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
    }
    vectors = {"embeddings.LayerNorm": width}
    for layer in range(config.num_hidden_layers):
        for name, shape in matrices.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            vectors[f"encoder.layer.{layer}.{name}"] = shape[0]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            vectors[f"encoder.layer.{layer}.{name}"] = width
    for name, size in vectors.items():
        shapes.setdefault(f"{name}.weight", (size,))
        shapes[f"{name}.bias"] = (size,)
    return shapes
