"""What stands out in a container: in it as a whole, and in each of its processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from architect.core import capabilities
from architect.shim.inspection import descriptors, files
from architect.shim.inspection.descriptors import Known
from architect.shim.inspection.facts import ZOMBIE, ContainerFacts, ProcessFacts
from architect.shim.inspection.findings import HINTS, About, Finding, shown

MAX_FINDINGS: Final = 16
"""Of one container: what is more is not told one by one."""

_NAMESPACE_WORDS: Final = {"mnt": "mount", "net": "network", "uts": "host name", "pid": "process"}


def of_container(container: ContainerFacts) -> list[Finding]:
    """Return what stands out in *container*, each thing once per process."""
    found: list[Finding] = []
    for one in _of_container(container):
        if one not in found:
            found.append(one)
        if len(found) == MAX_FINDINGS:
            break
    return found


def _of_container(container: ContainerFacts) -> Iterator[Finding]:
    def told(
        reason: str, message: str, *, is_blocking: bool = True, about: About = About.PROCESSES
    ) -> Finding:
        return Finding(
            container=container.name,
            reason=reason,
            message=message,
            hint=HINTS[reason] if is_blocking else "",
            is_blocking=is_blocking,
            about=about,
        )

    if container.trouble:
        yield told("NotRunning", container.trouble, about=About.CONTAINER)
    known = Known.of(container)
    for process in container.processes:
        who = f"process {process.pid} ({shown(process.command)})"
        for reason, message in _of_process(process, known):
            yield told(reason, f"{who} {message}")
    for segment in container.segments:
        if segment.total > segment.own:
            message = (
                f"shared memory segment {segment.identity} is attached {segment.total} times, "
                f"{segment.own} of them by the application"
            )
            yield told("SharedSysV", message)
    if why := files.of_removed(container.removed, room_bytes=container.removed_room_bytes):
        yield told("DeletedFile", why)
    for command, held in container.strangers:
        if refused := capabilities.refused_of_mask(held):
            message = f"{shown(command)!r} joined its processes and has {', '.join(refused)}"
            yield told("Tracer", message)
    for process in container.processes:
        if process.is_in_own_cgroup and process.state != ZOMBIE:
            message = (
                f"process {process.pid} ({shown(process.command)}) is in a cgroup of its own; "
                "after a wake it is in the container's"
            )
            yield told("Cgroup", message, is_blocking=False)
    for command in container.sessions:
        message = (
            f"exec session {shown(command)!r} is activity; it would go on beside the sleeping tree"
        )
        yield told("ExecSession", message, is_blocking=False)
    if container.is_partial:
        yield told("Partial", "there is more than was looked at", is_blocking=False)


def _of_process(process: ProcessFacts, known: Known) -> Iterator[tuple[str, str]]:
    if process.state == ZOMBIE and process.threads == 1:
        return  # it holds nothing any more; one that was restored has CRIU's capabilities
    if process.other_namespaces:
        kinds = [_NAMESPACE_WORDS.get(kind, kind) for kind in process.other_namespaces]
        yield "NestedNamespace", f"has a namespace of its own: {', '.join(kinds)}"
    if process.is_traced:
        yield "Traced", "is traced by a debugger"
    if process.is_uninterruptible:
        yield "Uninterruptible", "waits in the kernel, for a disk or for a child made by vfork"
    if process.state == ZOMBIE and process.threads > 1:
        yield "MainThread", "goes on without its main thread, which has ended"
    if refused := capabilities.refused_of_mask(process.capabilities):
        yield "Capability", f"holds what reaches CRIU: {capabilities.explained(refused)}"
    for name in process.mappings:
        if name == "/anon_hugepage" or name.startswith("/anon_hugepage "):
            yield "HugePages", "has memory from the node's pool of huge pages"
        elif "io_uring" in name:
            yield "IoUring", "has a ring of io_uring mapped"
        else:
            yield "Device", f"has {shown(name)} mapped"
    for name, size in process.deleted:
        if files.is_file(name) and size > files.GHOST_LIMIT_BYTES:
            yield "DeletedFile", files.of_deleted(name, size, "mapped")
    for descriptor in process.descriptors:
        yield from descriptors.of_descriptor(descriptor, known)
        if descriptor.waits_for_closed:
            yield "Epoll", "waits by epoll for what it has closed and another process has open"
