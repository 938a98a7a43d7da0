"""How each thing of a cluster is broken, and mended where it only breaks for a while."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from architect.shim.keeper import processes
from faults import leaks
from faults.cluster.place import Place
from faults.cluster.pod import Life
from faults.errors import FaultError
from lab import release
from lab.node import Node
from support import parts
from support.workloads import eventually

AWAY_SECONDS: Final = 4.0
"""How long the API server is away."""


@contextmanager
def _killed(pids: Sequence[int]) -> Iterator[None]:
    if not pids:
        raise FaultError("it does not run")
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def _daemon(life: Life | None, place: Place) -> Iterator[None]:
    with _killed(_in_node(place.node, "architect.daemon")):
        yield
        _replaced(place, "daemon")


@contextmanager
def _operator(life: Life | None, place: Place) -> Iterator[None]:
    pids = [pid for n in place.cluster.nodes for pid in _in_node(n, "architect.operator")]
    with _killed(pids):
        yield
        _replaced(place, "operator")


def _replaced(place: Place, component: str) -> None:
    """Have new pods of *component*: kubelet restarts what is killed often later each time."""
    words = ("delete", "pods", "-l", f"{parts.COMPONENT}={component}", "--wait=false")
    place.cluster.kubectl("-n", release.NAMESPACE, *words)
    parts.wait_until_ready(place.cluster)


def _containerd(life: Life | None, place: Place) -> AbstractContextManager[None]:
    return _killed(_in_node(place.node, "/usr/bin/containerd", is_program=True))


def _kubelet(life: Life | None, place: Place) -> AbstractContextManager[None]:
    return _killed(_in_node(place.node, "kubelet", is_program=True))


def _shim(life: Life | None, place: Place) -> AbstractContextManager[None]:
    if life is None:
        # The pod that is being made: the youngest.
        shims = _in_node(place.node, "containerd-shim-runc-v2", is_program=True)
        return _killed(sorted(shims, key=_started)[-1:])
    return _killed(
        [
            pid
            for pid in _in_node(place.node, "containerd-shim-runc-v2", is_program=True)
            if life.sandbox in processes.arguments(pid)
        ]
    )


@contextmanager
def _api_server(life: Life | None, place: Place) -> Iterator[None]:
    place.cluster.api_server.stop()
    try:
        yield
        time.sleep(AWAY_SECONDS)
    finally:
        place.cluster.api_server.start()
        eventually(place.cluster.api.ready, what="the API server is back")


BREAKERS: Final[dict[str, Callable[[Life | None, Place], AbstractContextManager[None]]]] = {
    "daemon": _daemon,
    "operator": _operator,
    "containerd": _containerd,
    "shim": _shim,
    "kubelet": _kubelet,
    "api-server": _api_server,
}


def _in_node(node: Node, word: str, *, is_program: bool = False) -> list[int]:
    """Return the pids, as we see them, of processes of *node* with *word* in their arguments."""
    top = node.machine.running_pid
    found = []
    for pid in leaks.below(top):
        arguments = processes.arguments(pid)
        if is_program:
            if arguments and Path(arguments[0]).name == Path(word).name:
                found.append(pid)
        elif word in arguments:
            found.append(pid)
    return found


def _started(pid: int) -> int:
    with suppress(OSError):
        return int(
            Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        )
    return 0
