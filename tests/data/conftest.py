"""Files that tests of the data sets need and that no test may quietly do without in CI."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paljax.data import upstream
from paljax.data.upstream import UpstreamFile
from paljax.errors import UserError


def local_copy(file: UpstreamFile, nowhere: Path) -> Path:
    """Find an upstream file in the mirror or in its wheel; without one, skip (in CI: fail)."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(upstream, "_RAW_ADDRESS", "http://127.0.0.1:9")  # nothing answers there
            return upstream.find(file, downloads=nowhere)
    except UserError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def electricity_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The upstream file of the electricity data."""
    pytest.importorskip("tensorflow_datasets")
    from paljax.data.electricity import UPSTREAM

    return local_copy(UPSTREAM, tmp_path_factory.mktemp("nowhere"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets that many tests share."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def upstream_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[UpstreamFile], Path]:
    """Finds a file in the mirror; without one, skips (in CI: fails)."""
    nowhere = tmp_path_factory.mktemp("nowhere")
    return lambda file: local_copy(file, nowhere)
