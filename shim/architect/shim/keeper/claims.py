"""What the processes in a CRIU image claim to be, and what it names outside of itself.

Numbers of fields are those of CRIU's ``images/*.proto``. The image may be a stranger's, so it is
read as CRIU reads it or not at all: what a C parser would take otherwise (a field that is there
twice, of which it merges both; a number that it cuts to 32 bits; a name that it ends at a NUL) is a
FormatError. No page of memory is read.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from architect.core.errors import FormatError
from architect.shim.packets import protobuf

MOST_THREADS: Final = 1 << 16
"""More than a pod may have (the kernel's pid_max of small machines, kubelet's podPidsLimit)."""
MOST_FILTER_BYTES: Final = 64 << 20
"""Of seccomp.img, in which each process has all of its filters (up to 32 KiB each)."""
MOST_FILTERS: Final = 1 << 16

_WORD: Final = 1 << 32

DEAD: Final = 2
"""COMPEL_TASK_DEAD: a zombie, of which nothing but its end is restored."""

FILTER: Final = 2
"""SECCOMP_MODE_FILTER of <linux/seccomp.h>."""
THREAD_SYNC: Final = 1
"""SECCOMP_FILTER_FLAG_TSYNC: the leader's filter becomes that of all its threads."""

NAMESPACES: Final = {5: "pid", 6: "network", 7: "ipc", 8: "uts", 9: "mount", 10: "user"}
"""Fields of task_kobj_ids_entry, and their names in config.json. The cgroup namespace is not
restored (``--manage-cgroups=ignore``); the time namespace is the tree's own since its first
restore."""

_INVENTORY: Final = struct.pack("=I", 0x58313116)
"""INVENTORY_MAGIC of CRIU's magic.h: of this file alone it is the only one."""
_REG: Final = 1
_UNIX: Final = 5
_PACKET: Final = 10
_RAW: Final = 3
"""SOCK_RAW"""
_INET: Final = 4
_LINK_ITSELF: Final = os.O_PATH | os.O_NOFOLLOW
_GHOST: Final = 1
"""remap_type"""
_OLD_GHOST: Final = 1 << 31
"""REMAP_GHOST of CRIU's image.h, where no remap_type is said."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """creds_entry. Sets of capabilities are masks."""

    users: tuple[int, int, int, int]
    """Real, effective, saved, and of the file system."""
    groups: tuple[int, int, int, int]
    supplementary: frozenset[int] = frozenset()
    inheritable: int = 0
    permitted: int = 0
    effective: int = 0
    bounding: int = 0
    ambient: int = 0
    securebits: int = 0
    no_new_privileges: bool = False
    profile: str = ""
    """Of AppArmor or SELinux; empty: unconfined."""


@dataclass(frozen=True, kw_only=True)
class Thread:
    """One thread of a process that is restored alive."""

    pid: int
    name: str
    credentials: Credentials | None
    seccomp_mode: int = 0
    filter: int | None = None
    """Which of :attr:`Claims.filters` is its newest."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One process; the first thread is its leader."""

    threads: tuple[Thread, ...]
    """None of a zombie."""
    namespaces: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Filter:
    """One seccomp program."""

    program: bytes
    flags: int = 0
    previous: int | None = None


@dataclass(frozen=True, kw_only=True)
class File:
    """What CRIU opens by its path."""

    path: str
    is_link_itself: bool = False
    """It is opened as a symbolic link, and not what that leads to (``O_PATH | O_NOFOLLOW``)."""
    is_socket: bool = False
    """A socket is bound there: the name is what the application chose."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What an image asks for."""

    tasks: tuple[Task, ...]
    """The first one is the tree's root."""
    outside: Mapping[str, int] = field(default_factory=dict)
    """The namespaces of the CRIU that wrote it: what differs is made anew."""
    filters: tuple[Filter, ...] = ()
    files: tuple[File, ...] = ()
    raw_sockets: int = 0
    """Packet sockets and raw ones."""
    has_profiles: bool = False
    """It brings policy of AppArmor, to be loaded into the kernel."""


def read(image: Path) -> Claims:
    """Return what *image* claims. Raises FormatError, OSError."""
    tasks = []
    threads = 0
    for entry in _entries(image / "pstree.img"):
        found = _Message(entry, image / "pstree.img")
        pid, tids = found.number(1), found.numbers(5)
        threads += len(tids) or 1
        if threads > MOST_THREADS:
            raise FormatError(f"{image}: more than {MOST_THREADS} threads")
        tasks.append((found.number(2) == 0, _task(image, pid, tids)))
    if not tasks:
        raise FormatError(f"{image / 'pstree.img'}: no process")
    tasks.sort(key=lambda task: not task[0])
    files, raw_sockets = _files(image)
    return Claims(
        tasks=tuple(task for _, task in tasks),
        outside=_outside(image),
        filters=_filters(image),
        files=files,
        raw_sockets=raw_sockets,
        has_profiles=_has_entries(image / "apparmor.img"),
    )


