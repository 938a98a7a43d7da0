"""Memory images on the node's disk: which may go, and how much room there is. Pure.

An image is the only copy of a pod's memory. It goes when the keeper restored it, or when a
consistent read of the API says that its pod is gone; a stale watch, an outage, or a full disk never
remove one. What does not fit is not dumped in the first place (:mod:`.planner`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from architect.api.keeper import PodState
from architect.daemon.observation import KeeperPod
from architect.daemon.planner import Disk


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What :func:`sweep` found."""

    ask_about: tuple[KeeperPod, ...]
    """Not among the node's pods: the API is to be asked about each before anything is removed."""
    wake: tuple[KeeperPod, ...]
    """Asleep longer than images may live."""


def sweep(
    listed: Iterable[KeeperPod],
    *,
    known_uids: Collection[str],
    now_unix: float,
    ttl_seconds: float,
) -> Sweep:
    """Return what to look into among the keeper's pods.

    A pod with a living container is never asked about, though the API may have forgotten it (a
    forced deletion): kubelet still has to end it, and its end may need the image. A stand-alone
    container (no namespace) is nothing the API knows of.
    """
    ask_about: list[KeeperPod] = []
    wake: list[KeeperPod] = []
    for pod in listed:
        if pod.uid not in known_uids and pod.namespace and not pod.has_living_containers:
            ask_about.append(pod)
        elif (
            ttl_seconds > 0
            and pod.state is PodState.ASLEEP
            and now_unix - pod.since_unix > ttl_seconds
        ):
            wake.append(pod)
    return Sweep(ask_about=tuple(ask_about), wake=tuple(wake))


def is_gone(found: Mapping[str, Any] | None, *, node: str) -> bool:
    """Whether a consistent read (None: no pod of that name and uid) says that the pod is over.

    A pod of another node cannot be the one whose image lies here; such an answer is not believed.
    """
    if found is None:
        return True
    if (found.get("spec") or {}).get("nodeName") != node:
        return False
    return (found.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def disk(path: Path, listed: Iterable[KeeperPod], *, floor_bytes: int, quota_bytes: int) -> Disk:
    """Return the state of the images' disk. Raises OSError."""
    at = os.statvfs(path)
    return Disk(
        free_bytes=at.f_bavail * at.f_frsize,
        used_by_images_bytes=sum(p.image_bytes for p in listed),
        floor_bytes=floor_bytes,
        quota_bytes=quota_bytes,
    )
