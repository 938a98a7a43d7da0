"""CRIU images without memory: written by hand, and changed as somebody who tampers would.

Numbers of fields are those of CRIU's ``images/*.proto``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from architect.shim.packets import protobuf
from architect.shim.packets.protobuf import BYTES, VARINT, Field

MAGICS = {
    "pstree": 0x50273030,
    "core": 0x55053847,
    "ids": 0x54432030,
    "inventory": 0x58313116,
    "seccomp": 0x64413049,
    "files": 0x56303138,
}
COMMON = 0x54564319

CORE_OWN, CORE_THREAD, THREAD_CREDENTIALS = 3, 5, 10
SECCOMP_MODE, SECCOMP_FILTER = 11, 12
INHERITABLE, PERMITTED, EFFECTIVE, BOUNDING, AMBIENT = 9, 10, 11, 12, 19


def number(field: int, value: int) -> Field:
    return field << 3 | VARINT, value


def data(field: int, value: bytes) -> Field:
    return field << 3 | BYTES, value


def put(path: Path, *entries: bytes) -> None:
    """Write an image file of *entries*."""
    magic = MAGICS.get(path.name.split("-")[0].removesuffix(".img"), 0)
    framed = b"".join(struct.pack("=I", len(entry)) + entry for entry in entries)
    common = b"" if path.name == "inventory.img" else struct.pack("=I", COMMON)
    path.write_bytes(common + struct.pack("=I", magic) + framed)


def mask(field: int, value: int) -> list[Field]:
    return [number(field, value & 0xFFFFFFFF), number(field, value >> 32)]


def credentials(
    *,
    user: int = 0,
    group: int | None = None,
    supplementary: Sequence[int] = (),
    capabilities: int = 0,
    bounding: int | None = None,
    ambient: int = 0,
    inheritable: int = 0,
    securebits: int = 0,
    no_new_privileges: bool = False,
    profile: str = "",
) -> bytes:
    """Return a creds_entry; *capabilities* are those permitted and effective."""
    group = user if group is None else group
    fields = [number(at, (user, group)[at % 2 == 0]) for at in range(1, 9)]
    fields += mask(INHERITABLE, inheritable)
    fields += mask(PERMITTED, capabilities) + mask(EFFECTIVE, capabilities)
    fields += mask(BOUNDING, capabilities if bounding is None else bounding)
    fields += [number(13, securebits), *(number(14, each) for each in supplementary)]
    if profile:
        fields.append(data(15, profile.encode()))
    if no_new_privileges:
        fields.append(number(18, 1))
    return protobuf.message([*fields, *mask(AMBIENT, ambient)])


def core(
    creds: bytes | None, *, mode: int = 0, filter_: int | None = None, state: int = 1
) -> bytes:
    """Return the core_entry of a leader or of another thread."""
    own = [number(1, state), number(2, 0), number(3, 0), number(4, 0), number(5, 0)]
    thread = [number(1, 0), number(2, 24)]
    if creds is not None:
        thread.append(data(THREAD_CREDENTIALS, creds))
    if mode:
        thread.append(number(SECCOMP_MODE, mode))
    if filter_ is not None:
        thread.append(number(SECCOMP_FILTER, filter_))
    fields = [number(1, 1), data(CORE_OWN, protobuf.message([*own, data(6, b"app")]))]
    if state != 2:
        fields.append(data(CORE_THREAD, protobuf.message(thread)))
    return protobuf.message(fields)


def ids(**namespaces: int) -> bytes:
    """Return a task_kobj_ids_entry."""
    numbers = {"pid": 5, "network": 6, "ipc": 7, "uts": 8, "mount": 9, "user": 10}
    fields = [number(at, at) for at in range(1, 5)]
    return protobuf.message(
        [*fields, *(number(at, namespaces.get(name, at)) for name, at in numbers.items())]
    )


def regular(path: str, *, flags: int = 0, identity: int = 1) -> bytes:
    """Return a file_entry of a file with a path."""
    body = [number(1, identity), number(2, flags), number(3, 0)]
    body.append(data(6, os.fsencode(path)))
    return protobuf.message([number(1, 1), number(2, identity), data(3, protobuf.message(body))])


def unix(name: bytes, *, within: str = "") -> bytes:
    """Return a file_entry of a UNIX socket that is bound to *name*."""
    body = [number(1, 7), data(11, name)]
    if within:
        body.append(data(14, within.encode()))
    return protobuf.message([number(1, 5), number(2, 7), data(16, protobuf.message(body))])


def inet(kind: int) -> bytes:
    """Return a file_entry of an IP socket: SOCK_STREAM is 1, SOCK_RAW is 3."""
    body = protobuf.message([number(1, 9), number(4, kind)])
    return protobuf.message([number(1, 4), number(2, 9), data(4, body)])


def seccomp(*filters: tuple[bytes, int | None, int]) -> bytes:
    """Return a seccomp_entry of programs, each with its previous one and its flags."""
    made = []
    for program, previous, flags in filters:
        fields = [data(1, program)]
        if previous is not None:
            fields.append(number(2, previous))
        made.append(data(1, protobuf.message([*fields, number(3, flags)])))
    return protobuf.message(made)


def write(image: Path, *processes: Sequence[bytes], files: Sequence[bytes] = ()) -> Path:
    """Write an image of *processes*, each the cores of its threads; pids count from 2."""
    pid, entries = 2, []
    for threads in processes:
        tids = range(pid, pid + len(threads))
        for tid, thread in zip(tids, threads, strict=True):
            put(image / f"core-{tid}.img", thread)
        parent = 0 if pid == 2 else 2
        fields = [number(1, pid), number(2, parent), number(3, pid), number(4, 2)]
        entries.append(protobuf.message([*fields, *(number(5, tid) for tid in tids)]))
        put(image / f"ids-{pid}.img", ids(ipc=70))
        pid += len(threads)
    put(image / "pstree.img", *entries)
    put(image / "inventory.img", protobuf.message([number(1, 2), data(3, ids())]))
    put(image / "files.img", *(files or [regular("/usr/bin/app")]))
    return image


Change = Callable[[list[Field]], list[Field]]


def changed(message: bytes, *path: int, by: Change) -> bytes:
    """Return *message* with the fields of the message at *path* in it put through *by*."""
    fields = list(protobuf.fields(message, Path("changed")))
    if not path:
        return protobuf.message(by(fields))
    return protobuf.message(
        (key, changed(value, *path[1:], by=by) if key >> 3 == path[0] else value)
        if isinstance(value, bytes)
        else (key, value)
        for key, value in fields
    )


def tamper(image: Path, by: Change, *path: int, name: str = "core-*.img") -> None:
    """Put the messages at *path* in the first entry of each file *name* of *image* through *by*."""
    for file in sorted(image.glob(name)):
        (first, *others) = protobuf.entries(file)
        put(file, changed(first, *path, by=by), *others)


def with_capability(bit: int) -> Change:
    """Return what adds a capability to every set of a creds_entry."""

    def change(fields: list[Field]) -> list[Field]:
        done: list[Field] = []
        words: dict[int, int] = {}
        for key, value in fields:
            at = words[key >> 3] = words.get(key >> 3, -1) + 1
            has_it = key >> 3 in (PERMITTED, EFFECTIVE, BOUNDING) and at == bit // 32
            assert isinstance(value, int) or not has_it
            done.append((key, value | 1 << bit % 32 if has_it else value))  # type: ignore[operator]
        return done

    return change


def without(*numbers: int) -> Change:
    """Return what takes fields away."""
    return lambda fields: [field for field in fields if field[0] >> 3 not in numbers]
