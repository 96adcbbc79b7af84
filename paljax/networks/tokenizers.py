"""Text to token ids and back: llama2.c's tokenizer, those of Hugging Face's and GGUF files."""

import heapq
import itertools
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paljax.errors import UserError

TOKENIZER = "tokenizer.json"  # Hugging Face's
SETTINGS = "tokenizer_config.json"  # beside it
# All that may be beside it and that Hugging Face reads of a tokenizer.
SETTINGS_BESIDE = (SETTINGS, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
BIN_TOKENIZER = "tokenizer.bin"  # llama2.c's
_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")
# llama2.c: 0 is unknown, 1 opens a text, 2 ends it, and the 256 bytes follow.
_BOS, _END, _FIRST_BYTE = 1, 2, 3
# How a GGUF file splits text before merging, and whether digits stand alone.
_SPLITS = {"gpt-2": False, "smollm": True}
_CONTROL = 3  # a GGUF file's type of special tokens
_PROBE = "a"  # any text: what Hugging Face's tokenizers put before it, they put before all
# Longest token that a sane file announces, bytes; more means that this is another kind of file.
_LONGEST = 1 << 16


class Tokenizer(NamedTuple):
    """What a policy needs of a tokenizer. `encode` adds no special tokens."""

    vocabulary: int  # ids are below this
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]  # special tokens are left out
    opening: tuple[int, ...]  # stands before every text that the model reads; often nothing
    files: Mapping[str, bytes]  # by name, what a model's folder holds of it


def load_llama2c_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """Read llama2.c's `tokenizer.bin` (`tok512.bin`).

    Args:
        path: The file.
        vocabulary: Of the model that it belongs to; the file does not say how many tokens it has.

    Raises:
        UserError: If the file is missing, damaged, or holds another number of tokens.

    Source:
        llama2.c, `tokenizer.py` (the file) and `run.c` (greedy merges by score, a space before the
        text, bytes for what the vocabulary lacks).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    pieces = _read_pieces(content, path)
    if len(pieces) != vocabulary:
        raise UserError(
            f"{path}: has {len(pieces)} tokens, the model's vocabulary has {vocabulary}"
        )
    ids: dict[bytes, int] = {}
    for token, (piece, _) in enumerate(pieces):
        ids.setdefault(piece, token)
    scores = [score for _, score in pieces]
    texts = [
        bytes([int(found[1], 16)]) if (found := _BYTE.fullmatch(piece)) else piece
        for piece, _ in pieces
    ]

    def encode(text: str) -> list[int]:
        if not text:
            return []
        start: list[int] = []
        for letter in " " + text:
            piece = letter.encode()
            start += [ids[piece]] if piece in ids else [byte + _FIRST_BYTE for byte in piece]
        return _merge(start, [piece for piece, _ in pieces], ids, scores)

    def decode(tokens: Sequence[int]) -> str:
        kept = [texts[token] for token in tokens if token not in (_BOS, _END)]
        text = b"".join(kept).decode(errors="replace")
        return text.removeprefix(" ")

    return Tokenizer(len(pieces), encode, decode, (_BOS,), {BIN_TOKENIZER: content})


def load_huggingface_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`, and `tokenizer_config.json` beside it where there is one.

    A text opens with what the tokenizer's own post-processor puts before it: for GPT-2, Qwen2 and
    SmolLM2 nothing, whatever `bos_token_id` their `config.json` names. Where the settings have the
    key `add_bos_token`, that decides. So did transformers 4 for Llama, whose checkpoints have it;
    version 5 reads it only where there is no `tokenizer.json`.

    Raises:
        UserError: If a file is missing or damaged, or wants a token that there is not.
    """
    import tokenizers

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())[:120]}") from None
    beside = [path.with_name(name) for name in SETTINGS_BESIDE]
    files = {TOKENIZER: path.read_bytes()}
    files |= {each.name: each.read_bytes() for each in beside if each.is_file()}
    if SETTINGS not in files:
        return _wrapped(tokenizer, _put_before(tokenizer), files)
    return _wrapped(tokenizer, _opening(tokenizer, path.with_name(SETTINGS)), files)


def gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The byte-level tokenizer that a GGUF file carries.

    Args:
        metadata: The file's fields.

    Raises:
        UserError: If its tokenizer is of another kind.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    kind, split = (metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or split not in _SPLITS:
        raise UserError(
            f"tokenizer.ggml: {kind!r} split by {split!r} is not supported; "
            f"wanted 'gpt2' split by one of {', '.join(map(repr, _SPLITS))}"
        )
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    ids = {token: place for place, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if _SPLITS[split] else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens(special)
    # llama.cpp, too, opens texts of these kinds with nothing unless the file asks for it.
    wanted = metadata.get("tokenizer.ggml.add_bos_token", False)
    opening = (int(metadata["tokenizer.ggml.bos_token_id"]),) if wanted else ()
    if opening:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[opening[0]]} $A", special_tokens=[(tokens[opening[0]], opening[0])]
        )
    files = {
        TOKENIZER: tokenizer.to_str().encode(),
        SETTINGS: json.dumps(_settings_of(metadata)).encode(),
    }
    return _wrapped(tokenizer, opening, files)


def _settings_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What Hugging Face wants beside the `tokenizer.json` of a GGUF file."""
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {
        f"{name}_token": metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")]
    }
    named = {name: tokens[int(token)] for name, token in ids.items() if token is not None}
    template = metadata.get("tokenizer.chat_template")
    chat = {} if template is None else {"chat_template": template}
    # The class that takes tokenizer.json as it is; an architecture's own would split anew.
    return {"tokenizer_class": "PreTrainedTokenizerFast", **named, **chat}


def _opening(tokenizer: Any, settings: Path) -> tuple[int, ...]:
    """What stands before a text by the settings, and where they say nothing by the tokenizer."""
    try:
        record = json.loads(settings.read_text(encoding="utf-8"))
        wanted, named = record.get("add_bos_token"), record.get("bos_token")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{settings}: damaged: {' '.join(str(error).split())[:120]}") from None
    if wanted is None:
        return _put_before(tokenizer)
    if not wanted:
        return ()
    text = named.get("content") if isinstance(named, dict) else named
    token = None if text is None else tokenizer.token_to_id(text)
    if token is None:
        raise UserError(
            f"{settings}: add_bos_token is true, but bos_token {text!r} is no token of the "
            "vocabulary"
        )
    return (token,)


def _put_before(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens that a tokenizer's post-processor puts before a text."""
    whole = tokenizer.encode(_PROBE)
    added = itertools.takewhile(
        lambda pair: pair[1], zip(whole.ids, whole.special_tokens_mask, strict=True)
    )
    return tuple(token for token, _ in added)


def _wrapped(tokenizer: Any, opening: tuple[int, ...], files: Mapping[str, bytes]) -> Tokenizer:
    return Tokenizer(
        vocabulary=tokenizer.get_vocab_size(),
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        decode=lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=True)),
        opening=opening,
        files=files,
    )


def _read_pieces(content: bytes, path: Path) -> list[tuple[bytes, float]]:
    pieces: list[tuple[bytes, float]] = []
    try:
        (longest,) = struct.unpack_from("<i", content)
        if not 0 < longest < _LONGEST:
            raise ValueError
        at = 4
        while at < len(content):
            score, length = struct.unpack_from("<fi", content, at)
            at += 8 + length
            if not 0 <= length <= longest or at > len(content):
                raise ValueError
            pieces.append((content[at - length : at], score))
    except (struct.error, ValueError):
        raise UserError(f"{path}: damaged, or no tokenizer of llama2.c") from None
    return pieces


def _merge(
    tokens: list[int], pieces: list[bytes], ids: dict[bytes, int], scores: list[float]
) -> list[int]:
    """Join the neighbours whose union scores highest, the leftmost first, until none is a token.

    A heap of candidate pairs instead of a search through all of them after every merge.
    """
    previous = list(range(-1, len(tokens) - 1))
    following = [*range(1, len(tokens)), -1]
    current: list[int | None] = list(tokens)
    heap: list[tuple[float, int, int, int]] = []

    def offer(left: int, right: int) -> None:
        first, second = current[left], current[right]
        assert first is not None
        assert second is not None
        merged = ids.get(pieces[first] + pieces[second])
        if merged is not None:
            heapq.heappush(heap, (-scores[merged], left, right, merged))

    for left, right in itertools.pairwise(range(len(tokens))):
        offer(left, right)
    while heap:
        _, left, right, merged = heapq.heappop(heap)
        first, second = current[left], current[right]
        if first is None or second is None or following[left] != right:
            continue  # one of the two has been merged into its neighbour since
        if ids.get(pieces[first] + pieces[second]) != merged:
            continue  # one of the two has grown since
        current[left], current[right] = merged, None
        following[left] = following[right]
        if following[left] >= 0:
            previous[following[left]] = left
            offer(left, following[left])
        if previous[left] >= 0:
            offer(previous[left], left)
    return [token for token in current if token is not None]
