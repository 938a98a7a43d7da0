"""How a pod is brought to a step of its life: by who opens which file there, and is stopped.

Clients ask meanwhile, and each must get its answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from architect.shim.keeper import processes
from faults.cluster.place import DEADLINE_SECONDS, Place
from faults.cluster.pod import Life
from faults.errors import FaultError
from faults.gate import Matches
from faults.matrix import FALLING, Step
from support import loads
from support.workloads import eventually

SLEEP_SECONDS: Final = 8.0
RATE: Final = 10.0
REQUESTS: Final = 5
"""Of the clients, at least, before and after something is broken."""
KEEPER: Final = "architect-keepe"
"""As the kernel has it, which keeps 15 characters."""


def _keeper_opens(life: Life, *parts: str) -> Matches:
    wanted = (life.uid, *parts)
    return lambda pid, path: all(p in path for p in wanted) and _comm(pid) == KEEPER


def _criu_opens(life: Life, end: str) -> Matches:
    return lambda pid, path: (
        life.uid in path and path.endswith(end) and _exe(pid) == "architect-criu"
    )


_FALLING: Final[dict[Step, Callable[[Life], Matches]]] = {
    Step.BEFORE_HOLD: lambda life: _keeper_opens(life, ".pod.json."),
    Step.FREEZING: lambda life: _criu_opens(life, "/pages-1.img"),
    Step.DUMP: lambda life: _criu_opens(life, "/inventory.img"),
    Step.AFTER_DUMP: lambda life: _keeper_opens(life, "/image/dump.exit"),
}
_WAKING: Final[dict[Step, Callable[[Life], Matches]]] = {
    Step.BEFORE_RESTORE: lambda life: _keeper_opens(life, "/app/meta.json"),
    Step.RESTORE: lambda life: _criu_opens(life, "/pages-1.img"),
    Step.BEFORE_RELEASE: lambda life: _keeper_opens(life, "/image/restore.exit"),
}


def bring(life: Life, step: Step, stack: ExitStack, *, has_clients: bool) -> list[loads.Load]:
    """Bring a running pod to *step*, with clients; those of a sleeping pod come with its wake.

    *has_clients*: not where the container may end, and with it the server of their requests.
    """
    place = life.place

    def clients() -> list[loads.Load]:
        machine = place.cluster.plane.machine
        if not has_clients:
            return []
        return [
            stack.enter_context(loads.load(kind, life.address, machine=machine, rate=RATE))
            for kind in ("new", "kept")
        ]

    if step is Step.AWAKE:
        asking = clients()
        until_asked(life, has_clients=has_clients)
        return asking
    if step in FALLING:
        asking = clients()
        until_asked(life, has_clients=has_clients)
        held = place.hold(place.disk, _FALLING[step](life))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not held.has_come.is_set():
            if time.monotonic() > deadline:
                raise FaultError(f"{step} is not reached")
            place.send("sleep", life.uid)
            held.wait(SLEEP_SECONDS)
        return asking
    life.sleep()
    if step is Step.ASLEEP:
        return []
    held = place.hold(place.disk, _WAKING[step](life))
    asking = clients()
    if not has_clients:
        place.send("wake", life.uid)
    if not held.wait(DEADLINE_SECONDS):
        raise FaultError(f"{step} is not reached")
    return asking


def until_asked(life: Life, *, has_clients: bool) -> None:
    """Wait until clients have asked; the application counts."""
    before = int(life.ask()["count"])
    own = 0

    def asked() -> bool:
        nonlocal own
        own += 1
        return int(life.ask()["count"]) - before - own >= REQUESTS

    if has_clients:
        eventually(asked, what="clients ask")


def check(asking: Sequence[loads.Load], *, identity: str) -> None:
    """Raise FaultError unless each request of the clients was answered, by the same process."""
    for client in asking:
        result = client.result
        wrong = set(result["identities"]) - {identity}
        if result["errors"] or wrong or result["answered"] != result["sent"]:
            raise FaultError(str(client))


def _comm(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _exe(pid: int) -> str:
    with suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    return ""


def creates(pid: int, path: str) -> bool:
    """Whether that is the first file of a container that is being made."""
    return "/architect/containers/." in path and path.endswith(".tmp")


def _runs(verb: str, place: Place) -> Matches:
    return lambda pid, path: (
        path.endswith("/state.json")
        and _exe(pid) == "runc"
        and verb in processes.arguments(pid)
        and place.managed(path)
    )


def starts(place: Place) -> Matches:
    """Match the lower runtime as it starts a managed container."""
    return _runs("start", place)


def deletes(place: Place) -> Matches:
    """Match the lower runtime as it removes one."""
    return _runs("delete", place)
