"""Memory images on the node's disk: which may go, and how much room there is. Pure.

An image is the only copy of a pod's memory. It goes when the keeper restored it, or when a
consistent read of the API says that its pod is gone; a stale watch, an outage, or a full disk never
remove one. What does not fit is not dumped in the first place (:mod:`.planner`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from architect.api.keeper import PodState
from architect.daemon.observation import KeeperPod
from architect.daemon.planner import Disk


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A pod of which something lies on the disk."""

    uid: str
    namespace: str
    name: str


def stored(directory: Path) -> list[Stored]:
    """Return the pods that have a directory of images, whoever knows them.

    One that does not say whose it is has empty names, and is never removed: the keeper writes the
    names before the image. Raises OSError.
    """
    found: list[Stored] = []
    for entry in sorted(directory.iterdir()) if directory.exists() else ():
        if not entry.is_dir():
            continue
        try:
            value = json.loads((entry / "pod.json").read_bytes())
        except (FileNotFoundError, ValueError):
            value = {}
        names = value if isinstance(value, dict) else {}
        found.append(
            Stored(
                uid=entry.name,
                namespace=str(names.get("namespace") or ""),
                name=str(names.get("name") or ""),
            )
        )
    return found


def to_ask_about(
    on_disk: Iterable[Stored], listed: Iterable[KeeperPod], *, known_uids: Collection[str]
) -> list[Stored]:
    """Return the pods about which the API is to be asked, before anything of theirs is removed.

    A pod with a living container is not among them, though the API may have forgotten it (a forced
    deletion): kubelet still has to end it, and its end may need the image. Nor is a stand-alone
    container (no namespace), which the API never knew.
    """
    living = {pod.uid for pod in listed if pod.has_living_containers}
    return [s for s in on_disk if s.uid not in known_uids and s.uid not in living and s.namespace]


def to_wake(
    listed: Iterable[KeeperPod], *, now_boot: float, now_unix: float, ttl_seconds: float
) -> list[KeeperPod]:
    """Return the pods that slept longer than images may live (0: for ever).

    *now_boot* is the machine's clock, by which the keeper tells since when a pod sleeps;
    *now_unix*, which may jump, is used for those of an older keeper alone.
    """

    def slept_seconds(pod: KeeperPod) -> float:
        if pod.since_boot is not None:
            return now_boot - pod.since_boot
        return now_unix - pod.since_unix

    return [
        pod
        for pod in listed
        if ttl_seconds > 0 and pod.state is PodState.ASLEEP and slept_seconds(pod) > ttl_seconds
    ]


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
