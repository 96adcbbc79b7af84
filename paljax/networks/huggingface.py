"""Language models in Hugging Face's files, `config.json` and safetensors: a folder or the hub."""

import json
import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from paljax.errors import UserError
from paljax.networks.decoder_config import DecoderConfig
from paljax.networks.huggingface_config import CONFIG, config_record, read_config
from paljax.networks.tensor_names import Tensors, to_params, to_tensors
from paljax.networks.tokenizers import SETTINGS_BESIDE, TOKENIZER
from paljax.storage import write_file, write_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_model(source: str, *, revision: str | None = None) -> Path:
    """The folder of a model: the folder that is named, or a download of a model of the hub.

    Args:
        source: A folder, or the hub's `owner/name`.
        revision: Commit, branch or tag on the hub.

    Raises:
        UserError: If there is no such folder and the hub doesn't give the model.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(source) or folder.exists():
        raise UserError(f"{source}: no such folder, and no name of the hub like owner/name")
    import huggingface_hub

    try:
        files = [CONFIG, "*.safetensors", INDEX, TOKENIZER, *SETTINGS_BESIDE]
        found = huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=files)
    except Exception as error:  # the hub's client raises what its transport raises
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{source}: no such folder, and the hub doesn't give it "
            f"({type(error).__name__}: {reason})"
        ) from None
    return Path(found)


def load(folder: Path, *, dtype: Any = np.float32) -> tuple[DecoderConfig, Any]:
    """Read a model's configuration and parameters.

    Args:
        folder: Holds `config.json` and `model.safetensors`, or shards with their index.
        dtype: Of the parameters.

    Returns:
        The configuration, and parameters as arrays on the host.

    Raises:
        UserError: If a file is missing or damaged, or the tensors are not the configured model's.
    """
    config = read_config(folder / CONFIG)
    tensors = open_safetensors(folder)
    try:
        return config, to_params(tensors, config, dtype=dtype)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def save(folder: Path, params: Any, config: DecoderConfig) -> None:
    """Write a model so that Hugging Face loads it; `config.json` last, whole or not at all.

    Args:
        folder: Where to; made where it is missing.
        params: The tree of `causal_lm.init`, on the host or in parts on several devices; LoRA's
            parts are merged. They are written as float32, tensor by tensor.
        config: The network they belong to.

    Raises:
        UserError: If the folder can't be written.
    """
    tensors = to_tensors(params, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror})") from None
    write_file(folder / WEIGHTS, lambda draft: _write_safetensors(draft, tensors))
    write_json(folder / CONFIG, config_record(config))


def open_safetensors(folder: Path) -> Tensors:
    """The tensors of `model.safetensors`, or of the shards that its index names.

    Raises:
        UserError: If there are none, or one is damaged.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            files = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index}: damaged: wanted a weight_map of tensors to files") from None
    elif (folder / WEIGHTS).is_file():
        files = [WEIGHTS]
    else:
        raise UserError(f"{folder}: has neither {WEIGHTS} nor {INDEX}")
    shapes: dict[str, tuple[int, ...]] = {}
    readers: dict[str, Callable[[str], Any]] = {}
    for name in files:
        handle = _open(folder / name)
        for tensor in handle.keys():  # noqa: SIM118  (a handle is no mapping)
            shapes[tensor] = tuple(handle.get_slice(tensor).get_shape())
            readers[tensor] = handle.get_tensor
    return Tensors(shapes, lambda name: readers[name](name))


def _write_safetensors(path: Path, tensors: Tensors) -> None:
    """Write float32 tensors in turn; the library's own writer wants all of them in memory, twice.

    Source:
        The format: https://huggingface.co/docs/safetensors (eight bytes of the header's length, a
        header in JSON, padded to a multiple of eight, and the numbers).
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in tensors.shapes:
            file.write(np.ascontiguousarray(tensors.read(name), "<f4").data)
        file.flush()
        os.fsync(file.fileno())


def _open(path: Path) -> Any:
    import safetensors

    try:
        return safetensors.safe_open(path, "numpy")
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: damaged: {error}") from None
