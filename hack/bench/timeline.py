"""When what happened in one move, and what its durations are made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Move:
    """When what happened in one move, in Unix seconds."""

    asked: float
    """Before the eviction was asked for."""
    last_old: float
    """The last answer of the pod that left."""
    slept: float
    """Dumped, by its keeper."""
    sleep_steps: dict[str, float]
    saved: float
    """It lies whole on the source's disk."""
    copy_began: float
    copied: float
    woke: float
    wake_steps: dict[str, float]
    created: float
    scheduled: float
    address: float
    """The API server told the successor's."""
    ready: float
    first_own: float
    first_service: float
    size: int
    """Bytes that were copied."""
    asked_service: int
    """Questions to the Service, from before the eviction until after the successor's answer."""
    failed_service: int
    """Those of them that were refused, reset, or not answered in time."""
    daemon_bytes: dict[str, int]
    """The most that the daemons of the two nodes held at once."""

    @property
    def capture_began(self) -> float:
        """When the keeper began to put the pod to sleep."""
        return self.slept - sum(self.sleep_steps.values())

    @property
    def restore_began(self) -> float:
        """When the keeper of the other node began to wake it."""
        return self.woke - sum(self.wake_steps.values())

    @property
    def first(self) -> float:
        """The first answer of the successor, however it was asked."""
        return min(self.first_own, self.first_service)

    def own_ms(self) -> dict[str, float]:
        """Return Architect's own part, by its parts."""
        return _milliseconds(
            {
                "freeze": self.saved - self.capture_began,
                "copy": self.copied - self.copy_began,
                "restore": self.woke - self.restore_began,
            }
        )

    def freeze_steps_ms(self) -> dict[str, float]:
        """Return what the freeze of :meth:`own_ms` is made of."""
        steps = {f"freeze, keeper: {name}": value for name, value in self.sleep_steps.items()}
        return _milliseconds(
            {**steps, "freeze, daemon: files packed, hashed": self.saved - self.slept}
        )

    def reply_parts_ms(self) -> dict[str, float]:
        """Return what the first reply at the successor's address is made of: a sum."""
        own = self.own_ms()
        gaps = _milliseconds(
            {
                "eviction, until the freeze": self.capture_began - self.asked,
                "sandbox and claim, until the copy": self.copy_began - self.saved,
                "container created, files applied": self.restore_began - self.copied,
                "until the reply: address told, asked": self.first_own - self.woke,
            }
        )
        return {
            "eviction, until the freeze": gaps["eviction, until the freeze"],
            "Architect: freeze": own["freeze"],
            "sandbox and claim, until the copy": gaps["sandbox and claim, until the copy"],
            "Architect: copy": own["copy"],
            "container created, files applied": gaps["container created, files applied"],
            "Architect: restore": own["restore"],
            "until the reply: address told, asked": gaps["until the reply: address told, asked"],
        }

    def kubernetes_ms(self) -> dict[str, float]:
        """Return what Kubernetes did meanwhile; it overlaps with what Architect does."""
        return _milliseconds(
            {
                "Kubernetes: successor made": self.created - self.asked,
                "Kubernetes: scheduled": self.scheduled - self.created,
                "Kubernetes: sandbox, address told": self.address - self.scheduled,
            }
        )

    def service_parts_ms(self) -> dict[str, float]:
        """Return what the first reply through the Service is made of: a sum."""
        return _milliseconds(
            {
                "until it is restored": self.woke - self.asked,
                "Kubernetes: readiness": self.ready - self.woke,
                "Kubernetes: endpoints, kube-proxy": self.first_service - self.ready,
            }
        )

    def freeze_parts_ms(self) -> dict[str, float]:
        """Return what the time without any answer is made of: a sum."""
        steps = {f"keeper: {name}": value for name, value in self.sleep_steps.items()}
        return _milliseconds(
            {
                # Below 0: answers go on while the keeper waits for conversations to end.
                "until the keeper begins": self.capture_began - self.last_old,
                **steps,
                "files packed, hashed": self.saved - self.slept,
                "sandbox and claim, until the copy": self.copy_began - self.saved,
                "copy": self.copied - self.copy_began,
                "container created, files applied": self.restore_began - self.copied,
                "keeper: restore": self.woke - self.restore_began,
                "until the reply": self.first - self.woke,
            }
        )


def _milliseconds(values: dict[str, float]) -> dict[str, float]:
    return {name: value * 1000 for name, value in values.items()}
