"""Raw facts about one pod's activity; what they mean is the daemon's business."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from architect.api.keeper import PodState
from architect.core.errors import ArchitectError, NodeError
from architect.shim import procfs
from architect.shim.keeper import cgroups, processes
from architect.shim.keeper.container import Container
from architect.shim.keeper.pod import Pod

T = TypeVar("T")
log = logging.getLogger(__name__)


def of_each(pods: Iterable[Pod], look: Callable[[Pod], T]) -> dict[str, T]:
    """Return what *look* finds of each of *pods*, by uid.

    One that cannot be looked at is left out and told: who has written over its init's page, or ends
    at the wrong moment, is no reason to learn nothing of the others.
    """
    found: dict[str, T] = {}
    for pod in pods:
        try:
            found[pod.uid] = look(pod)
        except (ArchitectError, OSError) as error:
            log.warning("%s cannot be looked at: %s", pod, error)
    return found


def observe(pod: Pod) -> dict[str, Any]:
    """Return the observation of *pod* in the form that :mod:`architect.api.keeper` documents."""
    observation: dict[str, Any] = {
        "pod": pod.uid,
        "state": pod.state.value,
        "now": time.monotonic(),
        "packets": 0,
        "local_packets": 0,
        "node_packets": 0,
        "last_source": None,
        "last_real_syn": None,
        "connections": [],
        "listening": [],
        "exec_sessions": [],
        "containers": {},
        "refused": pod.refused.as_dict() if pod.refused else None,
    }
    for name, container in pod.containers.items():
        init = container.find_init()
        if init is None:
            continue
        try:
            if container.is_starting():
                continue
            usage = _usage(container)
            sessions = _sessions(container) if pod.state is PodState.AWAKE else []
        except (NodeError, OSError):
            if not procfs.is_ending(init.pid):
                raise
            continue  # it ended while it was looked at
        observation["containers"][name] = usage
        observation["exec_sessions"] += sessions
    if pod.state is PodState.AWAKE:
        observation.update(pod.network.observe(list(pod.containers.values())))
    return observation


def _sessions(container: Container) -> list[dict[str, Any]]:
    return [
        {
            "pid": pid,
            "command": processes.command(pid),
            "container": container.name,
            "argv": processes.arguments(pid),
        }
        for pid in container.exec_sessions()
    ]


def memory_bytes(pod: Pod) -> int:
    """Return how much memory of *pod* a dump would write, whatever else there is in an image."""
    return sum(
        cgroups.own_memory_bytes(container.cgroups())
        for container in pod.containers.values()
        if container.find_init() is not None and not container.is_starting()
    )


def _usage(container: Container) -> dict[str, Any]:
    usage = cgroups.usage(container.cgroups())
    return {
        "cpu_seconds": usage.cpu_seconds,
        "memory_bytes": usage.memory_bytes,
        "started": container.record.created,
        "age_seconds": processes.age_seconds(container.init()),
        "processes": usage.processes,
    }
