"""The README keeps its word: its example runs, and every name in its table exists."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from paljax.config import parse
from paljax.kernels import advantages, choices, distances, maxmin, simplex, weights

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`((?:paljax|tests)\.[a-zA-Z_.]+)`", README)))


def test_the_example_of_the_kernels_runs_and_finds_the_user(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    names: dict[str, object] = {}
    exec(code, names)
    fit = names["fit"]
    assert int(np.argmax(fit.weights)) == 0
    assert float(fit.gap[0]) < 1e-4
    assert np.isfinite(names["loss"])
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_imported(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_the_table_names_every_public_kernel():
    kernels = importlib.import_module("paljax.kernels")
    functions = [name for name in kernels.__all__ if name[0].islower()]
    missing = [name for name in functions if f"`paljax.kernels.{name}`" not in README]
    assert not missing


def test_the_configuration_is_valid():
    reward, policy, texts, stream = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert parse(yaml.safe_load(reward), where="README").model.num_prototypes == "auto"
    assert parse(yaml.safe_load(policy), where="README").objective.name == "maxmin"
    assert parse(yaml.safe_load(texts), where="README").policy.name == "causal_lm"
    assert parse(yaml.safe_load(stream), where="README").data.num_users == 10_000_000


@pytest.mark.parametrize("module", [advantages, choices, distances, maxmin, simplex, weights])
def test_examples_in_docstrings(module):
    outcome = doctest.testmod(module, extraglobs={"jnp": importlib.import_module("jax.numpy")})
    assert outcome.attempted > 0
    assert outcome.failed == 0
