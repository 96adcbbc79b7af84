"""The part `format`: what can be seen of a text without reading it, as its length.

Where quality shows in how much somebody wrote and how, this says in eleven numbers what an
embedding of meaning hardly holds. A reward that listens to it can be flattered by padding: the
audit's format probe says how far it alone would go. N texts, F features.
"""

import string
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Table
from paljax.data.encoders.part import Kind, PartConfig
from paljax.data.messages import as_read
from paljax.errors import UserError
from paljax.models import Inputs
from paljax.ranges import PositiveFloat

FORMAT_FEATURES = (
    "characters",
    "words",
    "lines",
    "punctuation",
    "capitals",
    "digits",
    "beyond_ascii",
    "markup",
    "starts_with_capital",
    "ends_sentence",
    "asks",
)


class Format(PartConfig):
    """Lengths, punctuation, capitals and marks of a text, standardised by training texts."""

    name: Literal["format"] = "format"
    # Standard deviation of every feature: the larger, the less weight decay shrinks what it says.
    scale: PositiveFloat = 1.0


class StandardisedFormat(NamedTuple):
    """What `format` learned."""

    mean: NDArray[np.float32]  # [F]
    scale: NDArray[np.float32]  # [F] what a feature is divided by

    def encode(self, table: Table) -> Inputs:
        """Standardised features [N, F]."""
        return (format_features(_texts(table, "")) - self.mean) / self.scale

    def blank(self) -> Inputs:
        """The mean text."""
        return np.zeros((1, len(self.mean)), np.float32)

    def learned_vectors(self) -> None:
        """There are none."""

    def remarks(self, table: Table) -> dict[str, int]:
        """Every text has a format."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """What `_from_json` reads back."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}


def format_features(texts: Sequence[str]) -> NDArray[np.float32]:
    """What can be seen of texts without reading them, [N, F] in the order of FORMAT_FEATURES.

    Counts are logarithms of one more; shares are of the characters. Chat messages have the format
    of what is read of them.
    """
    return np.array([_format_of(as_read(text)) for text in texts], np.float32)


def _format_of(text: str) -> list[float]:
    characters = max(len(text), 1)
    stripped = text.strip()

    def share(wanted: str) -> float:
        return sum(character in wanted for character in text) / characters

    return [
        np.log1p(len(text)),
        np.log1p(len(text.split())),
        np.log1p(text.count("\n")),
        share(string.punctuation),
        sum(map(str.isupper, text)) / characters,
        share(string.digits),
        sum(ord(character) > 127 for character in text) / characters,
        np.log1p(sum(text.count(mark) for mark in ("**", "```", "\n- ", "\n#", "<", "http"))),
        float(stripped[:1].isupper()),
        float(stripped.endswith((".", "!", "?"))),
        np.log1p(text.count("?")),
    ]


def _texts(table: Table, key: str) -> Sequence[str]:
    if isinstance(table, tuple):
        return table
    raise UserError(
        f"{key}'format' needs items that are text, these are lists of {table.shape[1]} numbers; "
        "use 'numbers'"
    )


def _fit(
    config: Format, table: Table, training_rows: NDArray[np.int32], key: str
) -> StandardisedFormat:
    texts = _texts(table, f"{key}: ")
    appearing, counts = np.unique(training_rows, return_counts=True)
    features = format_features([texts[row] for row in appearing]).astype(np.float64)
    share = counts / counts.sum()
    mean = share @ features
    spread = np.sqrt(share @ np.square(features - mean))
    spread = np.where(spread > 1e-6, spread, 1.0)  # what is the same in all texts stays
    return StandardisedFormat(mean.astype(np.float32), (spread / config.scale).astype(np.float32))


def _from_json(record: dict[str, Any]) -> StandardisedFormat:
    return StandardisedFormat(
        np.asarray(record["mean"], np.float32), np.asarray(record["scale"], np.float32)
    )


FORMAT = Kind(Format, _fit, _from_json)
