"""A gVisor pod is saved: the image of its sandbox, and the files that are not in it.

In the image are all processes, the memory of the network stack, ``/dev/shm``, each tmpfs, and what
the containers wrote to their roots, which is in a file of the sandbox's. What is mounted from the
node is not: the emptyDirs are packed beside it, and everything else is the new pod's own.

The sandbox stands still meanwhile (:mod:`architect.shim.keeper.sandboxes`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from architect.api import saved
from architect.core import files
from architect.core.errors import NodeError, Rejected
from architect.shim import luggage
from architect.shim.gvisor import image, pods, runsc
from architect.shim.gvisor.pods import Pod
from architect.shim.layers import places

DEFAULT_PLATFORM: Final = "systrap"
"""runsc's own."""

_PLATFORM: Final = re.compile(r"--?platform=(\w+)")


def save(pod: Pod, into: Path) -> int:
    """Write what *pod* is into *into*; return its bytes.

    Raises Rejected for a pod that cannot be restored, NodeError with what runsc says.
    """
    pod.check()
    platform = _platform(pod)
    volumes: dict[str, Path] = {}
    for member in pod.members.values():
        volumes |= places.volumes(places.spec_in(member.record.bundle), pod.uid)
    total = luggage.pack_volumes(volumes, into)
    target = into / saved.SANDBOX_IMAGE
    files.make_private(target.parent)
    target.mkdir(mode=0o700)
    # Uncompressed: pages are in a file of their own, which is read in parallel.
    words = ["checkpoint", "--image-path", str(target), "--compression", "none"]
    # Without the option it would end.
    status, said = runsc.run(pod.command([*words, "--leave-running", pod.root_id]))
    if status != 0:
        raise NodeError(
            f"runsc cannot save sandbox {pod.root_id:.12}: {runsc.complaint(said)}",
            reason="SandboxNotSaved",
        )
    for file in target.iterdir():
        file.chmod(0o600)
        total += file.stat().st_size
    found = image.read(target)
    if found.containers != len(pod.members) + 1:
        raise Rejected(
            f"the sandbox has {found.containers - 1} containers, and the pod {len(pod.members)}",
            reason="OtherContainers",
        )
    meta = {
        "version": saved.SANDBOX_META_VERSION,
        "runsc": found.version,
        "platform": platform,
    }
    files.write_json(into / saved.SANDBOX / saved.META, meta, durable=False)
    return total


def _platform(pod: Pod) -> str:
    """Return what the sandbox runs on: its command line names all that is not runsc's default."""
    pid = pods.sandbox_pid(pod.root_id, pod.record)
    if pid is None:
        raise NodeError(f"the sandbox of {pod} has ended", reason="SandboxGone")
    return platform_in(Path(f"/proc/{pid}/cmdline").read_bytes())


def platform_in(cmdline: bytes) -> str:
    """Return the platform that a sandbox's command line names. Pure."""
    for word in os.fsdecode(cmdline).split("\0"):
        if found := _PLATFORM.fullmatch(word):
            return found[1]
    return DEFAULT_PLATFORM
