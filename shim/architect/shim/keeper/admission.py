"""May a pod sleep, or wake, now: what stands in the way although nothing is wrong with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from architect.api.keeper import Event
from architect.core.errors import Rejected
from architect.shim.keeper import images, paused, processes, tracers
from architect.shim.keeper.container import Container, total_resident_bytes
from architect.shim.keeper.failures import Refusal
from architect.shim.keeper.loop import Loop, Task
from architect.shim.keeper.network import PodNetwork

log = logging.getLogger(__name__)

DISK_FLOOR_BYTES: Final = 256 << 20
"""Left free on the image's file system, whatever the daemon's quota says."""
MEMORY_FLOOR_BYTES: Final = 64 << 20
"""Left available on the node when a wake is admitted."""
BLOCKED_RETRY_SECONDS: Final = 1.0


class Admission:
    """Of one pod."""

    def __init__(
        self,
        pod: object,
        *,
        uid: str,
        containers: Mapping[str, Container],
        network: PodNetwork,
        loop: Loop,
        tell: Callable[..., None],
    ) -> None:
        self.settling: set[str] = set()
        """Containers for which it shall be awake: they could reach CRIU, and have not come yet."""
        self._pod = pod
        self._uid = uid
        self._containers = containers
        self._network = network
        self._loop = loop
        self._tell = tell

    def _blocked(self, members: list[Container]) -> Refusal | None:
        """Return what CRIU must not meet, although nothing is wrong with the application."""
        if (found := _paused(members)) is not None:
            return Refusal(
                reason="Paused",
                message=f"container {found.name} is paused",
                hint="it can once the engine has resumed it",
            )
        tracer = tracers.found(self._uid, members, awaited=self.settling)
        if tracer is None:
            return None
        hint = "it can once that has ended; CRIU is root on the node"
        return Refusal(reason="Tracer", message=tracer, hint=hint)

    @property
    def is_paused(self) -> bool:
        """Whether an engine has paused a container, so that a wake cannot end before `resume`."""
        return _paused(self._containers.values()) is not None

    def wake(self, members: list[Container], *, image_bytes: int) -> Task[None]:
        """Hold back a wake that the node's memory cannot take, rather than kill neighbours.

        Also one that would show CRIU to a tracer or freeze it with a paused container: it goes on
        when that has ended.
        """
        needed = image_bytes + MEMORY_FLOOR_BYTES
        told = False
        while (blocked := self._blocked(members)) is not None:
            if not told:
                told = True
                self._tell(Event.WAKE_BLOCKED, message=blocked.message)
                log.warning("%s does not wake as long as %s", self._pod, blocked.message)
            yield self._loop.sleep(BLOCKED_RETRY_SECONDS)
        told = False
        while (available := processes.available_memory_bytes()) < needed:
            if not told:
                told = True
                self._tell(Event.WAKE_BLOCKED, needed_bytes=needed, available_bytes=available)
                log.warning(
                    "%s waits for memory: %d MiB needed, %d MiB available",
                    self._pod,
                    needed >> 20,
                    available >> 20,
                )
            yield self._loop.sleep(BLOCKED_RETRY_SECONDS)

    def sleep(self, members: list[Container], *, is_leaving: bool) -> None:
        """Raise Rejected if *members* must not be dumped now; one that leaves need not be well."""
        if (blocked := self._blocked(members)) is not None:
            raise Rejected(
                f"{self._pod} cannot sleep now: {blocked.message}",
                reason=blocked.reason,
                hint=blocked.hint,
            )
        unready = [c.name for c in members if c.name in self._network.unready()]
        if unready and not is_leaving:
            # Kubelet would get this answer as long as it sleeps, to its liveness probes too, and
            # restart the container.
            raise Rejected(
                f"{self._pod}: container {', '.join(unready)} is not ready",
                reason="NotReady",
                hint="only what is in good health is put to sleep; wait until its probes succeed",
            )
        needed = self.needed_bytes()
        free = images.free_bytes()
        if free < needed:
            refusal = Rejected(
                f"{self._pod}: {free >> 20} MiB are free for images, {needed >> 20} MiB are needed",
                reason="NoSpace",
                hint="free space on the file system of /var/lib/architect",
            )
            self._tell(Event.SLEEP_FAILED, **Refusal.of(refusal).as_dict(), lost=[])
            raise refusal

    def needed_bytes(self) -> int:
        """Return the room that a sleep asks for on the images' file system."""
        return total_resident_bytes(list(self._containers.values())) + DISK_FLOOR_BYTES


def _paused(members: Iterable[Container]) -> Container | None:
    for container in members:
        if container.find_init() is not None and paused.is_paused(container.cgroups()):
            return container
    return None
