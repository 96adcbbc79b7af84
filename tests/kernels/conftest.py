"""Kernel tests forbid implicit dtype promotion, and ask for float64 by the fixture `x64`."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_dtype_promotion() -> Iterator[None]:
    # Here only: optax.adam needs promotion, so the root conftest cannot forbid it for every test.
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
