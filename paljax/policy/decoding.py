"""Drawn tokens as texts, on the host.

B prompts, n responses of each, T tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Decoder(NamedTuple):
    """Makes texts of the tokens of a language model."""

    decode: Callable[[Sequence[int]], str]  # of its tokenizer
    end_tokens: tuple[int, ...]  # that end a response and are no part of its text

    def texts(self, tokens: Any, mask: Any) -> list[str]:
        """The texts of B times n responses, in order.

        Args:
            tokens: Integers [B, n, T].
            mask: True up to and including the end token, [B, n, T].
        """
        tokens, mask = np.asarray(tokens), np.asarray(mask)
        kept = mask & ~np.isin(tokens, self.end_tokens)
        flat = zip(
            tokens.reshape(-1, tokens.shape[-1]), kept.reshape(-1, kept.shape[-1]), strict=True
        )
        return [self.decode(row[of_text].tolist()) for row, of_text in flat]
