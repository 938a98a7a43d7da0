"""Files that were removed while they are open, on mounts on which nothing can be made.

Of a file that has no name any more an image has the content. CRIU makes it again under its old
name, opens it, and removes it. kubelet removes what it replaces of ConfigMaps, Secrets and tokens
(an hourly matter), which are mounted read-only: there, nothing can be made. So the image is made to
say a name in the container's ``/dev``, which is a tmpfs of its own in every container that is
managed (:mod:`architect.shim.oci`). A read-only mount is not made writable for this, not even for a
moment: other containers and the node see what is in it.

``/dev`` is small. What does not fit is told of before the dump, while the application runs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from architect.core.errors import Rejected
from architect.shim.inspection import files, findings
from architect.shim.inspection.facts import Removed
from architect.shim.inspection.files import DELETED
from architect.shim.keeper import claims
from architect.shim.keeper.loop import Loop, Task
from architect.shim.layers import beneath, places
from architect.shim.packets import protobuf

PLACE: Final = "/dev"
TURN_SECONDS: Final = 0.002
"""Of looking, before other pods have their turn."""

_PREFIX: Final = ".architect-removed-"
_MAX_NAME_BYTES: Final = 100
"""Of the old name; CRIU puts 20 more behind it for a moment."""
_NAME: Final = (3, 6)
"""Where the path is in CRIU's FileEntry: a regular file's name (fdinfo.proto, regfile.proto)."""
_REG, _ID = 3, 1
_FILES: Final = "files.img"


# Before a dump


def refuse(loop: Loop, init_pid: int, tree: Sequence[int]) -> Task[None]:
    """Raise Rejected if the processes *tree* have what could not be made again after a dump.

    Other tasks run meanwhile.
    """
    found: dict[tuple[object, ...], Removed] = {}
    turn = time.monotonic()
    for _ in _search(init_pid, tree, found):
        if time.monotonic() - turn > TURN_SECONDS:
            yield loop.sleep(0)
            turn = time.monotonic()
    if why := files.of_removed(tuple(found.values()), room_bytes=room(init_pid)):
        raise Rejected(why, reason="DeletedFile", hint=findings.HINTS["DeletedFile"])


def find_all(init_pid: int, tree: Sequence[int]) -> tuple[Removed, ...]:
    """Return what *tree* has open of files that were removed where nothing can be made."""
    found: dict[tuple[object, ...], Removed] = {}
    for _ in _search(init_pid, tree, found):
        pass
    return tuple(found.values())


def room(init_pid: int) -> int:
    """Return how many bytes fit where they would be made in the container of *init_pid*."""
    try:
        if not _is_place(_table(init_pid)):
            return 0
        status = os.statvfs(f"/proc/{init_pid}/root{PLACE}")
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def _search(
    init_pid: int, tree: Sequence[int], found: dict[tuple[object, ...], Removed]
) -> Iterator[None]:
    """Put what was removed into *found*, once for each file; yields now and then."""
    try:
        table = _table(init_pid)
    except OSError:
        return  # it has ended
    for pid in tree:
        yield
        for link, target in _links(pid):
            yield
            if not _is_lost(target, table):
                continue
            name = target.removesuffix(DELETED)
            if _may_hang(name, table):
                found[name,] = Removed(path=name, size_bytes=None)
                continue
            with contextlib.suppress(OSError):  # closed in between
                status = os.stat(link)
                if not status.st_nlink:
                    key = status.st_dev, status.st_ino
                    found[key] = Removed(path=name, size_bytes=status.st_blocks * 512)


def _is_lost(target: str, table: Sequence[places.Mounted]) -> bool:
    """Whether what a link says is a file that was removed and cannot be made again there."""
    if not target.startswith("/") or not target.endswith(DELETED) or not files.is_file(target):
        return False
    return _is_unwritable(target.removesuffix(DELETED), table)


def _may_hang(name: str, table: Sequence[places.Mounted]) -> bool:
    """Whether the server of a file, or of its directory, may be away: it is not asked."""
    mounts = (places.mount_of(path, table) for path in (name, os.path.dirname(name)))
    return any(m is not None and m.kind.startswith(files.SLOW_FILE_SYSTEMS) for m in mounts)


def _links(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the links of /proc to files that *pid* has in whatever way, and where they lead."""
    base = f"/proc/{pid}"
    try:
        names = [f"fd/{name}" for name in os.listdir(f"{base}/fd")]
        maps = Path(f"{base}/maps").read_bytes()
    except OSError:  # it has ended
        return
    for name in ("cwd", "root", *names):
        with contextlib.suppress(OSError):  # closed in between
            yield f"{base}/{name}", os.readlink(f"{base}/{name}")
    for addresses, name in mapped(maps):
        yield f"{base}/map_files/{addresses}", name


def mapped(maps: bytes) -> Iterator[tuple[str, str]]:
    """Yield addresses and name of the first mapping of each removed file in a ``maps``. Pure."""
    mark = os.fsencode(DELETED)
    if mark not in maps:
        return
    known = set()
    for line in maps.split(b"\n"):
        if line.endswith(mark) and len(fields := line.split(None, 5)) == 6:
            # The name of another file may be the same.
            key = fields[3], fields[4], fields[5]
            if key not in known:
                known.add(key)
                yield os.fsdecode(fields[0]), os.fsdecode(fields[5])


# Before a restore


