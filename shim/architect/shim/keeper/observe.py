"""Raw facts about one pod's activity; what they mean is the daemon's business."""

from __future__ import annotations

import time
from typing import Any

from architect.api.keeper import PodState
from architect.shim.keeper import cgroups, processes
from architect.shim.keeper.container import Container
from architect.shim.keeper.pod import Pod


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
        if container.find_init() is None or container.is_starting():
            continue
        observation["containers"][name] = _usage(container)
        if pod.state is PodState.AWAKE:
            observation["exec_sessions"] += [
                {
                    "pid": pid,
                    "command": processes.command(pid),
                    "container": name,
                    "argv": processes.arguments(pid),
                }
                for pid in container.exec_sessions()
            ]
    if pod.state is PodState.AWAKE:
        observation.update(pod.network.observe(list(pod.containers.values())))
    return observation


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
