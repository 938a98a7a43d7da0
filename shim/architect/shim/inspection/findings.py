"""What is told of a pod that cannot be dumped as it is: who has what, and what would help.

Whoever tells needs no more than this: the keeper, which lives as long as its node, does without the
rules by which findings are made.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.shim.records import Unmanaged

MAX_NAME: Final = 100
"""Characters of a name that somebody has chosen."""

HINTS: Final = {
    "NotRunning": "it is being created or restarted, or its init had to replace itself",
    "NestedNamespace": "put what makes its own sandbox (a browser) into a pod that stays awake",
    "Traced": "detach the debugger",
    "Capability": "drop the capability in the container's securityContext",
    "Tracer": "end the debug container or the session",
    "HugePages": "switch huge pages off in the application",
    "IoUring": "switch io_uring off in the application; RuntimeDefault's seccomp profile denies it",
    "Mptcp": "Go programs: GODEBUG=multipathtcp=0",
    "Socket": "switch off the feature that uses such sockets",
    "UnheldSocket": "close the socket when it is not used",
    "Pidfd": "close the descriptor of a process that is not the application's",
    "ExternalSocket": "have the application connect by TCP, or close the connection when it is "
    "idle",
    "Terminal": "run the container without tty",
    "Device": "run the part that uses the device in a pod of its own",
    "Inotify": "watch a volume instead, or switch the watching of files off",
    "Mount": "use files on the container's own mounts; a message queue (mq_open) has none",
    "Uninterruptible": "a disk that does not answer shows in the node's log",
    "Epoll": "take what is closed out of epoll before (EPOLL_CTL_DEL)",
    "MainThread": "keep the main thread as long as the process has others",
    "DeletedFile": "put large temporary files on a path that stays, or close them when idle; "
    "read files of ConfigMaps and their like whole, and close them",
    "SharedSysV": "only one container of a pod can have the segment",
    "NoSpace": "free space for /var/lib/architect",
}
"""What would have to change, for each reason."""


class About(enum.StrEnum):
    """What a finding is about: that tells for how long it holds."""

    PROCESSES = "processes"
    """As long as the application is as it is."""
    CONTAINER = "container"
    """It is about to begin, or has ended."""
    POD = "pod"
    """What happened to it, and its node's disk."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about one container."""

    container: str
    reason: str
    """A stable CamelCase word."""
    message: str
    """Which process has what."""
    hint: str = ""
    """What would have to change."""
    is_blocking: bool = True
    about: About = About.PROCESSES

    @property
    def text(self) -> str:
        """What it is and what would have to change, for people."""
        return f"{self.reason}: {self.message}" + (f" (hint: {self.hint})" if self.hint else "")


def of_unmanaged(note: Unmanaged) -> Finding:
    """Return why the container of *note* is not managed."""
    return Finding(
        container=note.container, reason=note.reason, message=note.message, about=About.CONTAINER
    )


def of_pod(
    *, refused: Mapping[str, Any] | None, needed_bytes: int, free_bytes: int
) -> list[Finding]:
    """Return what keeps a pod from sleeping beside its processes.

    *refused* is the last attempt's failure, *needed_bytes* the room for its images.
    """
    found = []
    if refused:
        message = f"the last attempt failed: {refused['message']}"
        found.append(_pod(refused["reason"], message, refused["hint"]))
    if free_bytes < needed_bytes:
        message = f"{free_bytes >> 20} MiB are free for images, {needed_bytes >> 20} MiB are needed"
        found.append(_pod("NoSpace", message, HINTS["NoSpace"]))
    return found


def shown(text: str) -> str:
    """Return *text*, which somebody else has chosen, as it can be shown: no control characters."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: MAX_NAME + 1])
    return clean if len(clean) <= MAX_NAME else clean[: MAX_NAME - 1] + "…"


def _pod(reason: str, message: str, hint: str) -> Finding:
    return Finding(container="pod", reason=reason, message=message, hint=hint, about=About.POD)
