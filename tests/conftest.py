"""The strictest settings of JAX hold for every test."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# What needs eight devices runs in a process of its own: see test_eight_devices.py.
collect_ignore = [] if jax.device_count() == 8 else ["eight_devices"]


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
