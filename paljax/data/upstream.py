"""Files of other repositories: found on this machine or fetched, and always checked.

An upstream file is one version of one file of a public repository, pinned by commit and SHA-256.
It is looked for in a mirror folder, in an installed wheel that carries it, among earlier downloads,
and at last in the repository itself. The first source that has the file decides: a file with
another digest is an error and no reason to look further, since somebody meant it to be used.
"""

import hashlib
import http.client
import importlib.metadata
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from paljax.errors import UserError

MIRROR_VARIABLE = "PALJAX_MIRROR"

# Where public repositories serve the files of a commit.
_RAW_ADDRESS = "https://raw.githubusercontent.com"

# Seconds without an answer before the repository counts as out of reach.
_TIMEOUT = 30.0


class UpstreamFile(NamedTuple):
    """One version of one file of a public repository."""

    repository: str  # owner/name
    commit: str  # 40 hex digits
    path: str  # inside the repository
    sha256: str  # of the file's bytes, 64 hex digits
    wheel: str | None = None  # distribution that carries the same file
    wheel_path: str | None = None  # where, relative to the folder that holds the packages

    @property
    def address(self) -> str:
        """The file in its public repository, at the pinned commit."""
        path = urllib.parse.quote(self.path)
        return f"{_RAW_ADDRESS}/{self.repository}/{self.commit}/{path}"


def find(file: UpstreamFile, *, downloads: Path) -> Path:
    """Find an upstream file on this machine, or download it.

    Args:
        file: Which file.
        downloads: Folder that keeps downloaded files, laid out like the mirror. Nothing is written
            when the mirror or a wheel has the file.

    Returns:
        A path whose content has the pinned SHA-256.

    Raises:
        UserError: The first source that has the file holds other bytes, no source has it, or it
            cannot be read or written.
    """
    downloaded = _below(downloads, file)
    for candidate in (_in_mirror(file), _in_wheel(file), downloaded):
        if candidate is None:
            continue
        try:
            content = candidate.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UserError(f"cannot read {candidate}: {error.strerror or error}") from error
        _check(content, file, where=str(candidate))
        return candidate
    content = _download(file)
    _check(content, file, where=file.address)
    _write(content, downloaded)
    return downloaded


def _in_mirror(file: UpstreamFile) -> Path | None:
    mirror = os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        return None
    if not Path(mirror).is_dir():
        raise UserError(f"{MIRROR_VARIABLE} is {mirror!r}, which is not a folder")
    return _below(Path(mirror), file)


def _in_wheel(file: UpstreamFile) -> Path | None:
    """Locate the file by the wheel's own record: its package is not imported, nor need it work."""
    if file.wheel is None:
        return None
    try:
        distribution = importlib.metadata.distribution(file.wheel)
    except importlib.metadata.PackageNotFoundError:
        return None
    for entry in distribution.files or ():
        if entry.as_posix() == file.wheel_path:
            return Path(str(distribution.locate_file(entry)))
    return None


def _below(folder: Path, file: UpstreamFile) -> Path:
    return folder / file.repository / file.commit / file.path


def _check(content: bytes, file: UpstreamFile, *, where: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise UserError(
            f"{where} is damaged or another version: "
            f"expected SHA-256 {file.sha256}, found {found}; remove or replace it"
        )


def _download(file: UpstreamFile) -> bytes:
    try:
        with urllib.request.urlopen(file.address, timeout=_TIMEOUT) as response:
            content: bytes = response.read()
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise _out_of_reach(file, error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _out_of_reach(file, getattr(error, "reason", None) or error) from error
    return content


def _out_of_reach(file: UpstreamFile, reason: object) -> UserError:
    wheel = f"install the wheel that has it (pip install --no-deps {file.wheel}), "
    return UserError(
        f"{file.path} is not on this machine and {file.address} cannot be read ({reason}): "
        f"set {MIRROR_VARIABLE} to a folder with {file.repository}/{file.commit}/{file.path}, "
        f"{wheel if file.wheel else ''}or run once with access to the network"
    )


def _write(content: bytes, path: Path) -> None:
    """Write all or nothing: under a name of its own first, then renamed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(
            dir=path.parent, prefix=f"{path.name}.unfinished-"
        )
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
