"""What lies in the lab's object store, past its server."""

from __future__ import annotations

import base64

from lab import object_store
from lab.cluster import Cluster

BUCKET = f"{object_store.DATA}/{object_store.BUCKET}"
"""In the control plane's machine."""


def in_store(cluster: Cluster, uid: str) -> list[str]:
    """Return the files in which the store keeps what it has of a pod or PersistentCheckpoint."""
    find = f"cd {BUCKET} && find . -type f -path '*/{uid}/*'"
    return sorted(cluster.plane.machine.exec(["sh", "-c", find]).split())


def stored_bytes(cluster: Cluster, path: str) -> bytes:
    """Return an object as it lies on the store's disk."""
    return base64.b64decode(cluster.plane.machine.exec(["base64", f"{BUCKET}/{path}"]))
