"""Any data set in TRL's preference columns that also says who chose, local or on the hub.

TRL's columns are `chosen` and `rejected`, as text or chat messages, and `prompt` where it is not
part of these; a user's id has no name of its own there, so `user` says which column it is.
"""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from paljax.data.dataset import Dataset
from paljax.data.files import read_comparisons
from paljax.data.source import About, DirectSource, require_choice
from paljax.errors import UserError, nearest

SUFFIXES = (".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where the data set is and how its columns are called.

    Attributes:
        path: A folder with JSON Lines or Parquet files on this machine, else a name on the hub.
        user: The column that says who chose.
        group: The column with the user's group. None: there is none.
        split: Of the data set; in a folder, what the names of its files begin with.
        subset: The configuration on the hub. None: its only one.
        revision: Commit, branch or tag on the hub. None: the newest.
        on_bad_row: "error" refuses a bad row, "skip" leaves it out and counts it.
    """

    path: str
    user: str = "user_id"
    group: str | None = None
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    on_bad_row: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        """Check the values."""
        require_choice("trl", "on_bad_row", self.on_bad_row, ("error", "skip"))


def load(options: Options) -> Dataset:
    """Read the data set.

    Args:
        options: Where it is.

    Returns:
        Its comparisons.

    Raises:
        UserError: If it can't be had, or a row of it is bad.
    """
    columns = {"user_id": options.user}
    if options.group is not None:
        columns["group"] = options.group
    read = partial(read_comparisons, columns=columns, on_bad_row=options.on_bad_row)
    if Path(options.path).is_dir():
        return read(*_files(options))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.parquet"
        _from_hub(options, path)
        try:
            return read(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), f"trl: {options.path}")) from None


def _files(options: Options) -> Sequence[Path]:
    """Files of the split, in the folder or, as the hub lays them out, in its folder `data`."""
    there = [
        path
        for folder in (Path(options.path), Path(options.path) / "data")
        for path in sorted(folder.glob("*"))
        if path.suffix in SUFFIXES
    ]
    files = [path for path in there if path.name.startswith(options.split)]
    if not files:
        splits = {path.name.split(".")[0].split("-")[0] for path in there}
        raise UserError(
            f"trl: {options.path} holds no file of the split {options.split!r}; "
            + (nearest(options.split, sorted(splits)) if there else "wanted .jsonl or .parquet")
        )
    return files


def _from_hub(options: Options, path: Path) -> None:
    """Write the rows of a hub's data set to a Parquet file."""
    try:
        # The library is slow to start and needed for nothing else.
        import datasets
    except ImportError:
        raise UserError(
            f"trl: {options.path!r} is no folder here, and the hub needs the package 'datasets': "
            "pip install 'paljax[hub]'"
        ) from None
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        rows: Any = datasets.load_dataset(
            options.path, options.subset, split=options.split, revision=options.revision
        )
        rows.to_parquet(str(path))
    # The library raises what its many backends raise: the hub does not answer, has no such name.
    except Exception as error:
        raise UserError(
            f"trl: {options.path!r} is no folder here and can't be had from the hub: "
            f"{_one_line(error)}"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


SOURCE = DirectSource(
    name="trl",
    about=About(
        description="A data set of your own in TRL's preference columns, with users' ids.",
        homepage="https://huggingface.co/docs/trl/dataset_formats#preference",
        citation="""\
@misc{vonwerra2020trl,
  title = {{TRL}: Transformer Reinforcement Learning},
  author = {von Werra, Leandro and Belkada, Younes and Tunstall, Lewis and others},
  year = {2020},
  url = {https://github.com/huggingface/trl}
}
""",
        license="of the data set",
    ),
    options=Options,
    load=load,
)
