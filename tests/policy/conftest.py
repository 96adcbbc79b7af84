"""What test modules of policies of texts share."""

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def folder(begun: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """A copy of what the module has `begun`, to work in."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALJAX_DATA_DIR", str(tmp_path / "data"))
    return tmp_path
