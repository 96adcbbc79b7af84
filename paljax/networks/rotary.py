"""Rotary positions: queries and keys are turned by angles that grow with the token's position.

B sequences, T tokens, n heads, h head width; a head's first and second halves hold the pairs, as in
Hugging Face's weights.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from paljax.networks.decoder_config import Llama3Scaling, Rotary

Turns = tuple[Float[Array, "B T h/2"], Float[Array, "B T h/2"]]  # cosines and sines


def frequencies(rotary: Rotary, head_width: int) -> NDArray[np.float32]:
    """Radians a token for each of the h / 2 pairs.

    Args:
        rotary: Base of the wavelengths and how they are stretched.
        head_width: h, even.

    Returns:
        [h / 2], falling.

    Source:
        arXiv 2104.09864, section 3.2.2; `llama3` scaling as Llama 3.1 defines it.
    """
    pairs = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    turns: NDArray[np.float32] = (
        1.0 / np.float32(rotary.theta) ** pairs / np.float32(rotary.linear_factor)
    )
    return turns if rotary.llama3 is None else _stretched(turns, rotary.llama3)


def rotations(positions: Int[Array, "B T"], rotary: Rotary, head_width: int) -> Turns:
    """Cosine and sine of every token's angles, float32."""
    angles = positions[..., None].astype(jnp.float32) * frequencies(rotary, head_width)[None, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(heads: Float[Array, "B n T h"], turns: Turns) -> Float[Array, "B n T h"]:
    """Turn every pair (x, y) of a head to (x cos - y sin, y cos + x sin), in float32."""
    cosine, sine = (part[:, None] for part in turns)
    x, y = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([x * cosine - y * sine, y * cosine + x * sine], axis=-1)
    return turned.astype(heads.dtype)


def _stretched(turns: NDArray[np.float32], scaling: Llama3Scaling) -> NDArray[np.float32]:
    """Slow rotations are divided by the factor, fast ones kept, those between are blended."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    rounds = scaling.original_context * turns / (2 * np.pi)  # in the original context
    kept = np.clip((rounds - low) / (high - low), 0.0, 1.0)
    stretched = (1 - kept) * turns / scaling.factor + kept * turns
    return np.asarray(stretched, np.float32)
