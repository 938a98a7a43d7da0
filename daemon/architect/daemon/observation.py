"""The keeper's answers as values: pod status and observation.

Read leniently where the keeper may be of another version (unknown keys are ignored) and strictly
where a decision hangs on it (a missing counter is a FormatError, not zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from architect.api.keeper import PodState
from architect.core.errors import FormatError


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why the keeper could not put a pod to sleep, or wake it."""

    reason: str
    message: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What stands out in one container of a running pod."""

    container: str
    reason: str
    message: str
    hint: str = ""
    is_blocking: bool = True
    is_lasting: bool = True
    """It lies in the application's processes, and holds as long as they are as they are."""

    @property
    def text(self) -> str:
        """What it is and what would have to change, for people."""
        return f"{self.reason}: {self.message}" + (f" (hint: {self.hint})" if self.hint else "")


@dataclass(frozen=True, kw_only=True)
class KeeperPod:
    """One entry of ``list``."""

    uid: str
    namespace: str
    name: str
    state: PodState
    since_unix: float = 0.0
    since_boot: float | None = None
    """By the machine's clock, which nobody sets; an older keeper does not tell."""
    image_bytes: int = 0
    held_packets: int = 0
    reason: str = ""
    last_sleep_seconds: float | None = None
    last_wake_seconds: float | None = None
    refused: Refusal | None = None
    container_ids: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    has_living_containers: bool = True


@dataclass(frozen=True, kw_only=True)
class Connection:
    """One established TCP connection of the pod."""

    local: str
    remote: str
    idle_seconds: float


@dataclass(frozen=True, kw_only=True)
class Syn:
    """The last new connection that was not a probe."""

    seconds_ago: float
    source: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """Who sent the last packet from outside the pod and its node."""

    seconds_ago: float
    address: str
    port: int
    """The pod's."""
    sources: int = 1
    """How many addresses did so lately, this one included."""


@dataclass(frozen=True, kw_only=True)
class ExecSession:
    """A process that was exec'd into a container."""

    pid: int
    command: str
    container: str
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ContainerUsage:
    """What a container used since it started."""

    cpu_seconds: float
    memory_bytes: int
    started_unix: float
    age_seconds: float | None = None
    """An older keeper does not tell."""
    processes: int = 0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the keeper saw of one pod at one moment."""

    uid: str
    state: PodState
    now: float
    """Monotonic seconds of the keeper."""
    packets: int
    local_packets: int = 0
    """Those of `packets` that came over the pod's own loopback."""
    node_packets: int = 0
    last_source: Source | None = None
    last_real_syn: Syn | None = None
    connections: tuple[Connection, ...] = ()
    listening_tcp: frozenset[int] = frozenset()
    exec_sessions: tuple[ExecSession, ...] = ()
    containers: Mapping[str, ContainerUsage] = field(default_factory=lambda: MappingProxyType({}))


def read_pod(value: Mapping[str, Any]) -> KeeperPod:
    """Read one pod status. Raises FormatError."""
    try:
        refused = value.get("refused")
        containers = value.get("containers") or {}
        return KeeperPod(
            uid=str(value["pod"]),
            namespace=str(value.get("namespace") or ""),
            name=str(value.get("name") or ""),
            state=PodState(value["state"]),
            since_unix=float(value.get("since") or 0.0),
            since_boot=_optional_float(value.get("since_boot")),
            image_bytes=int(value.get("image_bytes") or 0),
            held_packets=int(value.get("held_packets") or 0),
            reason=str(value.get("reason") or ""),
            last_sleep_seconds=_optional_float(value.get("last_sleep_seconds")),
            last_wake_seconds=_optional_float(value.get("last_wake_seconds")),
            refused=read_refusal(refused) if isinstance(refused, dict) else None,
            container_ids=MappingProxyType(
                {str(n): str(c.get("id") or "") for n, c in containers.items()}
            ),
            has_living_containers=any(c.get("init_pid") for c in containers.values()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"keeper's pod status is malformed: {error!r} in {value!r:.200}"
        ) from error


def read_refusal(value: Mapping[str, Any]) -> Refusal:
    """Read ``{"reason", "message", "hint"}``."""
    return Refusal(
        reason=str(value.get("reason") or "Unknown"),
        message=str(value.get("message") or ""),
        hint=str(value.get("hint") or ""),
    )


def read_finding(value: Mapping[str, Any]) -> Finding:
    """Read one finding of ``check``; an older keeper's have no weight. Raises FormatError."""
    try:
        return Finding(
            container=str(value["container"]),
            reason=str(value["reason"]),
            message=str(value["message"]),
            hint=str(value.get("hint") or ""),
            is_blocking=value["is_blocking"] is True,
            is_lasting=value.get("about") == "processes",
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"keeper's finding is malformed: {error!r} in {value!r:.200}") from error


def read_observation(value: Mapping[str, Any]) -> Observation:
    """Read one observation. Raises FormatError."""
    try:
        syn = value.get("last_real_syn")
        source = value.get("last_source")
        return Observation(
            uid=str(value["pod"]),
            state=PodState(value["state"]),
            now=float(value["now"]),
            packets=int(value["packets"]),
            local_packets=int(value.get("local_packets") or 0),
            node_packets=int(value.get("node_packets") or 0),
            last_source=None
            if source is None
            else Source(
                seconds_ago=max(0.0, float(source["seconds_ago"])),
                address=str(source.get("from") or "?"),
                port=int(source.get("port") or 0),
                sources=int(source.get("sources") or 1),
            ),
            last_real_syn=None
            if syn is None
            else Syn(
                seconds_ago=max(0.0, float(syn["seconds_ago"])),
                source=str(syn.get("from") or "?"),
                port=int(syn.get("port") or 0),
            ),
            connections=tuple(
                Connection(
                    local=str(c["local"]),
                    remote=str(c["remote"]),
                    idle_seconds=max(0.0, float(c.get("idle_seconds") or 0.0)),
                )
                for c in value.get("connections") or ()
            ),
            listening_tcp=frozenset(
                int(p["port"]) for p in value.get("listening") or () if p.get("proto") == "tcp"
            ),
            exec_sessions=tuple(
                ExecSession(
                    pid=int(s["pid"]),
                    command=_command(s.get("command")),
                    container=str(s.get("container") or ""),
                    argv=tuple(str(word) for word in s.get("argv") or ()),
                )
                for s in value.get("exec_sessions") or ()
            ),
            containers=MappingProxyType(
                {
                    str(name): ContainerUsage(
                        cpu_seconds=float(c["cpu_seconds"]),
                        memory_bytes=int(c.get("memory_bytes") or 0),
                        started_unix=float(c.get("started") or 0.0),
                        age_seconds=_optional_float(c.get("age_seconds")),
                        processes=int(c.get("processes") or 0),
                    )
                    for name, c in (value.get("containers") or {}).items()
                }
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"keeper's observation is malformed: {error!r} in {value!r:.200}"
        ) from error


def _command(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(word) for word in value)
    return str(value or "?")


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


def port_of(endpoint: str) -> int:
    """Return the port of ``ip:port`` or ``[ip]:port``; 0 if there is none."""
    port = endpoint.rpartition(":")[2]
    return int(port) if port.isdigit() else 0
