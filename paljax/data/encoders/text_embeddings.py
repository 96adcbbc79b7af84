"""The parts that read text: each text becomes the embedding that a pretrained model makes of it.

Chat messages are embedded as what is read of them, so that a message alone is its content. A text
is embedded once on a machine (`embedding_cache`). The pretrained model stays as it is; what the
part learns from the training comparisons is where embeddings lie: they are centred, and scaled by
one number so that a coordinate has mean square one. The networks' initialisation expects inputs of
that size, and the embeddings of one debate differ by much less than they share. One number for all
coordinates keeps the angles between differences as the pretrained model has them. N texts, D
numbers.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray
from tqdm import tqdm

from paljax.data.builders import DATA_DIR_VARIABLE
from paljax.data.dataset import Table
from paljax.data.encoders.embedding_cache import EmbeddingCache, key_of
from paljax.data.encoders.part import Kind, Part, PartConfig
from paljax.data.encoders.tokens import Tokenized
from paljax.data.messages import as_read
from paljax.errors import UserError
from paljax.models import Inputs

_DEFAULT_CACHE = Path("~/.cache/paljax")
# An interrupted run loses at most so many embeddings, or so many seconds of work.
_MOST_UNSAVED = 4096
_MOST_SECONDS = 10.0


class Block(NamedTuple):
    """Embeddings of some of the texts that a model was given."""

    places: NDArray[np.int64]  # [B] of the texts among all
    vectors: NDArray[np.float32]  # [B, D]
    cut: NDArray[np.bool_]  # [B] the text is longer than the model reads


class Reader(NamedTuple):
    """A pretrained model in two steps: texts to tokens, and tokens to vectors in a program."""

    params: Any  # what `vectors` takes first
    tokenize: Callable[[Sequence[str]], Tokenized]  # cut at the model's limit
    # (params, token ids [B, T], mask [B, T]) -> [B, D]; a pure function
    vectors: Callable[[Any, Int[Array, "B T"], Bool[Array, "B T"]], Float[Array, "B D"]]


class TextModel(NamedTuple):
    """A pretrained model that was found; its weights are read when it embeds."""

    width: int  # D
    limit: int  # the most tokens of a text that it reads
    revision: str  # another where an embedding could be another
    embed: Callable[[Sequence[str]], Iterator[Block]]  # every text in one block, in any order
    reader: Callable[[], Reader] | None = None  # for texts that come up in a program


# Finds the model that a part's configuration names.
OpenModel = Callable[[Any], TextModel]


class TextEmbeddings(NamedTuple):
    """What a part that reads text learned."""

    open_model: OpenModel
    config: PartConfig
    revision: str
    limit: int  # tokens
    mean: NDArray[np.float32]  # [D] of the training texts' embeddings
    scale: float  # root mean square of a coordinate around the mean

    def encode(self, table: Table) -> Inputs:
        """Centred and scaled embeddings [N, D]."""
        texts = _texts(table, self._name)
        cache = _filled(self._cache(), texts, self.model, name=self._name)
        vectors = cache.read([key_of(text) for text in texts])
        return (vectors - self.mean) / np.float32(self.scale)

    def blank(self) -> Inputs:
        """The mean text."""
        return np.zeros((1, len(self.mean)), np.float32)

    def learned_vectors(self) -> None:
        """There are none."""

    def remarks(self, table: Table) -> dict[str, int]:
        """How many texts were longer than the model reads; they have been encoded before."""
        cut = self._cache().cut([key_of(text) for text in _texts(table, self._name)])
        reason = f"texts cut at {self.limit} tokens"
        return {reason: int(cut.sum())} if cut.any() else {}

    def to_json(self) -> dict[str, Any]:
        """What `_from_json` reads back."""
        return {
            "config": self.config.model_dump(),
            "revision": self.revision,
            "limit": self.limit,
            "mean": self.mean.tolist(),
            "scale": self.scale,
        }

    @property
    def _name(self) -> str:
        return str(self.config.model_dump()["name"])

    def _cache(self) -> EmbeddingCache:
        return EmbeddingCache(_folder(self._name, self.revision), len(self.mean))

    def model(self) -> TextModel:
        """The pretrained model, seen to be the one that the part was fitted with.

        Raises:
            UserError: If its files are others.
        """
        model = self.open_model(self.config)
        if model.revision != self.revision:
            raise UserError(
                f"encoder {self._name!r}: the files of {self.config.model_dump()['model']} are not "
                f"those that the run was trained with (revision {model.revision}, trained with "
                f"{self.revision}); put those back, or train the run again"
            )
        return model


def text_kind(config: type[PartConfig], open_model: OpenModel) -> Kind:
    """The kind of part that embeds texts by one family of pretrained models.

    Args:
        config: Its configuration, which has a `name` and a `model`.
        open_model: Finds the model that a configuration names.

    Returns:
        The kind, for the registry of parts.
    """
    return Kind(config, partial(_fit, open_model), partial(_from_json, open_model, config))


def _fit(
    open_model: OpenModel,
    config: Any,
    table: Table,
    training_rows: NDArray[np.int32],
    key: str,
) -> Part:
    texts = _texts(table, config.name, key=f"{key}: ")
    model = open_model(config)
    cache = EmbeddingCache(_folder(config.name, model.revision), model.width)
    _filled(cache, texts, lambda: model, name=config.name)
    appearing, counts = np.unique(training_rows, return_counts=True)
    vectors = cache.read([key_of(texts[row]) for row in appearing]).astype(np.float64)
    share = counts / counts.sum()
    mean = share @ vectors
    scale = float(np.sqrt(share @ np.square(vectors - mean).mean(axis=1)))
    # One text alone has no spread; it stays as it is.
    scale = scale if scale > 1e-6 else 1.0
    return TextEmbeddings(
        open_model, config, model.revision, model.limit, mean.astype(np.float32), scale
    )


def _from_json(open_model: OpenModel, config: type[PartConfig], record: dict[str, Any]) -> Part:
    return TextEmbeddings(
        open_model=open_model,
        config=config.model_validate(record["config"]),
        revision=record["revision"],
        limit=record["limit"],
        mean=np.asarray(record["mean"], np.float32),
        scale=float(record["scale"]),
    )


def _texts(table: Table, name: str, *, key: str = "") -> tuple[str, ...]:
    if isinstance(table, tuple):
        return tuple(map(as_read, table))
    raise UserError(
        f"{key}{name!r} needs items that are text, these are lists of {table.shape[1]} numbers; "
        "use 'numbers'"
    )


def _folder(name: str, revision: str) -> Path:
    """Where the embeddings of one model are kept."""
    root = Path(os.environ.get(DATA_DIR_VARIABLE) or _DEFAULT_CACHE).expanduser().absolute()
    return root / "embeddings" / f"{name}-{revision}"


def _filled(
    cache: EmbeddingCache,
    texts: Sequence[str],
    open_model: Callable[[], TextModel],
    *,
    name: str,
) -> EmbeddingCache:
    """Embed the texts that a cache lacks, and keep what is done also when it is interrupted."""
    missing = {key: text for text in texts if (key := key_of(text)) not in cache}
    if not missing:
        return cache
    keys = list(missing)
    unsaved: list[Block] = []

    def save() -> None:
        places = np.concatenate([block.places for block in unsaved])
        vectors = np.concatenate([block.vectors for block in unsaved])
        cut = np.concatenate([block.cut for block in unsaved])
        unsaved.clear()
        cache.append([keys[place] for place in places], vectors, cut)

    embed = open_model().embed
    saved = time.monotonic()
    # A bar where a person watches; `disable=None` is how tqdm is told so.
    with tqdm(total=len(keys), desc=name, unit="text", disable=None, leave=False) as bar:
        try:
            for block in embed(list(missing.values())):
                unsaved.append(block)
                bar.update(len(block.places))
                waiting = sum(len(block.places) for block in unsaved)
                if waiting >= _MOST_UNSAVED or time.monotonic() - saved > _MOST_SECONDS:
                    save()
                    saved = time.monotonic()
        finally:
            if unsaved:
                save()
    return cache