def ghosts(image: Path) -> dict[int, int]:
    """Return which files had no name any more, by id: the numbers of what the image has of them.

    Raises FormatError, OSError.
    """
    path = image / "remap-fpath.img"
    if not _has_entries(path):
        return {}
    found = {}
    for data in _entries(path):
        entry = _Message(data, path)
        number = entry.number(2)
        is_ghost = entry.number(3) == _GHOST if 3 in entry else bool(number & _OLD_GHOST)
        if is_ghost:
            found[entry.number(1)] = number if 3 in entry else number & ~_OLD_GHOST
    return found


class _Message:
    """The fields of a message, of which one that is read must be unambiguous."""

    def __init__(self, data: bytes, path: Path) -> None:
        self._path = path
        self._values: dict[int, list[protobuf.Field]] = {}
        for key, value in protobuf.fields(data, path):
            if key >= _WORD:
                raise FormatError(f"{path}: {key} is no field")
            self._values.setdefault(key >> 3, []).append((key & 7, value))

    def __contains__(self, number: int) -> bool:
        return number in self._values

    def numbers(self, number: int) -> list[int]:
        """Return the values of a repeated field, packed or not."""
        found: list[int] = []
        for _, value in self._values.get(number, ()):
            found += [value] if isinstance(value, int) else protobuf.unpacked(value, self._path)
        return [self._word(value) for value in found]

    def number(self, number: int, default: int | None = None) -> int:
        value = self._only(number, protobuf.VARINT, default)
        if not isinstance(value, int):
            raise FormatError(f"{self._path}: field {number} is missing")
        return self._word(value)

    def data(self, number: int, default: bytes | None = None) -> bytes:
        value = self._only(number, protobuf.BYTES, default)
        if not isinstance(value, bytes):
            raise FormatError(f"{self._path}: field {number} is missing")
        return value

    def text(self, number: int, default: bytes | None = None) -> str:
        value = self.data(number, default)
        if b"\0" in value:
            raise FormatError(f"{self._path}: field {number} has a NUL")
        return value.decode(errors="surrogateescape")

    def all_data(self, number: int) -> Iterator[bytes]:
        """Yield the values of a repeated field."""
        for kind, value in self._values.get(number, ()):
            if kind != protobuf.BYTES or not isinstance(value, bytes):
                raise FormatError(f"{self._path}: field {number} is of another kind")
            yield value

    def _only(self, number: int, kind: int, default: int | bytes | None) -> int | bytes | None:
        found = self._values.get(number)
        if found is None:
            return default
        if len(found) > 1:
            raise FormatError(f"{self._path}: field {number} is there {len(found)} times")
        if found[0][0] != kind:
            raise FormatError(f"{self._path}: field {number} is of another kind")
        return found[0][1]

    def _word(self, value: int) -> int:
        if value >= _WORD:
            raise FormatError(f"{self._path}: {value} has more than 32 bits")
        return value


def _entries(path: Path, *, most_bytes: int = protobuf.MAX_ENTRY_BYTES) -> Iterator[bytes]:
    try:
        yield from protobuf.entries(path, most_bytes=most_bytes)
    except FileNotFoundError as error:
        raise FormatError(f"{path}: not in the image") from error


def _first(path: Path) -> bytes:
    """Return the only entry of a file: CRIU reads no other one."""
    for entry in _entries(path):
        return entry
    raise FormatError(f"{path}: is empty")


