"""How each thing is broken, and mended where it only breaks for a while."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from architect.core.errors import ArchitectError
from architect.shim.keeper import processes
from faults import disk, wallclock
from faults.errors import FaultError
from faults.matrix import Step
from faults.node import DEADLINE_SECONDS
from faults.pod import PORT, Pod
from faults.steps import Scene
from kernel.packets.topology import POD

LASTING_SECONDS: Final = 2.0
"""How long what is mended again stays broken."""
UNWATCHED_SECONDS: Final = 0.5
"""Until somebody starts a keeper whose parent is gone, too."""
LEAST_MEMORY: Final = 8 << 20
DATAGRAMS: Final = 3000
CONNECTIONS: Final = 300

Breaker = Callable[[Scene], AbstractContextManager[None]]
"""Breaks on entry; the pod goes on inside; on exit it is mended, if it can be."""


def _once(act: Callable[[Scene], None]) -> Breaker:
    @contextmanager
    def breaker(scene: Scene) -> Iterator[None]:
        act(scene)
        yield

    return breaker


def kill(pid: int) -> None:
    """Kill *pid* and wait until it is gone, but for its parent to take notice."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while processes.is_alive(pid):
        if time.monotonic() > deadline:
            raise FaultError(f"process {pid} does not end by SIGKILL")
        time.sleep(0.002)


# Processes


@contextmanager
def _keeper(scene: Scene) -> Iterator[None]:
    kill(scene.keeper)
    yield
    _another_keeper(scene)


@contextmanager
def _warden(scene: Scene) -> Iterator[None]:
    kill(_parent(scene.keeper))
    yield


@contextmanager
def _keeper_and_warden(scene: Scene) -> Iterator[None]:
    # The parent first, or it would start another one.
    kill(_parent(scene.keeper))
    kill(scene.keeper)
    timer = threading.Timer(UNWATCHED_SECONDS, scene.pod.node.start_keeper)
    timer.start()
    yield
    timer.join()
    _another_keeper(scene)


def _another_keeper(scene: Scene) -> None:
    if scene.pod.node.keeper_pid() == scene.keeper:
        raise FaultError(f"keeper {scene.keeper} was killed and answers")


def _parent(pid: int) -> int:
    found = processes.parent(pid)
    if found is None:
        raise FaultError(f"process {pid} has no parent")
    return found


def _init(scene: Scene) -> None:
    kill(scene.pod.init())


def _inner_init(scene: Scene) -> None:
    if scene.step is Step.RESTORE:
        # CRIU's child as yet.
        root = processes.children(scene.pod.node.criu()["criu"])[0]
    else:
        root = scene.pod.root()
    os.kill(root, signal.SIGKILL)


def _runc(scene: Scene) -> None:
    container = scene.pod.container
    assert container is not None
    verb = str(scene.step)
    found = [
        pid
        for pid in processes.all_pids()
        if (words := processes.arguments(pid)) and container.id in words and verb in words
        if Path(words[0]).name == "runc"
    ]
    if not found:
        raise FaultError(f"no runc works on {container.id}")
    for pid in found:
        kill(pid)


def _of_criu(*parts: str) -> Breaker:
    def act(scene: Scene) -> None:
        found = scene.pod.node.criu()
        for part in parts:
            if part not in found:
                raise FaultError(f"no {part} of CRIU runs: {found}")
        for part in parts:
            kill(found[part])

    return _once(act)


# The disk


@contextmanager
def _disk_full(scene: Scene) -> Iterator[None]:
    with scene.pod.node.disk.full():
        yield
        time.sleep(LASTING_SECONDS)


@contextmanager
def _disk_read_only(scene: Scene) -> Iterator[None]:
    with scene.pod.node.disk.read_only():
        yield
        time.sleep(LASTING_SECONDS)


def _disk_broken(scene: Scene) -> None:
    scene.pod.node.disk.break_down()


@contextmanager
def _disk_stalled(scene: Scene) -> Iterator[None]:
    with scene.pod.node.disk.stalled(LASTING_SECONDS):
        yield


def _image(scene: Scene) -> Path:
    return scene.pod.images / "image"


def _image_cut(scene: Scene) -> None:
    disk.cut_in_half(_image(scene) / "pages-1.img")


def _image_damaged(scene: Scene) -> None:
    for file in _image(scene).glob("core-*.img"):
        disk.overwrite(file)


def _image_missing(scene: Scene) -> None:
    shutil.rmtree(_image(scene))


# What the container may have


