"""How a saved pod lies on a disk: names that the runtime and the daemon agree on.

The same below ``checkpoints/<id>`` at the source, in the manifest, and below ``arrivals/<uid>`` at
the target::

    containers/<container>/image/       what CRIU wrote
    containers/<container>/meta.json    what a restore needs besides
    containers/<container>/layer.tar    what the container wrote to its root, if it could
    volumes/<volume>.tar                an emptyDir
    inits/<sha256>                      the init that the processes' images refer to
    data.json                           what volumes that go along by themselves hold: their stamps
    asleep.json                         the pod slept, and not only to be saved
    shm.tar                             the pod's /dev/shm
    returned.json                       the pod slept here, before its machine was rebooted

Of a gVisor pod, whose containers are saved as one::

    sandbox/image/                      what runsc wrote
    sandbox/meta.json                   which runsc, on which platform
    volumes/<volume>.tar                as above
"""

from __future__ import annotations

from typing import Final

IMAGE: Final = "image"
META: Final = "meta.json"
SHARED_MEMORY: Final = "shm.tar"
DATA: Final = "data.json"
ASLEEP: Final = "asleep.json"
RETURNED: Final = "returned.json"

SANDBOX: Final = "sandbox"
"""Directory of the sandbox of a gVisor pod."""
SANDBOX_IMAGE: Final = f"{SANDBOX}/{IMAGE}"
SANDBOX_META_VERSION: Final = 1


def container(name: str) -> str:
    """Return the directory of one container."""
    return f"containers/{name}"


def image(container_name: str) -> str:
    """Return the directory of a container's process images."""
    return f"{container(container_name)}/{IMAGE}"


def layer(container_name: str) -> str:
    """Return the archive of a container's writable layer."""
    return f"{container(container_name)}/layer.tar"


def init(sha256: str) -> str:
    """Return the program of an init."""
    return f"inits/{sha256}"


def volume(name: str) -> str:
    """Return the archive of an emptyDir."""
    return f"volumes/{name}.tar"
