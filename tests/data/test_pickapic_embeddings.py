"""Embeddings of Pick-a-Pic in the published layout, written here byte by byte as torch would."""

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from paljax.data.builders import load
from paljax.data.torch_samples import read_sample
from paljax.errors import UserError

WIDTH = 5


class Name(NamedTuple):
    """What a pickle calls by name."""

    module: str
    name: str


class Call(NamedTuple):
    """A call that a pickle makes."""

    function: Name
    arguments: tuple[Any, ...]


class Persistent(NamedTuple):
    """An object that is kept beside the pickle."""

    identity: tuple[Any, ...]


class Writer(pickle._Pickler):
    """Writes names and calls of modules that need not be there."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_name(self, name: Name) -> None:
        self.write(pickle.GLOBAL + f"{name.module}\n{name.name}\n".encode())

    def save_call(self, call: Call) -> None:
        self.save(call.function)
        self.save(call.arguments)
        self.write(pickle.REDUCE)

    def save_persistent(self, held: Persistent) -> None:
        self.save(held.identity)
        self.write(pickle.BINPERSID)

    dispatch[Name] = save_name
    dispatch[Call] = save_call
    dispatch[Persistent] = save_persistent


def pickled(value: Any, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    Writer(stream, protocol).dump(value)
    return stream.getvalue()


def storage(numbers: np.ndarray) -> Call:
    kind = {"float32": "FloatStorage", "float16": "HalfStorage"}[numbers.dtype.name]
    description = ("storage", Name("torch", kind), "7", "cpu", numbers.size, None)
    plain = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    content = b"".join(map(pickled, [*plain, Persistent(description), ["7"]]))
    content += struct.pack("<q", numbers.size) + numbers.tobytes()
    return Call(Name("torch.storage", "_load_from_bytes"), (content,))


def tensor(held: np.ndarray, offset: int = 0, size: int = WIDTH) -> Call:
    """`size` numbers of a storage from `offset`."""
    hooks = Call(Name("collections", "OrderedDict"), ())
    arguments = (storage(held), offset, (size,), (1,), False, hooks)
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def embeddings(ranking: int, dtype: type = np.float32) -> np.ndarray:
    """Prompt, left and right."""
    return np.random.default_rng(ranking).normal(size=(3, WIDTH)).astype(dtype)


def sample(ranking: int, y: int, dtype: type = np.float32) -> bytes:
    prompt, *sides = embeddings(ranking, dtype)
    both = np.concatenate(sides)  # two images share a storage, as in the published files
    left, right = tensor(both), tensor(both, offset=WIDTH)
    user = str(100 + ranking % 3)
    return pickled([((user, tensor(prompt), (left, right)), y), ranking], protocol=4)


def ranking_ids(ids: list[int]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("ids/data.pkl", pickled(ids))
        archive.writestr("ids/version", "3\n")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine comparisons: ranking 8 is a tie, odd ones prefer the right image."""
    where = tmp_path / "embeddings"
    where.mkdir()
    for ranking in range(2, 11):
        y = 0 if ranking == 8 else 1 if ranking % 2 else -1
        dtype = np.float16 if ranking == 9 else np.float32
        (where / f"{ranking}.joblib").write_bytes(sample(ranking, y, dtype))
    return where


def test_samples_are_what_was_written(folder: Path, tmp_path: Path):
    data = load("pickapic_embeddings", data_dir=tmp_path, path=str(folder), width=WIDTH)
    rows = data.comparisons
    assert [data.users[user] for user in rows.user] == [str(100 + r % 3) for r in range(2, 11)]
    for row, ranking in enumerate(range(2, 11)):
        prompt, left, right = embeddings(ranking, np.float16 if ranking == 9 else np.float32)
        better, worse = (right, left) if ranking % 2 else (left, right)
        np.testing.assert_array_equal(data.items[rows.chosen[row]], better)
        np.testing.assert_array_equal(data.items[rows.rejected[row]], worse)
        np.testing.assert_array_equal(data.prompts[rows.prompt[row]], prompt)
    assert rows.tie.tolist() == [ranking == 8 for ranking in range(2, 11)]
    assert data.split is None
    few = load("pickapic_embeddings", data_dir=tmp_path, path=str(folder), width=WIDTH, most=3)
    np.testing.assert_array_equal(few.comparisons.chosen, rows.chosen[:3])


