"""SysV semaphores, message queues and shared memory that nobody is attached to, through a sleep."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.shim.keeper import sysvipc, sysvshm
from support.runtime import IDLE, SYSTEM_PYTHON, Container, Host, python, spec

PROGRAM = """
import ctypes, json, os, struct, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p

def made(identity):
    assert identity >= 0, os.strerror(ctypes.get_errno())
    return identity

semaphores = made(libc.semget(5, 2, 0o1600))
assert libc.semctl(semaphores, 0, 16, 7) == 0
# Two more that the kernel takes back at the end of the process, and did when it was dumped.
assert libc.semop(semaphores, struct.pack('Hhh', 1, 2, 0x1000), 1) == 0
queue = made(libc.msgget(6, 0o1600))
assert libc.msgsnd(queue, struct.pack('l', 3) + b'hello', 5, 0) == 0
segment = made(libc.shmget(7, 4096, 0o1600))
address = libc.shmat(segment, None, 0)
ctypes.memmove(address, b'kept', 4)
assert libc.shmdt(ctypes.c_void_p(address)) == 0
print('ready', flush=True)
while not os.path.exists('/tmp/look'):
    time.sleep(0.01)
message = ctypes.create_string_buffer(64)
length = libc.msgrcv(queue, message, 56, 3, 0o4000)
print(json.dumps({
    'semaphores': [libc.semctl(semaphores, n, 12) for n in (0, 1)],
    'message': message.raw[8:8 + max(length, 0)].decode(),
    'segment': ctypes.string_at(libc.shmat(segment, None, 0), 4).decode(),
    'ids': [libc.semget(5, 0, 0) == semaphores, libc.msgget(6, 0) == queue],
}), flush=True)
time.sleep(1000)
"""


def test_they_are_there_after_each_wake(node: Host, run: Callable[..., Container]) -> None:
    container = run(spec(python(PROGRAM), annotations=IDLE))
    container.until("ready")
    for _ in range(2):
        node.runtime("sleep", container.id)
        node.runtime("wake", container.id)
    assert container.exec("touch", "/tmp/look") == 0
    container.until("}")
    assert json.loads(container.output().splitlines()[1]) == {
        "semaphores": [7, 2],
        "message": "hello",
        "segment": "kept",
        "ids": [True, True],
    }


HOLDER = """
import ctypes, sys
libc = ctypes.CDLL(None)
for made in (libc.semget(5, 1, 0o1600), libc.msgget(6, 0o1600), libc.shmget(7, 4096, 0o1600)):
    assert made >= 0
print('ready', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[int]:
    """A process in an IPC namespace of its own, with one object of each kind."""
    words = ["unshare", "--ipc", SYSTEM_PYTHON, "-c", HOLDER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.terminate()


def kinds(pid: int) -> set[str]:
    """Return which objects are there in the namespace of *pid*."""
    words = ["nsenter", "--ipc", "--target", str(pid), "cat"]
    files = {kind: f"/proc/sysvipc/{kind}" for kind in ("sem", "msg", "shm")}
    return {
        kind
        for kind, path in files.items()
        if len(subprocess.check_output([*words, path]).splitlines()) > 1
    }


def image_of(directory: Path, *saved: str) -> Path:
    for kind in saved:
        (directory / f"ipcns-{kind}-9.img").touch()
    return directory


def test_what_is_saved_gives_way_and_nothing_else(holder: int, tmp_path: Path) -> None:
    sysvipc.make_way(holder, image_of(tmp_path, "sem", "shm"), has_company=False)
    assert kinds(holder) == {"msg"}


def test_what_another_container_uses_stays_and_is_not_made_again(
    holder: int, tmp_path: Path
) -> None:
    image = image_of(tmp_path, "sem", "msg", "shm")
    sysvipc.make_way(holder, image, has_company=True)
    assert kinds(holder) == {"sem", "msg"}
    assert [path.name for path in image.iterdir()] == ["ipcns-shm-9.img"]


def test_the_nodes_own_objects_are_not_touched(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    own = libc.shmget(0, 4096, 0o600)
    try:
        image = image_of(tmp_path, "sem", "msg", "shm")
        sysvipc.make_way(os.getpid(), image, has_company=False)
        listed = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        assert own in [int(line.split()[1]) for line in listed]
    finally:
        libc.shmctl(own, sysvshm.IPC_RMID, None)
