"""State on disk: written whole or not at all.

POSIX promises neither that a renamed file's content is on disk nor that the rename itself is, so
:func:`write_atomic` syncs the file before and the directory after the rename when *durable*.
Readers then see the old content or the new one, after a crash too.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from pathlib import Path
from typing import Any

from architect.core.errors import FormatError


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace *path* by *data*.

    With ``durable=False`` nothing is synced: readers of the running system still never see half a
    file, but a power cut may bring the old content, or an empty file, back. Use it for state on
    tmpfs and where the next start can tell the truth from elsewhere.

    Raises OSError; the old content is then untouched.
    """
    # Ours alone: another thread may be replacing the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    fd = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode
    )
    try:
        try:
            os.fchmod(fd, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in *path* survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_private(path: Path) -> None:
    """Make the directory *path*, and what is missing above it, for its owner alone (0700).

    ``mkdir(mode=0o700, parents=True)`` makes the parents for everybody. One that is there stays as
    it is. Raises OSError.
    """
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        make_private(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise


def matching(directory: Path, pattern: str) -> list[Path]:
    """Return what matches *pattern* below *directory*, whoever adds and removes there meanwhile.

    ``Path.glob()`` raises FileNotFoundError, before Python 3.13, for a directory that is removed
    after it was listed. Raises OSError for what is wrong besides.
    """
    found = [directory]
    for part in pattern.split("/"):
        found = [path for above in found for path in _matching(above, part)]
    return sorted(found)


def _matching(directory: Path, part: str) -> list[Path]:
    if not any(sign in part for sign in "*?["):
        return [directory / part] if os.path.lexists(directory / part) else []
    try:
        entries = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [directory / name for name in entries if fnmatch.fnmatchcase(name, part)]


def remove_leftovers(directory: Path) -> None:
    """Remove what :func:`write_atomic` has left in *directory* of writers that were killed."""
    for path in directory.glob(".*.tmp"):
        pid = path.name.rsplit(".", 3)[-3]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                path.unlink()


def remove_tree(path: Path) -> None:
    """Remove the directory *path* with all below it, as far as that goes; follows no links.

    :func:`shutil.rmtree` does the same, and its module loads every compressor there is.
    """
    with contextlib.suppress(OSError):
        for _, directories, others, fd in os.fwalk(path, topdown=False):
            for name in others:
                _remove(name, fd)
            for name in directories:  # links to directories, too
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=fd)
                    continue
                _remove(name, fd)
        os.rmdir(path)


def _remove(name: str, directory: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=directory)


def write_json(
    path: Path, value: dict[str, Any], *, mode: int = 0o600, durable: bool = True
) -> None:
    """Write *value*, which must hold an integer ``version``, as JSON: see :func:`write_atomic`."""
    if not isinstance(value.get("version"), int):
        raise FormatError(f"{path}: refusing to write a state file without a version")
    write_atomic(path, json.dumps(value).encode() + b"\n", mode=mode, durable=durable)


def read_json(path: Path, *, version: int) -> dict[str, Any]:
    """Read a JSON object of exactly *version*.

    Raises FileNotFoundError, or FormatError if it does not parse or has another version.
    """
    raw = path.read_bytes()
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("version") != version:
        found = value.get("version") if isinstance(value, dict) else type(value).__name__
        raise FormatError(
            f"{path}: version {found!r:.50} is not {version}",
            hint="the file was written by another version of Architect",
        )
    return value