@contextmanager
def _no_memory(scene: Scene) -> Iterator[None]:
    directory = scene.pod.cgroup("memory")
    file = directory / "memory.limit_in_bytes"
    unlimited = "-1"
    if not file.exists():
        file, unlimited = directory / "memory.max", "max"
    limit = LEAST_MEMORY
    while not _is_accepted(file, limit):
        limit += 4 << 20  # version 1 takes no limit below what cannot be taken away
    yield
    time.sleep(LASTING_SECONDS)
    with suppress(OSError):  # it may be gone with its container
        file.write_text(unlimited)


def _is_accepted(file: Path, limit: int) -> bool:
    try:
        file.write_text(str(limit))
    except OSError:
        return False
    return True


@contextmanager
def _no_pids(scene: Scene) -> Iterator[None]:
    directory = scene.pod.cgroup("pids")
    (directory / "pids.max").write_text((directory / "pids.current").read_text())
    yield
    time.sleep(LASTING_SECONDS)
    with suppress(OSError):  # it may be gone with its container
        (directory / "pids.max").write_text("max")


# Too much at once


@contextmanager
def _twice(scene: Scene) -> Iterator[None]:
    def ask(op: str) -> None:
        with suppress(ArchitectError):
            scene.pod.node.ask(
                op, pod=scene.pod.uid, patience_seconds=5.0, reason="test", force=True
            )

    threads = [threading.Thread(target=ask, args=(op,)) for op in ("sleep", "wake") * 4]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(2 * DEADLINE_SECONDS)
        if thread.is_alive():
            raise FaultError("a request of the keeper was never answered")


@contextmanager
def _flood(scene: Scene) -> Iterator[None]:
    failed: list[str] = []
    threads = [
        threading.Thread(target=_datagrams, args=(scene.pod,)),
        threading.Thread(target=_connections, args=(scene.pod, failed)),
    ]
    for thread in threads:
        thread.start()
    # So that they are there when the pod goes on.
    threads[0].join(DEADLINE_SECONDS)
    yield
    threads[1].join(2 * DEADLINE_SECONDS)
    if failed or threads[1].is_alive():
        raise FaultError(f"{len(failed)} of {CONNECTIONS} connections: {failed[:3]}")


def _datagrams(pod: Pod) -> None:
    with pod.topology.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(DATAGRAMS):
            with suppress(OSError):
                sock.sendto(b"%d" % number, (POD[4], PORT))


def _connections(pod: Pod, failed: list[str]) -> None:
    """Connect all of them at once; each must have its answer."""
    opened: list[socket.socket] = []
    try:
        for _ in range(CONNECTIONS):
            sock = pod.topology.client.open_socket(socket.AF_INET, socket.SOCK_STREAM)
            opened.append(sock)
            sock.setblocking(False)
            sock.connect_ex((POD[4], PORT))
        for number, sock in enumerate(opened):
            try:
                _answer(sock, b"echo %d\n" % number)
            except OSError as error:
                failed.append(f"{number}: {error!r}")
    finally:
        for sock in opened:
            sock.close()


def _answer(sock: socket.socket, request: bytes) -> None:
    sock.settimeout(DEADLINE_SECONDS)
    sock.sendall(request)  # which waits until it is connected
    heard = b""
    while not heard.endswith(b"\n"):
        data = sock.recv(4096)
        if not data:
            raise ConnectionError("it ended without an answer")
        heard += data


def _clock(seconds: float) -> Breaker:
    @contextmanager
    def breaker(_: Scene) -> Iterator[None]:
        with wallclock.off_by(seconds):
            yield
            time.sleep(LASTING_SECONDS)

    return breaker


@contextmanager
def _power(scene: Scene) -> Iterator[None]:
    node = scene.pod.node
    if scene.step is Step.ASLEEP:
        node.until_safe()
    node.disk.copy(node.directory / "after.img")
    node.cut_power()
    scene.is_without_power = True
    yield


BREAKERS: Final[dict[str, Breaker]] = {
    "keeper": _keeper,
    "warden": _warden,
    "keeper+warden": _keeper_and_warden,
    "init": _once(_init),
    "inner-init": _once(_inner_init),
    "runc": _once(_runc),
    "criu": _of_criu("criu"),
    "criu-server": _of_criu("server"),
    "criu-server+supervisor": _of_criu("server", "supervisor"),
    "disk-full": _disk_full,
    "disk-read-only": _disk_read_only,
    "disk-broken": _once(_disk_broken),
    "disk-stalled": _disk_stalled,
    "image-cut": _once(_image_cut),
    "image-damaged": _once(_image_damaged),
    "image-missing": _once(_image_missing),
    "no-memory": _no_memory,
    "no-pids": _no_pids,
    "twice": _twice,
    "flood": _flood,
    "power": _power,
    "clock-ahead": _clock(wallclock.DAY_SECONDS),
    "clock-back": _clock(-wallclock.DAY_SECONDS),
}
"""By the names of the matrix."""
