"""What a causal language model is made of, as one typed record for every architecture.

GPT-2, Llama, Qwen2 and Qwen3 are the same pre-norm decoder. They differ in how positions enter
(learned vectors, or rotations of queries and keys), in the norm, in the feed-forward layer (gated
or not) and in which linear layers carry a bias: that is all that this record says.
"""

import dataclasses
from typing import Literal, NamedTuple

Architecture = Literal["gpt2", "llama", "qwen2", "qwen3"]
ARCHITECTURES: tuple[Architecture, ...] = ("gpt2", "llama", "qwen2", "qwen3")


class Llama3Scaling(NamedTuple):
    """How Llama 3.1 stretches its rotations to contexts longer than it was first trained on.

    Source:
        Llama 3.1's release, as `rope_type: llama3` in Hugging Face configurations.
    """

    factor: float  # slow rotations are this much slower
    low_freq_factor: float  # rotations slower than original_context / this are fully stretched
    high_freq_factor: float  # rotations faster than original_context / this are left alone
    original_context: int  # tokens


class Rotary(NamedTuple):
    """Rotary positions: pairs of numbers are turned by an angle that grows with the position.

    Source:
        Su et al., RoFormer, arXiv 2104.09864, section 3.2.
    """

    theta: float  # base of the geometric sequence of wavelengths
    linear_factor: float = 1.0  # positions are divided by this
    llama3: Llama3Scaling | None = None


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and options of a decoder. Hashable, so that a jitted function can depend on it."""

    architecture: Architecture
    vocabulary: int  # V, rows of the embedding table
    context: int  # longest sequence, tokens
    width: int  # D
    layers: int  # L
    heads: int  # H, of queries
    kv_heads: int  # heads of keys and values; H / kv_heads queries share one
    head_width: int
    mlp_width: int
    norm_epsilon: float
    rotary: Rotary | None  # None: learned position vectors
    layer_norm: bool = False  # False: root-mean-square norm, without mean and bias
    gated: bool = True  # SiLU-gated feed-forward; False: GELU in its tanh form
    qkv_bias: bool = False
    output_bias: bool = False  # of attention's output
    mlp_bias: bool = False
    qk_norm: bool = False  # a norm on every head's query and key, before the rotation
    tied: bool = False  # the output layer is the embedding table
    bos_token: int | None = None  # a name for it; whether texts open with it, tokenizers say
    end_tokens: tuple[int, ...] = ()  # any of these ends a text
