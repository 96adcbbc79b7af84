"""Imports go one way through the layers, and the command lines start without JAX."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "paljax"
# A module may import from its own layer and from those before it.
LAYERS = [
    ["errors", "ranges", "storage", "digests", "data.upstream", "text_functions", "__init__"],
    ["pretrained"],
    ["kernels"],
    ["networks"],
    ["models", "policies"],
    ["data"],
    ["predictions", "learners"],
    ["parallel", "processes", "stopping", "locking"],
    ["checkpoints", "config", "evaluation", "agreement", "matching", "loop", "commands"],
    ["stopwatch"],
    ["data.prepare", "runs", "figures", "reporting"],
    ["report"],
    ["reward"],
    ["policy"],
    ["train", "adapt", "evaluate", "score"],
]
HEAVY = {"jax", "flax", "matplotlib", "tokenizers", "safetensors", "transformers", "torch"}
# Lines, docstrings included.
LONGEST_FUNCTION, LONGEST_FILE = 70, 400
KERNELS_MAY_IMPORT = {"collections", "functools", "math", "typing", "jax", "jaxtyping", "numpy"}


def layer_of(module: str) -> int:
    """Place of a module, by the longest name that a layer lists."""
    found = [
        (len(name), place)
        for place, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    assert found, f"{module} is in no layer: say in tests/test_layers.py where it belongs"
    return max(found)[1]


def is_module(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {full if is_module(full) else node.module for full in modules}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for name in imports_of(path):
        if name.startswith("paljax."):
            imported = name.removeprefix("paljax.")
            assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}"
        elif module.split(".")[0] == "kernels":
            assert name.split(".")[0] in KERNELS_MAY_IMPORT, f"{module} imports {name}"


@pytest.mark.parametrize("command", ["train", "adapt", "evaluate", "score", "report"])
def test_help_starts_without_jax(command):
    code = (
        f"import sys, paljax.{command} as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        f"assert not {HEAVY} & set(sys.modules), 'heavy imports'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"python -m paljax.{command}" in done.stdout


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("folder", ["paljax", "experiments", "benchmarks"])
def test_functions_and_files_stay_short(folder):
    for path in sorted((PACKAGE.parent / folder).rglob("*.py")):
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= LONGEST_FILE, f"{path}: {lines} lines; find its second subject"
        for function in functions_of(path):
            lines = function.end_lineno - function.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{path}: {function.name} has {lines} lines"