def _has_entries(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        return len(file.read(protobuf.MAGICS_BYTES + 1)) > protobuf.MAGICS_BYTES
    return False


def _task(image: Path, pid: int, tids: list[int]) -> Task:
    path = image / f"core-{pid}.img"
    core = _Message(_first(path), path)
    if 4 in core:
        raise FormatError(f"{path}: namespaces where CRIU writes none any more")
    own = _Message(core.data(3), path)
    if 11 in own or 12 in own:
        # Deprecated, and where it is there it counts instead of the thread's.
        raise FormatError(f"{path}: seccomp mode where CRIU writes none any more")
    threads: list[Thread] = []
    if own.number(1) != DEAD:
        name = own.text(6)
        for tid in [pid, *(tid for tid in tids if tid != pid)]:
            path = image / f"core-{tid}.img"
            threads.append(_thread(tid, _Message(_first(path), path), path, name=name))
    ids = image / f"ids-{pid}.img"
    namespaces = _namespaces(_first(ids), ids) if _has_entries(ids) else None
    return Task(threads=tuple(threads), namespaces=namespaces)


def _thread(pid: int, core: _Message, path: Path, *, name: str) -> Thread:
    own = _Message(core.data(5), path)
    return Thread(
        pid=pid,
        name=own.text(13, name.encode(errors="surrogateescape")) or name,
        credentials=_credentials(own.data(10), path) if 10 in own else None,
        seccomp_mode=own.number(11, 0),
        filter=own.number(12) if 12 in own else None,
    )


def _credentials(data: bytes, path: Path) -> Credentials:
    found = _Message(data, path)

    def mask(number: int) -> int:
        return sum(word << 32 * at for at, word in enumerate(found.numbers(number)))

    return Credentials(
        users=(found.number(1), found.number(3), found.number(5), found.number(7)),
        groups=(found.number(2), found.number(4), found.number(6), found.number(8)),
        supplementary=frozenset(found.numbers(14)),
        inheritable=mask(9),
        permitted=mask(10),
        effective=mask(11),
        bounding=mask(12),
        ambient=mask(19),
        securebits=found.number(13),
        no_new_privileges=bool(found.number(18, 0)),
        profile=found.text(15, b""),
    )


def _namespaces(data: bytes, path: Path) -> dict[str, int]:
    found = _Message(data, path)
    return {name: found.number(number, 0) for number, name in NAMESPACES.items()}


def _outside(image: Path) -> dict[str, int]:
    path = image / "inventory.img"
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            entry = next(protobuf.framed(file, path), b"")
    except FileNotFoundError as error:
        raise FormatError(f"{path}: not in the image") from error
    if magic != _INVENTORY:
        raise FormatError(f"{path}: not CRIU's inventory")
    return _namespaces(_Message(entry, path).data(3), path)


def _filters(image: Path) -> tuple[Filter, ...]:
    path = image / "seccomp.img"
    if not _has_entries(path):
        return ()
    found: list[Filter] = []
    entry = next(_entries(path, most_bytes=MOST_FILTER_BYTES))
    for data in _Message(entry, path).all_data(1):
        each = _Message(data, path)
        if len(found) == MOST_FILTERS:
            raise FormatError(f"{path}: more than {MOST_FILTERS} filters")
        found.append(
            Filter(
                program=each.data(1),
                flags=each.number(3, 0),
                previous=each.number(2) if 2 in each else None,
            )
        )
    return tuple(found)


def _files(image: Path) -> tuple[tuple[File, ...], int]:
    path = image / "files.img"
    links = _ghost_links(image)
    found: list[File] = []
    raw_sockets, entries = 0, 0
    for data in _entries(path):
        entries += 1
        entry = _Message(data, path)
        kind = entry.number(1)
        if kind == _REG:
            found.append(_regular(_Message(entry.data(3), path), links, path))
        elif kind == _UNIX and (socket := _bound(_Message(entry.data(16), path))):
            found.append(socket)
        elif kind == _PACKET:
            raw_sockets += 1
        elif kind == _INET:
            inet = _Message(entry.data(4), path)
            raw_sockets += inet.number(4) == _RAW
    if not entries:
        # CRIU would take what earlier versions wrote in its place.
        raise FormatError(f"{path}: no file")
    return tuple(found), raw_sockets


def _regular(found: _Message, links: frozenset[int], path: Path) -> File:
    name, flags = found.text(6), found.number(2)
    is_link_itself = flags & _LINK_ITSELF == _LINK_ITSELF
    if found.number(1) in links and not is_link_itself:
        raise FormatError(f"{path}: {name!r:.200} is opened through a link that comes with it")
    return File(path=name, is_link_itself=is_link_itself)


def _bound(found: _Message) -> File | None:
    name = found.data(11)
    if not name or name.startswith(b"\0"):
        return None
    # The kernel ends a path there.
    path = name.partition(b"\0")[0].decode(errors="surrogateescape")
    within = found.text(14, b"")
    return File(path=f"{within}/{path}" if within else path, is_socket=True)


def _ghost_links(image: Path) -> frozenset[int]:
    """Return which files are symbolic links that have no name any more, and come with the image."""
    found = set()
    for file, number in ghosts(image).items():
        ghost = image / f"ghost-file-{number:x}.img"
        if _has_entries(ghost) and stat.S_ISLNK(_Message(_first(ghost), ghost).number(3)):
            found.add(file)
    return frozenset(found)
