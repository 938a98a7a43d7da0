"""What a process can have that is hard to save. Each function returns one that looks at it."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

State = Callable[[], object]

CREATED, MODIFIED = 0x100, 0x2  # of <sys/inotify.h>


def threads(number: str) -> State:
    """Keep *number* threads, each with a secret on its own stack that only it can tell."""
    ask, told = [threading.Event() for _ in range(int(number))], [""] * int(number)
    have_told = threading.Semaphore(0)

    def live(at: int) -> None:
        mine = secrets.token_hex(8)
        while ask[at].wait():
            ask[at].clear()
            told[at] = mine
            have_told.release()

    for at in range(int(number)):
        threading.Thread(target=live, args=(at,), daemon=True).start()

    def state() -> object:
        for event in ask:
            event.set()
        for _ in ask:
            if not have_told.acquire(timeout=60):
                return "a thread does not answer"
        return [len(told), hashlib.sha256("".join(told).encode()).hexdigest()]

    return state


def memory(mebibytes: str) -> State:
    """Hold *mebibytes* in which no two pages are alike."""
    size = int(mebibytes) << 20
    held = mmap.mmap(-1, size)
    block = bytearray(os.urandom(1 << 20))
    for start in range(0, size, len(block)):
        for page in range(0, len(block), mmap.PAGESIZE):
            struct.pack_into("<Q", block, page, start + page)
        held[start : start + len(block)] = bytes(block)

    def state() -> object:
        found = 0
        view = memoryview(held)
        for start in range(0, size, 1 << 20):
            found = zlib.crc32(view[start : start + (1 << 20)], found)
        return [size, found]

    return state


def files(directory: str) -> State:
    """Hold locks of three kinds, and deleted files: one is mapped, one has a name left."""
    here = Path(directory)
    here.mkdir(exist_ok=True)
    flock, posix, own = (os.open(here / n, os.O_RDWR | os.O_CREAT) for n in ("f", "p", "o"))
    fcntl.flock(flock, fcntl.LOCK_EX)
    fcntl.lockf(posix, fcntl.LOCK_EX, 100, 10)
    fcntl.fcntl(own, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
    deleted = os.open(here / "deleted", os.O_RDWR | os.O_CREAT)
    os.write(deleted, b"deleted and still here")
    mapped = os.open(here / "mapped", os.O_RDWR | os.O_CREAT)
    os.truncate(mapped, 1 << 20)
    view = mmap.mmap(mapped, 1 << 20)
    view[:6] = b"mapped"
    renamed = os.open(here / "first-name", os.O_RDWR | os.O_CREAT)
    os.write(renamed, b"by another name")
    os.link(here / "first-name", here / "second-name")
    for name in ("deleted", "mapped", "first-name"):
        os.unlink(here / name)

    def state() -> object:
        # Another process sees them, or not: one's own locks are in nobody's own way.
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            said = "".join(
                "-+"[_is_locked(here / name, how)]
                for name, how in (("f", "flock"), ("p", "posix"), ("o", "ofd"))
            )
            os.write(write, said.encode())
            os._exit(0)
        os.waitpid(child, 0)
        locked = os.read(read, 10).decode()
        os.close(read)
        os.close(write)
        return [
            locked,
            os.pread(deleted, 100, 0).decode(),
            os.fstat(deleted).st_nlink,
            view[:6].decode(),
            os.pread(mapped, 6, 0).decode(),
            os.pread(renamed, 100, 0).decode(),
            os.fstat(renamed).st_ino == os.stat(here / "second-name").st_ino,
            sorted(path.name for path in here.iterdir() if not path.name.startswith(".")),
        ]

    return state


def _lock(kind: int) -> bytes:
    """Return a ``struct flock`` for bytes 0 to 9 on 64-bit Linux."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 10, 0)


def _is_locked(path: Path, how: str) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    if how == "flock":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
    if how == "posix":
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 10)
        except OSError:
            return True
        return False
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK))
    return bool(struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK)


def watches(*directories: str) -> State:
    """Watch directories and a file in each, as programs do that reload their configuration."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    watched = [Path(directory) for directory in directories]
    numbers = []
    for here in watched:
        here.mkdir(exist_ok=True)
        (here / "settings").write_text("a = 1\n")
        for path in (here, here / "settings"):
            number = libc.inotify_add_watch(descriptor, os.fsencode(path), CREATED | MODIFIED)
            numbers.append(number)

    def state() -> object:
        # What waits from before is read first.
        _read_all(descriptor)
        for here in watched:
            (here / "probe").touch()
            (here / "probe").unlink()
            with (here / "settings").open("a") as stream:
                stream.write("b = 2\n")
        return [numbers, _read_all(descriptor)]

    return state


def big_deleted_file(path: str, mebibytes: str) -> State:
    """Hold a deleted file that has *mebibytes*."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    for _ in range(int(mebibytes)):
        os.write(descriptor, os.urandom(1 << 20))
    os.unlink(path)
    return lambda: [os.fstat(descriptor).st_size, os.fstat(descriptor).st_nlink]


def _read_all(descriptor: int) -> list[list[object]]:
    found: list[list[object]] = []
    try:
        data = os.read(descriptor, 65536)
    except BlockingIOError:
        return found
    while data:
        number, mask, _, length = struct.unpack_from("iIII", data)
        name = data[16 : 16 + length].rstrip(b"\0").decode()
        found.append([number, mask, name])
        data = data[16 + length :]
    return found


KINDS: dict[str, Callable[..., State]] = {
    "threads": threads,
    "memory": memory,
    "files": files,
    "watches": watches,
    "big-deleted-file": big_deleted_file,
}
