"""The stand-ins of one sleeping pod: who answers kubelet on its containers' ports, and until when.

A stand-in outlives the sleep by the conversations that it has begun.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

from architect.api.policy import ContainerPolicy, ProbeKind
from architect.shim.keeper.nodeshared import NodeShared
from architect.shim.standin import ports
from architect.shim.standin.dialogue import Health, Kind
from architect.shim.standin.server import StandIn

log = logging.getLogger(__name__)

STANDIN_LIMIT_SECONDS: Final = 35.0
"""By then every conversation of a stand-in has ended by its own bounds."""


class PodStandIns:
    """One stand-in per container that listens."""

    def __init__(self, shared: NodeShared, uid: str) -> None:
        self.on_wake: Callable[[str], None] = lambda _: None
        """Called with the reason whenever a request to a stand-in needs the application."""
        self._shared = shared
        self._uid = uid
        self._serving: list[StandIn] = []
        self._retired: list[tuple[float, StandIn]] = []
        self._ready: dict[str, bool] = {}

    def set_ready(self, containers: Mapping[str, bool]) -> None:
        """Learn kubelet's verdict; stand-ins that are opened later repeat it."""
        self._ready.update(containers)

    def forget_verdict(self, name: str) -> None:
        """Take container *name* for ready again: kubelet has not asked the one that begins here."""
        self._ready.pop(name, None)

    def unready(self) -> tuple[str, ...]:
        """Return the containers of which kubelet says that they are not ready."""
        return tuple(sorted(name for name, is_ready in self._ready.items() if not is_ready))

    @property
    def taken_ports(self) -> frozenset[int]:
        """The ports on which a stand-in listens."""
        return frozenset(each.port for standin in self._serving for each in standin.listening)

    def open(
        self,
        name: str,
        policy: ContainerPolicy,
        listeners: Sequence[ports.Listener],
        *,
        enter_netns: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """Answer for container *name*, whose ports are free. What cannot be answered is logged."""
        if not listeners:
            return
        probed: dict[int, set[Kind]] = {}
        for probe in policy.probes:
            if probe.kind is not ProbeKind.EXEC and probe.port is not None:
                probed.setdefault(probe.port, set()).add(Kind(probe.kind.value))
        try:
            standin = StandIn(
                listeners,
                enter_netns=enter_netns,
                health=Health(healthy=self._ready.get(name, True), reason="asleep"),
                certificate=self._shared.certificate,
                probed=probed,
            )
        except OSError as error:
            log.error("pod %s: probes will not be answered: %s", self._uid, error)
            return
        for skipped in standin.skipped:
            log.warning("pod %s: %s", self._uid, skipped)
        self._serving.append(standin)
        self._shared.loop.watch(standin.fileno(), lambda: self._serve(standin))

    def _serve(self, standin: StandIn) -> None:
        standin.ready()
        if standin.wake_reason is not None and standin in self._serving:
            self.on_wake(standin.wake_reason)

    def free_ports(self) -> None:
        """Give the ports back to the application; conversations go on."""
        for standin in self._serving:
            standin.close_listeners()

    def fail(self, reason: str) -> None:
        """Take the ports again after a failed restore, and say that the application is not well."""
        for standin in self._serving:
            standin.set_health(Health(healthy=False, reason=reason[:200]))
            standin.open_listeners()

    def retire(self) -> None:
        """The application is back: let conversations end, and take no new ones."""
        deadline = time.monotonic() + STANDIN_LIMIT_SECONDS
        for standin in self._serving:
            standin.close_listeners()
            standin.application_is_back()
            self._retired.append((deadline, standin))
        self._serving = []
        self._bury()

    def tick(self) -> None:
        """End what is past its time; call it every few seconds."""
        for standin in [*self._serving, *(standin for _, standin in self._retired)]:
            standin.tick()
        self._bury()

    def _bury(self, *, at_once: bool = False) -> None:
        """Close retired stand-ins whose conversations have ended."""
        now, staying = time.monotonic(), []
        for deadline, standin in self._retired:
            if at_once or not standin.conversations or now > deadline:
                self._shared.loop.unwatch(standin.fileno())
                standin.close()
            else:
                staying.append((deadline, standin))
        self._retired = staying

    def close(self) -> None:
        """End at once."""
        self.retire()
        self._bury(at_once=True)