def settle(image: Path, *, init_pid: int, is_again: bool) -> None:
    """Prepare the container of *init_pid* for what *image* has of removed files.

    *is_again*: CRIU has begun to restore it before. Raises FormatError, OSError.
    """
    ghosts = claims.ghosts(image)
    if not ghosts:
        return
    table = _table(init_pid)
    if _is_place(table):
        rename(image, ghosts, table)
    if is_again:
        _tidy(init_pid, _names(image), ghosts, table)


def rename(image: Path, ghosts: Mapping[int, int], table: Sequence[places.Mounted]) -> int:
    """Have what was removed on a read-only mount be made where the container can have it.

    Of *ghosts*, which the image has, with the container's mounts. Return of how many files that is
    another place. Raises FormatError, OSError.
    """
    names = _names(image)
    taken = set(names.values())
    # By the ghost: CRIU makes each once, and the names of it are links to that one.
    moved = {ghosts[i] for i, name in names.items() if i in ghosts and _is_unwritable(name, table)}
    new_names = {}
    for identity in sorted(names.keys() & ghosts.keys()):
        if ghosts[identity] in moved:
            new_names[identity] = _new_name(names[identity], taken)
            taken.add(new_names[identity])
    path = image / _FILES

    def change(entry: bytes) -> bytes | None:
        new = next((new_names[i] for i, _ in _regular(entry, path) if i in new_names), None)
        if new is None:
            return None
        return protobuf.replaced(entry, _NAME, lambda _: os.fsencode(new), path)

    return protobuf.rewrite(path, change) if new_names else 0


def _names(image: Path) -> dict[int, str]:
    path = image / _FILES
    return dict(found for entry in protobuf.entries(path) for found in _regular(entry, path))


def _new_name(old: str, taken: set[str]) -> str:
    base = os.fsdecode(os.fsencode(os.path.basename(old))[-_MAX_NAME_BYTES:])
    names = (f"{PLACE}/{_PREFIX}{number}-{base}" for number in itertools.count(1))
    return next(name for name in names if name not in taken)


def _regular(entry: bytes, path: Path) -> Iterator[tuple[int, str]]:
    """Yield id and path if *entry* is of a regular file, a directory or a FIFO."""
    for key, value in protobuf.fields(entry, path):
        if key >> 3 == _REG and isinstance(value, bytes):
            fields = {key >> 3: each for key, each in protobuf.fields(value, path)}
            identity, name = fields.get(_ID), fields.get(_NAME[-1])
            if isinstance(identity, int) and isinstance(name, bytes):
                yield identity, os.fsdecode(name)


def _is_unwritable(name: str, table: Sequence[places.Mounted]) -> bool:
    """Whether no file can be made under *name*.

    What counts is the mount of its directory: a file that is mounted itself (subPath) lies on its
    own mount, and its name in another one.
    """
    mount = places.mount_of(os.path.dirname(name), table)
    return mount is not None and mount.is_read_only


def _table(init_pid: int) -> list[places.Mounted]:
    return places.mounts(Path(f"/proc/{init_pid}/mountinfo").read_bytes())


def _is_place(table: Sequence[places.Mounted]) -> bool:
    """Whether files can be made in :data:`PLACE`, a file system of the container alone."""
    mount = places.mount_of(PLACE, table)
    return (
        mount is not None
        and (mount.point, mount.kind) == (PLACE, "tmpfs")
        and not mount.is_read_only
    )


def _tidy(
    init_pid: int,
    names: Mapping[int, str],
    ghosts: Mapping[int, int],
    table: Sequence[places.Mounted],
) -> None:
    """Remove what a CRIU that was killed in the middle of a restore has made.

    The next one would meet it, and give up.
    """
    root = os.open(f"/proc/{init_pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for identity in names.keys() & ghosts.keys():
            name = names[identity]
            for left in leftovers(name, ghosts[identity]):
                if not _may_hang(left, table) and not _may_hang(name, table):
                    with contextlib.suppress(OSError):  # mostly there is none
                        _remove(root, left, name)
    finally:
        os.close(root)


def leftovers(name: str, number: int) -> Iterator[str]:
    """Yield where CRIU may have made *name* again, the ghost *number* (files-reg.c). Pure.

    In a directory farther up where its own one is not there.
    """
    directory, base = os.path.split(name)
    while True:
        yield os.path.join(directory, f"{base}.cr.{number:x}.ghost")
        if directory in ("/", ""):
            break
        directory = os.path.dirname(directory)
    yield f"{name}.cr_link"


def _remove(root: int, left: str, name: str) -> None:
    """Remove *left*, and *name* if that is a link to the same file. Raises OSError."""
    directory, base = os.path.split(left)
    with _opened(root, directory) as at:
        status = os.lstat(base, dir_fd=at)
        with contextlib.suppress(OSError), _opened(root, os.path.dirname(name)) as beside:
            link = os.lstat(os.path.basename(name), dir_fd=beside)
            if (link.st_dev, link.st_ino) == (status.st_dev, status.st_ino):
                os.unlink(os.path.basename(name), dir_fd=beside)
        os.unlink(base, dir_fd=at)


@contextlib.contextmanager
def _opened(root: int, directory: str) -> Iterator[int]:
    """Open *directory* as a container with *root* sees it, over no links. Raises OSError."""
    name = os.fsencode(directory.strip("/")) or b"."
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
    fd = beneath.open_below(root, name, flags, resolve=beneath.RESOLVE & ~beneath.NO_XDEV)
    try:
        yield fd
    finally:
        os.close(fd)
