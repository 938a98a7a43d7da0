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


def put(cluster: Cluster, path: str, *, age_hours: int = 0) -> None:
    """Put an object of a few bytes into the bucket, last changed so long ago."""
    script = f'mkdir -p "${{0%/*}}"; echo x > "$0"; touch -d "-{age_hours} hours" "$0"'
    cluster.plane.machine.exec(["sh", "-ec", script, f"{BUCKET}/{path}"])


def is_there(cluster: Cluster, path: str) -> bool:
    """Whether the bucket has an object of that key."""
    said = cluster.plane.machine.exec(
        ["sh", "-c", '[ -f "$0" ] && echo yes || echo no', f"{BUCKET}/{path}"]
    )
    return said.strip() == "yes"


def remove(cluster: Cluster, path: str) -> None:
    """Remove what lies below *path* of the bucket."""
    cluster.plane.machine.exec(["rm", "-rf", f"{BUCKET}/{path}"])


def flip(cluster: Cluster, path: str) -> None:
    """Change one byte of an object where it lies, and nothing else of it; twice is not at all."""
    script = (
        "import sys; f = open(sys.argv[1], 'r+b'); f.seek(100); b = f.read(1); f.seek(100); "
        "f.write(bytes([b[0] ^ 1]))"
    )
    cluster.plane.machine.exec(["python3", "-c", script, f"{BUCKET}/{path}"])
