"""gVisor pods of this node, as their containers' records say: a root, and the members around it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from architect.api.policy import Policy, PolicyError
from architect.core.errors import FormatError, Rejected
from architect.shim.gvisor import anchors, records
from architect.shim.gvisor.records import Record

NEVER_SLEEPS: Final = (
    "it runs under gVisor: such a pod does not sleep and does not move; it starts from a "
    "PersistentCheckpoint, or fresh"
)


class Member(NamedTuple):
    """One container of a pod."""

    id: str
    record: Record

    @property
    def is_running(self) -> bool:
        """Whether it was started, and its end was not seen yet."""
        found = self.record
        return found.is_started and anchors.start_ticks(found.anchor) == found.anchor_ticks


class Pod(NamedTuple):
    """A managed pod with a sandbox."""

    uid: str
    root_id: str
    record: Record
    """Of the root."""
    members: Mapping[str, Member]
    """By name."""

    def __str__(self) -> str:
        return f"pod {self.record.namespace}/{self.record.pod_name}"

    @property
    def policy(self) -> Policy:
        """What its owner wants. Raises FormatError: it is another version's."""
        try:
            return Policy.from_dict(self.record.policy)
        except PolicyError as error:
            raise FormatError(f"record of container {self.root_id:.12}: {error}") from error

    def command(self, words: Sequence[str]) -> list[str]:
        """Return *words* as a command line of the runsc that made the sandbox."""
        return [*self.record.runsc, "--root", self.record.root, *words]

    @property
    def is_whole(self) -> bool:
        """Whether each container that its owner wants managed has been started."""
        started = {n for n, m in self.members.items() if m.record.is_started}
        return self.policy.containers.keys() <= started

    def check(self) -> None:
        """Return if another pod can be what this one is. Raises Rejected, by name."""
        wanted = set(self.policy.containers)
        if self.record.image is not None:
            raise Rejected(f"{self} has not gone on itself yet", reason="NotReady")
        if others := sorted(self.members.keys() - wanted):
            raise Rejected(
                f"container {', '.join(others)} of {self} is not among "
                f"{', '.join(sorted(wanted))}: a sandbox is saved as a whole",
                reason="OtherContainers",
            )
        running = {name for name, member in self.members.items() if member.is_running}
        if missing := sorted(wanted - running):
            text = f"container {', '.join(missing)} of {self} does not run"
            raise Rejected(text, reason="NotReady")
        terminals = sorted(n for n, m in self.members.items() if m.record.has_terminal)
        if terminals:
            raise Rejected(
                f"container {', '.join(terminals)} of {self} has a terminal, which no image holds",
                reason="Terminal",
            )


def everyone() -> dict[str, Pod]:
    """Return the managed pods with a living sandbox, by uid."""
    found = records.everything()
    pods = {}
    for id, root in found.items():
        if root.sandbox is not None or not root.pod or root.policy is None:
            continue
        if sandbox_pid(id, root) is not None:
            own = [Member(i, r) for i, r in found.items() if r.sandbox == id]
            # Of one that ended and the one that follows it the latter counts.
            members = {m.record.name: m for m in sorted(own, key=lambda m: m.is_running)}
            pods[root.pod] = Pod(root.pod, id, root, members)
    return pods


def find(uid: str) -> Pod | None:
    """Return the pod *uid*; None if it has no living sandbox here."""
    return everyone().get(uid)


def of_container(container: str) -> Pod | None:
    """Return the pod of a container, by id; None if it is no managed one."""
    record = records.find(container)
    return None if record is None else find(record.pod)


def sandbox_pid(root_id: str, root: Record) -> int | None:
    """Return the process id of the sandbox of a root; None if it does not run."""
    if root.pid_file is None:
        return None
    try:
        pid = int(Path(root.pid_file).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    # Process ids are used again.
    is_ours = pid > 1 and os.fsencode(root_id) in command.split(b"\0")
    return pid if is_ours and anchors.start_ticks(pid) is not None else None
