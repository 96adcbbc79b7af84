"""The strictest settings of JAX hold for every test."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# Of the 65,530 mappings that Linux lets a process have, at which the next compilation aborts it.
MOST_MAPPINGS = 20_000

# What needs eight devices runs in a process of its own: see test_eight_devices.py.
collect_ignore = [] if jax.device_count() == 8 else ["eight_devices"]


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    """Every compiled program is some mappings of memory: let go of those of finished modules."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def quick_compilation(tmp_path_factory):
    """For tests of whole runs, most of whose time is compiling: no optimization, programs once."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    quick = {"jax_compilation_cache_dir": cache, "jax_disable_most_optimizations": True}
    before = {name: jax.config.values[name] for name in quick}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", cache)
        for name, value in quick.items():
            jax.config.update(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
