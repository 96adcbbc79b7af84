"""Models in llama2.c's first format: a header of seven integers, then float32 arrays in turn.

The format stores linear layers as [out, in] a layer, and queries and keys with the two numbers of a
rotary pair beside each other; here they stand half a head apart, as in Hugging Face's files.
"""

import math
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from paljax.errors import UserError
from paljax.networks.decoder_config import DecoderConfig, Rotary

_HEADER = struct.Struct("<7i")
# The stories models separate texts by the opening token and never write another end.
_BOS = 1
# Larger sizes mean that this is no such file.
_LARGEST = 1 << 24


def load_llama2c(path: Path, *, dtype: Any = np.float32) -> tuple[DecoderConfig, Any]:
    """Read a model of llama2.c, such as `stories260K.bin`.

    Args:
        path: The file.
        dtype: Of the parameters.

    Returns:
        The configuration, and parameters as arrays on the host.

    Raises:
        UserError: If the file is missing, of another format, or cut short.

    Source:
        llama2.c, `export.py`, `legacy_export`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    config = _read_header(content, path)
    shapes = _shapes(config)
    wanted = _HEADER.size + 4 * sum(math.prod(shape) for _, shape in shapes)
    if len(content) != wanted:
        raise UserError(
            f"{path}: damaged: {len(content)} bytes, its header announces a model of {wanted}"
        )
    arrays: dict[str, NDArray[np.float32]] = {}
    at = _HEADER.size
    for name, shape in shapes:
        arrays[name] = np.frombuffer(content, "<f4", math.prod(shape), at).reshape(shape)
        at += 4 * math.prod(shape)
    params = _to_params(arrays, config)
    return config, jax.tree.map(lambda array: np.array(array, dtype, order="C"), params)


def _read_header(content: bytes, path: Path) -> DecoderConfig:
    if len(content) < _HEADER.size:
        raise UserError(f"{path}: damaged: {len(content)} bytes are too few for a header")
    width, mlp_width, layers, heads, kv_heads, vocabulary, context = _HEADER.unpack_from(content)
    sizes = (width, mlp_width, layers, heads, kv_heads, abs(vocabulary), context)
    sane = all(0 < size < _LARGEST for size in sizes)
    if not sane or width % (2 * heads) or heads % kv_heads:
        raise UserError(f"{path}: damaged, or no model of llama2.c: its header says {sizes}")
    return DecoderConfig(
        architecture="llama",
        vocabulary=abs(vocabulary),
        context=context,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width // heads,
        mlp_width=mlp_width,
        norm_epsilon=1e-5,
        rotary=Rotary(10_000.0),
        tied=vocabulary > 0,  # the sign says whether an output layer follows
        bos_token=_BOS,
        end_tokens=(_BOS,),
    )


def _shapes(config: DecoderConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Every array of the file, in its order."""
    L, D, M, V = config.layers, config.width, config.mlp_width, config.vocabulary
    kv = config.kv_heads * config.head_width
    angles = config.context * config.head_width // 2
    head: list[tuple[str, tuple[int, ...]]] = [] if config.tied else [("head", (V, D))]
    return [
        ("embedding", (V, D)),
        ("attention_norm", (L, D)),
        ("query", (L, D, D)),
        ("key", (L, kv, D)),
        ("value", (L, kv, D)),
        ("output", (L, D, D)),
        ("mlp_norm", (L, D)),
        ("gate", (L, M, D)),
        ("down", (L, D, M)),
        ("up", (L, M, D)),
        ("final_norm", (D,)),
        ("cosines", (angles,)),  # of the rotations; they follow from the sizes
        ("sines", (angles,)),
        *head,
    ]


def _to_params(arrays: dict[str, NDArray[np.float32]], config: DecoderConfig) -> Any:
    arrays["query"] = halves_apart(arrays["query"], config.heads)
    arrays["key"] = halves_apart(arrays["key"], config.kv_heads)
    linear = ("query", "key", "value", "output", "gate", "up", "down")
    layers = {name: {"kernel": np.swapaxes(arrays[name], 1, 2)} for name in linear}
    for name in ("attention_norm", "mlp_norm"):
        layers[name] = {"scale": arrays[name]}
    params = {
        "embedding": arrays["embedding"],
        "layers": layers,
        "final_norm": {"scale": arrays["final_norm"]},
    }
    return params if config.tied else params | {"head": arrays["head"].T}


def halves_apart(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Reorder every head's rows from pairs beside each other to pairs half a head apart.

    Args:
        rows: [..., heads * h, D] of a query or key layer.
        heads: How many heads the rows hold.
    """
    shape = rows.shape
    pairs = rows.reshape(*shape[:-2], heads, shape[-2] // heads // 2, 2, shape[-1])
    return np.swapaxes(pairs, -3, -2).reshape(shape)
