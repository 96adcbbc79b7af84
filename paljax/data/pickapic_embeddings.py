"""Pick-a-Pic as CLIP-H embeddings: which of two generated images people prefer for their prompt.

The layout is that of PAL's authors (ramya-ml/pickapic-embeds on the hub; RamyaLab/
pluralistic-alignment, src/dataset.py): a folder with a file `<ranking id>.joblib` for every
comparison, which holds

    ((user id, prompt embedding, (left embedding, right embedding)), y), ranking id

with torch tensors of 1024 numbers, and y = -1 where the user prefers the left image, 1 the right
one, and 0 where it is a tie. Lists of ranking ids beside it may say what is for training,
validation and test. The published archives have 12 GB and more: unpack one, and name its folder.
"""

import dataclasses
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paljax.data.dataset import Dataset, assemble
from paljax.data.source import About, Columns, Kind, Row, Source, Workplace, require_whole
from paljax.data.torch_samples import read_sample
from paljax.errors import UserError
from paljax.ranges import PositiveInt

# Files of ranking ids in a folder of instructions, and the part that each is.
INSTRUCTIONS = {
    "train_ranking_ids.pt": "train",
    "val_ranking_ids_seen_users.pt": "validation",
    "test_ranking_ids_seen_users.pt": "test",
}
NO_PART = ""  # of a comparison where there are no instructions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where the embeddings are.

    Attributes:
        path: Folder with `<ranking id>.joblib` files.
        instructions: Folder with the lists of INSTRUCTIONS; other comparisons are not read. None:
            all are, and nothing says what is for training.
        width: Numbers of an embedding.
        most: Comparisons to read, those of the lowest ranking ids. None: all.
    """

    path: str
    instructions: str | None = None
    width: PositiveInt = 1024
    most: PositiveInt | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        require_whole("pickapic_embeddings", "width", self.width, least=1)
        if self.most is not None:
            require_whole("pickapic_embeddings", "most", self.most, least=1)


def _features(options: Options) -> dict[str, Kind]:
    embedding = (np.float32, (options.width,))
    return {
        "user_id": str,
        "prompt": embedding,
        "chosen": embedding,
        "rejected": embedding,
        "tie": np.bool_,
        "split": str,
    }


def _rows(options: Options, place: Workplace) -> Iterator[Row]:
    parts = _parts(options)
    return (_sample(path, part, options.width) for path, part in parts.items())


def _parts(options: Options) -> dict[Path, str]:
    """Files of comparisons and their part, by ranking id."""
    folder = Path(options.path)
    if options.instructions is None:
        parts = dict.fromkeys(folder.glob("*.joblib"), NO_PART)
    else:
        parts = {
            folder / f"{ranking}.joblib": part
            for name, part in INSTRUCTIONS.items()
            for ranking in _ranking_ids(Path(options.instructions) / name)
        }
    if not parts:
        raise UserError(
            f"pickapic_embeddings: {folder} holds no <ranking id>.joblib; unpack an archive of "
            "https://huggingface.co/datasets/ramya-ml/pickapic-embeds and name its folder"
        )
    ordered = sorted(parts, key=lambda path: (len(path.name), path.name))
    for path in ordered[: options.most]:
        if not path.is_file():
            raise UserError(f"{path}: no such file, and {options.instructions} names it")
    return {path: parts[path] for path in ordered[: options.most]}


def _ranking_ids(path: Path) -> Sequence[Any]:
    """A list that torch.save wrote: a zip archive with one pickle in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            ids = read_sample(archive.read(name), path)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{path}: is no list of ranking ids ({error})") from None
    if not isinstance(ids, list):
        raise UserError(f"{path}: is no list of ranking ids, but {type(ids).__name__}")
    return ids


def _sample(path: Path, part: str, width: int) -> Row:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        ((user, prompt, (left, right)), y), *_ = read_sample(content, path)
        label = float(y)
        embeddings = [np.asarray(each, np.float32).reshape(width) for each in (left, right, prompt)]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: is no ((user, prompt, (left, right)), y) of {width} numbers ({error})"
        ) from None
    left, right, prompt = embeddings
    chosen, rejected = (right, left) if label > 0 else (left, right)
    return {
        "user_id": str(user),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "tie": label == 0,
        "split": part,
    }


def _fingerprint(options: Options) -> str:
    states = [(path.name, part, path.stat()) for path, part in _parts(options).items()]
    return json.dumps([(name, part, at.st_size, at.st_mtime_ns) for name, part, at in states])


def _dataset(columns: Columns, options: Options, folder: Path) -> Dataset:
    differ = (columns["chosen"] != columns["rejected"]).any(axis=1)
    equal = int((~differ).sum())
    kept: dict[str, Any] = {
        name: values[differ]
        if isinstance(values, np.ndarray)
        else [value for value, keep in zip(values, differ, strict=True) if keep]
        for name, values in columns.items()
    }
    if options.instructions is None:
        del kept["split"]
    return assemble(**kept, dropped={"chosen equals rejected": equal} if equal else {})


SOURCE = Source(
    name="pickapic_embeddings",
    version="1.0.0",
    about=About(
        description=(
            "People's choices between two generated images for their prompt, as CLIP-H embeddings"
            " of images and prompts."
        ),
        homepage="https://huggingface.co/datasets/ramya-ml/pickapic-embeds",
        citation="""\
@inproceedings{kirstain2023pickapic,
  title = {Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation},
  author = {Kirstain, Yuval and Polyak, Adam and Singer, Uriel and Matiana, Shahbuland and
            Penna, Joe and Levy, Omer},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023}
}
""",
        license="MIT",
    ),
    options=Options,
    features=_features,
    rows=_rows,
    dataset=_dataset,
    fingerprint=_fingerprint,
)
