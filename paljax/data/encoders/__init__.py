"""From items as they are written to the vectors that a model reads.

An encoder concatenates parts: `numbers`, `item_id`, `format`, `minilm`, `transformers`,
`causal_lm`. What a part learns, it learns from the training comparisons alone. A new part is a file
that says what is configured, how it is fitted and how it is read back (`part.Kind`), a line in
`encoder.PARTS`, and a test.
"""

from paljax.data.encoders.causal_lm import CausalLM
from paljax.data.encoders.encoder import (
    PARTS,
    Encoder,
    EncoderConfig,
    encoder_from_json,
    fit_encoder,
)
from paljax.data.encoders.format import Format
from paljax.data.encoders.item_id import ItemId
from paljax.data.encoders.minilm import MiniLM
from paljax.data.encoders.numbers import Numbers
from paljax.data.encoders.part import content
from paljax.data.encoders.transformers import Transformers

__all__ = [
    "PARTS",
    "CausalLM",
    "Encoder",
    "EncoderConfig",
    "Format",
    "ItemId",
    "MiniLM",
    "Numbers",
    "Transformers",
    "content",
    "encoder_from_json",
    "fit_encoder",
]
