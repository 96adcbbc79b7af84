"""Embeddings on disk survive interruption, other processes and a full disk, and tell damage."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from paljax.data.encoders import embedding_cache
from paljax.data.encoders.embedding_cache import EmbeddingCache, key_of
from paljax.errors import UserError

WIDTH = 3
TEXTS = ("tea", "Tee", "thé", "茶", "tea ")
KEYS = [key_of(text) for text in TEXTS]
VECTORS = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)
CUT = np.array([False, True, False, False, True])


def filled(folder, places=(0, 1, 2, 3, 4)):
    cache, places = EmbeddingCache(folder, WIDTH), list(places)
    cache.append([KEYS[place] for place in places], VECTORS[places], CUT[places])
    return cache


def require_all(cache):
    np.testing.assert_array_equal(cache.read(KEYS), VECTORS)
    np.testing.assert_array_equal(cache.cut(KEYS), CUT)


def test_what_was_kept_is_read_in_any_order(tmp_path):
    filled(tmp_path / "made", [3, 0])
    filled(tmp_path / "made", [0, 4, 1, 2])
    cache = EmbeddingCache(tmp_path / "made", WIDTH)
    require_all(cache)
    np.testing.assert_array_equal(cache.read(KEYS[::-2]), VECTORS[::-2])
    assert cache.read([]).shape == (0, WIDTH)
    assert key_of("coffee") not in cache
    assert (tmp_path / "made" / "vectors.f32").stat().st_size == 5 * WIDTH * 4


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("index", lambda held: held + b"half a record"),
        ("vectors.f32", lambda held: held + b"vectors that no record names, and a half"),
        ("index", lambda held: held[:-7]),
        ("vectors.f32", lambda held: held[:-5]),
        ("index", lambda held: b""),
    ],
)
def test_a_torn_tail_is_written_over(file, change, tmp_path):
    filled(tmp_path)
    path = tmp_path / file
    path.write_bytes(change(path.read_bytes()))
    cache = EmbeddingCache(tmp_path, WIDTH)
    for place, key in enumerate(KEYS):
        if key in cache:
            np.testing.assert_array_equal(cache.read([key])[0], VECTORS[place])
    filled(tmp_path)
    require_all(EmbeddingCache(tmp_path, WIDTH))


def test_a_vector_that_changed_on_disk_is_told(tmp_path):
    filled(tmp_path)
    path = tmp_path / "vectors.f32"
    held = bytearray(path.read_bytes())
    held[WIDTH * 4 + 2] ^= 1
    path.write_bytes(held)
    cache = EmbeddingCache(tmp_path, WIDTH)
    np.testing.assert_array_equal(cache.read(KEYS[:1]), VECTORS[:1])
    with pytest.raises(UserError, match=r"vectors\.f32: damaged; remove .* are embedded again"):
        cache.read(KEYS)


def test_caches_that_are_open_at_once_share_what_they_keep(tmp_path):
    one, other = EmbeddingCache(tmp_path, WIDTH), EmbeddingCache(tmp_path, WIDTH)
    one.append(KEYS[:3], VECTORS[:3], CUT[:3])
    other.append(KEYS[2:], VECTORS[2:] + np.array([[9], [0], [0]], np.float32), CUT[2:])
    require_all(other)  # the first to keep a text wins
    require_all(EmbeddingCache(tmp_path, WIDTH))


PROCESS = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("cache", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
cache = module.EmbeddingCache(__import__("pathlib").Path(sys.argv[2]), 4)
for start in range(int(sys.argv[3]), 300, 2):
    numbers = range(start, start + 3)
    vectors = np.array([[number] * 4 for number in numbers], np.float32)
    cache.append([module.key_of(str(number)) for number in numbers], vectors, np.zeros(3, bool))
"""


def test_two_processes_at_once_corrupt_nothing(tmp_path):
    command = [sys.executable, "-c", PROCESS, embedding_cache.__file__, str(tmp_path)]
    running = [subprocess.Popen([*command, start]) for start in ("0", "1")]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    cache = EmbeddingCache(tmp_path, 4)
    kept = cache.read([key_of(str(number)) for number in range(301)])
    np.testing.assert_array_equal(kept, np.arange(301)[:, None] * np.ones((1, 4)))
    assert (tmp_path / "index").stat().st_size == 40 * len({*range(300), 300, 301})


@pytest.mark.parametrize("after", [0, 1], ids=["in the vectors", "in the index"])
def test_a_full_disk_loses_nothing(after, tmp_path, monkeypatch):
    cache = filled(tmp_path, [0, 1])
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"No space left on device\); 2 texts are kept there"):
            cache.append(KEYS[2:], VECTORS[2:], CUT[2:])
    np.testing.assert_array_equal(EmbeddingCache(tmp_path, WIDTH).read(KEYS[:2]), VECTORS[:2])
    filled(tmp_path)
    require_all(EmbeddingCache(tmp_path, WIDTH))


def test_a_folder_that_takes_no_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/made/.*: can't be read|file/made: embeddings can't"):
        filled(tmp_path / "file" / "made")
