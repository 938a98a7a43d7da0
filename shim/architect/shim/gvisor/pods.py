"""gVisor pods of this node, as their containers' records say: a root, and the members around it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from architect.core.errors import FormatError, Rejected
from architect.shim.gvisor import anchors, records
from architect.shim.gvisor.records import Record

if TYPE_CHECKING:
    from architect.api.policy import Policy

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
        from architect.api.policy import Policy, PolicyError  # who only ends it does without

        try:
            return Policy.from_dict(self.record.policy, is_followed=True)
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
    members: dict[str, list[Member]] = {}
    for id, record in found.items():
        if record.sandbox is not None:
            members.setdefault(record.sandbox, []).append(Member(id, record))
    return {
        root.pod: _pod(id, root, members.get(id, []))
        for id, root in found.items()
        if _is_root(root) and sandbox_pid(id, root) is not None
    }


def find(uid: str) -> Pod | None:
    """Return the pod *uid*; None if it has no living sandbox here."""
    return everyone().get(uid)


def of_container(container: str, *, is_alive: bool = True) -> Pod | None:
    """Return the pod of a container, by id; None if it is no managed one.

    *is_alive*: only while its sandbox lives.
    """
    record = records.find(container)
    if record is None or is_alive:
        return None if record is None else find(record.pod)
    root_id = record.sandbox or container
    root = records.find(root_id)
    if root is None or not _is_root(root):
        return None
    return _pod(root_id, root, [Member(i, r) for i, r in records.of_sandbox(root_id).items()])


def _is_root(record: Record) -> bool:
    """Whether it is that of a managed pod's sandbox."""
    return record.sandbox is None and bool(record.pod) and record.policy is not None


def _pod(root_id: str, root: Record, members: Sequence[Member]) -> Pod:
    # Of one that ended and the one that follows it the latter counts.
    ordered = sorted(members, key=lambda member: member.is_running)
    return Pod(root.pod, root_id, root, {member.record.name: member for member in ordered})


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