def test_instructions_say_the_parts(folder: Path, tmp_path: Path):
    lists = tmp_path / "instructions"
    lists.mkdir()
    (lists / "train_ranking_ids.pt").write_bytes(ranking_ids([3, 10]))
    (lists / "val_ranking_ids_seen_users.pt").write_bytes(ranking_ids([4]))
    (lists / "test_ranking_ids_seen_users.pt").write_bytes(ranking_ids([2]))
    options = {"path": str(folder), "instructions": str(lists), "width": WIDTH}
    data = load("pickapic_embeddings", data_dir=tmp_path, **options)
    assert list(data.split) == ["test", "train", "validation", "train"]  # rankings 2, 3, 4, 10
    (lists / "val_ranking_ids_seen_users.pt").write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=r"val_ranking_ids_seen_users\.pt: is no list of ranking"):
        load("pickapic_embeddings", data_dir=tmp_path, **options)
    (lists / "val_ranking_ids_seen_users.pt").write_bytes(ranking_ids([4444]))
    with pytest.raises(UserError, match=r"4444\.joblib: no such file, and .*instructions names it"):
        load("pickapic_embeddings", data_dir=tmp_path, **options)


def test_what_torch_and_joblib_write_is_read(tmp_path: Path):
    torch, joblib = pytest.importorskip("torch"), pytest.importorskip("joblib")
    prompt, left, right = map(torch.tensor, embeddings(1))
    sides = torch.stack([left, right])
    written = [(("4215", prompt, (sides[0], sides[1])), -1), 17]
    joblib.dump(written, tmp_path / "17.joblib")
    ((user, *read), y), ranking = read_sample((tmp_path / "17.joblib").read_bytes(), "17.joblib")
    assert (user, y, ranking) == ("4215", -1, 17)
    for found, wanted in zip((read[0], *read[1]), embeddings(1), strict=True):
        np.testing.assert_array_equal(found, wanted)
    torch.save(["1", 2], tmp_path / "ids.pt")
    with zipfile.ZipFile(tmp_path / "ids.pt") as archive:
        assert read_sample(archive.read("ids/data.pkl"), "ids.pt") == ["1", 2]


def test_a_pickle_can_run_nothing(folder: Path, tmp_path: Path):
    (folder / "5.joblib").write_bytes(pickled(Call(Name("os", "system"), ("touch owned",))))
    with pytest.raises(UserError, match=r"5\.joblib: is no sample .*it wants to run os\.system"):
        load("pickapic_embeddings", data_dir=tmp_path / "data", path=str(folder), width=WIDTH)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


DAMAGES = {
    "cut": lambda content: content[:200],
    "empty": lambda content: b"",
    "another layout": lambda content: pickled({"user": 1}),
    "beyond the storage": lambda content: pickled(
        [(("1", tensor(np.zeros(4, np.float32)), (0, 0)), 1), 1]
    ),
    "another width": lambda content: pickled(
        [(("1", tensor(np.zeros(4, np.float32), size=4), (0, 0)), 1), 1]
    ),
    "no label": lambda content: pickled([(("1", 0, (0, 0)), "left"), 1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_samples_are_named_in_one_line(damage: str, folder: Path, tmp_path: Path):
    path = folder / "7.joblib"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=r"7\.joblib: is no ") as caught:
        load("pickapic_embeddings", data_dir=tmp_path / "data", path=str(folder), width=WIDTH)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_a_folder_without_samples_is_told(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no <ranking id>\.joblib; unpack an archive of"):
        load("pickapic_embeddings", data_dir=tmp_path, path=str(tmp_path))
