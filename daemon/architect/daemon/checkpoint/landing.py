"""A checkpoint that arrives: written beside its place, and moved there when all of it is right.

``<target>.partial`` is locked while it is filled. One without a lock was left by a daemon that
ended, or kept: who fills it may note in it what has come, and go on with it later. :func:`sweep`
removes the others.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn

from architect.checkpoint import manifest as manifests
from architect.checkpoint.manifest import Manifest, Piece
from architect.core import files
from architect.core.errors import NodeError, Rejected

SUFFIX: Final = ".partial"
NOTES: Final = ".notes"
"""Of who fills an arrival; no piece has such a name."""

WRITE_BYTES: Final = 128 * 1024
"""Of one call. The kernel makes as large a folio of it as it can. A small one it finds in memory
that was in use a moment ago; a large one only in blocks that have been free for long, which a
virtual machine may have to fetch from its host: a GiB in writes of 1 MiB took up to 1.7 s so, and
0.26 s in such of 64 KiB, each time. Twice as many calls cost more than they save."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Landing:
    """One arrival, as a context: what is neither committed nor kept at its end is removed.

    Different threads may write different parts. What an earlier one has left stays as it is until
    :meth:`prepare` or :meth:`go_on`.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._partial = target.with_name(target.name + SUFFIX)
        self._lock_fd = -1
        self._is_ours = False
        self._is_kept = False

    def __enter__(self) -> Landing:
        """Take the place.

        Raises Rejected (reasons ``Exists``, ``AlreadyArriving``), NodeError.
        """
        if self._target.exists():
            raise Rejected(f"{self._target} is there already", reason="Exists")
        try:
            files.make_private(self._partial)
            self._lock_fd = _lock(self._partial)
        except OSError as error:
            _fail(error, self._partial, "make")
        if self._lock_fd < 0:
            raise Rejected(f"{self._target} is arriving already", reason="AlreadyArriving")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_ours and not self._is_kept:
            shutil.rmtree(self._partial, ignore_errors=True)
        elif not self._is_ours:
            with contextlib.suppress(OSError):  # what an earlier one has left is not empty
                self._partial.rmdir()
        self._unlock()

    @property
    def notes(self) -> Path:
        """File in which who fills it may note what has come; it is gone with the commit."""
        return self._partial / NOTES

    def prepare(self, manifest: Manifest, *, floor_bytes: int = 0) -> None:
        """Make every file at its size, if the disk has room and *floor_bytes* more.

        Nothing of an earlier arrival stays. The room is taken at once, so that no disk gets full in
        the middle; besides, what is there is filled faster. Raises NodeError, with reason
        ``DiskFull`` for want of room.
        """
        self._is_ours = True
        try:
            _empty(self._partial)
            self._check_room(manifest, floor_bytes)
            for piece in manifest.pieces:
                self._create(piece)
        except OSError as error:
            _fail(error, self._partial, "write")

    def go_on(self) -> None:
        """Use what an earlier arrival prepared, which has all the room it needs."""
        self._is_ours = True

    def keep(self) -> None:
        """Leave what has come where it is, for who goes on with it by its notes."""
        self._is_kept = True

    def _check_room(self, manifest: Manifest, floor_bytes: int) -> None:
        room = os.statvfs(self._partial)
        free = room.f_bavail * room.f_frsize
        if free < manifest.total_bytes + floor_bytes:
            raise NodeError(
                f"no room for checkpoint {manifest.id} of {manifest.total_bytes} bytes: {free} are "
                f"free on the disk of {self._partial.parent}, of which {floor_bytes} are not for "
                "checkpoints",
                reason="DiskFull",
                errno=errno.ENOSPC,
                path=self._partial,
            )

    def _create(self, piece: Piece) -> None:
        path = self._partial / piece.name
        files.make_private(path.parent)
        fd = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            if piece.size:
                os.posix_fallocate(fd, 0, piece.size)
        finally:
            os.close(fd)

    def open(self, piece: Piece) -> Part:
        """Return a context in which parts of *piece* are written. Raises NodeError."""
        return Part(self._partial / piece.name)

    def commit(self, manifest: Manifest, *, is_durable: bool) -> None:
        """Let the checkpoint appear. Nothing is verified here. Raises NodeError.

        Without *is_durable* a power cut within the next half minute may leave files at the target
        that hold nothing; its manifest tells.
        """
        try:
            for piece in manifest.pieces:
                self._finish(piece, is_durable)
            raw = manifests.to_bytes(manifest)
            files.write_atomic(self._partial / manifests.NAME, raw, durable=is_durable)
            if is_durable:
                for directory, _, _ in os.walk(self._partial):
                    files.sync_directory(Path(directory))
            self.notes.unlink(missing_ok=True)
            os.rename(self._partial, self._target)
            self._is_kept = True
            if is_durable:
                files.sync_directory(self._target.parent)
        except OSError as error:
            _fail(error, self._partial, "write")

    def _finish(self, piece: Piece, is_durable: bool) -> None:
        fd = os.open(self._partial / piece.name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fchmod(fd, piece.mode)
            if is_durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


class Part:
    """An open file of an arrival."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> Part:
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            _fail(error, self._path, "open")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of *data*. Raises NodeError."""
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self._fd, view[:WRITE_BYTES], offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            _fail(error, self._path, "write")


def sweep(directory: Path, *, is_wanted: Callable[[str], bool] = lambda _: False) -> list[Path]:
    """Remove what interrupted arrivals left in *directory*; return what was removed.

    One with notes stays while it *is_wanted*, by the name of its target.
    """
    removed = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        if (path / NOTES).exists() and is_wanted(path.name.removesuffix(SUFFIX)):
            continue
        try:
            fd = _lock(path)
        except OSError:
            continue  # it has just become whole, or is no directory of ours
        if fd < 0:
            continue
        try:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
        finally:
            os.close(fd)
    return removed


def _lock(directory: Path) -> int:
    """Return a descriptor that locks *directory*, or -1 if another one does. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been removed, or moved to its place, between the two calls.
        if os.stat(directory, follow_symlinks=False).st_ino == os.fstat(fd).st_ino:
            return fd
    except BlockingIOError:
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return -1


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _fail(error: OSError, path: Path, verb: str) -> NoReturn:
    is_full = error.errno in _NO_SPACE
    raise NodeError(
        f"cannot {verb} {path}: {error.strerror or error}",
        reason="DiskFull" if is_full else "DiskFailed",
        errno=error.errno,
        path=path,
        hint="the disk of the checkpoints is full" if is_full else "",
    ) from error
