"""A process that has files of every kind open in one directory, and says whether it still has them.

    python3 openfiles.py DIRECTORY

Ten times a second it uses each of them and prints a JSON line: a counter, and for each kind whether
all is as it was.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import select
import socket
import sys
import time
from pathlib import Path

IN_CREATE = 0x100  # <sys/inotify.h>
PAGE = mmap.PAGESIZE
SECONDS = 10

HERE = Path(sys.argv[1])
os.chdir(HERE)


def opened(name: str, *, size: int = 0, flags: int = 0) -> int:
    fd = os.open(name, os.O_RDWR | os.O_CREAT | flags)
    if size:
        os.ftruncate(fd, size)
    return fd


Path("watched").mkdir()
Path("cwd").mkdir()
os.chdir("cwd")

journal = opened("../journal", flags=os.O_APPEND)
shared = mmap.mmap(opened("../shared", size=2 * PAGE), 2 * PAGE)
private = mmap.mmap(opened("../private", size=PAGE), PAGE, flags=mmap.MAP_PRIVATE)
private[:4] = b"mine"
flocked = opened("../flocked")
fcntl.flock(flocked, fcntl.LOCK_EX)
locked = opened("../locked")
fcntl.lockf(locked, fcntl.LOCK_EX)
deleted = opened("../deleted")
os.write(deleted, b"still here")
os.unlink("../deleted")
renamed = opened("../one-name")
os.link("../one-name", "../another-name")
os.unlink("../one-name")
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
libc.inotify_add_watch(watch, b"../watched", IN_CREATE)
os.mkfifo("../fifo")
fifo = opened("../fifo")
os.write(fifo, b"w")
listener = socket.socket(socket.AF_UNIX)
listener.bind(str(HERE / "socket"))
listener.listen()


def is_appended(count: int) -> bool:
    os.write(journal, f"{count}\n".encode())
    return (HERE / "journal").read_text() == "".join(f"{n + 1}\n" for n in range(count))


def is_mapped(count: int) -> bool:
    shared[PAGE : PAGE + 8] = count.to_bytes(8, "little")
    return (HERE / "shared").read_bytes()[PAGE : PAGE + 8] == count.to_bytes(8, "little")


def is_private() -> bool:
    return private[:4] == b"mine" and (HERE / "private").read_bytes() == bytes(PAGE)


def is_flocked() -> bool:
    fd = opened("../flocked")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def is_locked() -> bool:
    """Ask in another process: one's own locks are no obstacle."""
    child = os.fork()
    if child == 0:
        try:
            fcntl.lockf(opened("../locked"), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def is_watched(count: int) -> bool:
    (HERE / "watched" / str(count)).touch()
    ready, _, _ = select.select([watch], [], [], SECONDS)
    return bool(ready) and str(count).encode() in os.read(watch, 4096)


def is_queued() -> bool:
    found = os.read(fifo, 1)
    os.write(fifo, found)
    return found == b"w"


def is_bound() -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(HERE / "socket"))
        listener.accept()[0].close()
    return True


count = 0
while True:
    count += 1
    told = {
        "appended": is_appended(count),
        "shared mapping": is_mapped(count),
        "private mapping": is_private(),
        "flock": is_flocked(),
        "lock": is_locked(),
        "deleted": os.pread(deleted, 100, 0) == b"still here",
        "other name": os.path.samestat(os.fstat(renamed), os.stat("../another-name")),
        "watch": is_watched(count),
        "working directory": os.getcwd() == str(HERE / "cwd"),
        "fifo": is_queued(),
        "socket": is_bound(),
    }
    print(json.dumps({"count": count, **told}), flush=True)
    time.sleep(0.1)
