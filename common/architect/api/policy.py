"""What a pod's owner wants, as the webhook read it: the value of ``architect.dev/policy``.

The webhook translates the user's annotations (ours and the vendor-compatible ones) into this one
JSON object; the engine passes it to the runtime in config.json, so that no call leaves the node
when a container starts. Version 1::

    {"version": 1, "migrate": "true", "on_restore_failure": "fresh", "start_from": null,
     "priority": null,
     "containers": {"app": {"idle_seconds": 60.0, "warmup_seconds": 0.0, "wake_on": "packets",
                            "shadow_ports": [9090],
                            "probes": [{"kind": "http", "port": 8080},
                                       {"kind": "exec", "argv": ["pg_isready"]}]}}}

A container that is not listed is not managed.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeVar

POLICY_VERSION: Final = 1

LEAST_PRIORITY: Final = -(2**31)
MOST_PRIORITY: Final = 1_000_000_000
"""As a PriorityClass of a user may have them. Kubernetes keeps what is higher for its own classes,
whose pods no annotation is to overtake."""

_E = TypeVar("_E", bound=enum.Enum)


class PolicyError(ValueError):
    """A policy that cannot be read; the text names the key and the value."""


class WakeOn(enum.Enum):
    """What wakes a container and what keeps it awake."""

    PACKETS = "packets"
    """Any packet to a port on which it listens."""
    CONNECTIONS = "connections"
    """As packets; besides, an open TCP connection keeps it awake."""
    EXEC = "exec"
    """Only ``exec`` or a command wakes it; traffic neither wakes it nor keeps it awake."""


class Migrate(enum.Enum):
    """When the pod's state goes to its replacement."""

    ALWAYS = "true"
    EVICTION = "eviction"
    NEVER = "false"


class OnRestoreFailure(enum.Enum):
    """What happens to a container whose image cannot be restored."""

    FRESH = "fresh"
    RETRY = "retry"
    FAIL = "fail"


class Storage(enum.Enum):
    """Where a saved pod lies until its successor goes on."""

    NODE = "node"
    """On its node's disk alone; its successor's node gets it from there."""
    OBJECT_STORE = "object-store"
    """There, and soon in the object store as well: it does not depend on its node then."""


class ProbeKind(enum.Enum):
    """How kubelet probes a container."""

    HTTP = "http"
    HTTPS = "https"
    TCP = "tcp"
    GRPC = "grpc"
    EXEC = "exec"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One of kubelet's probes of a container."""

    kind: ProbeKind
    port: int | None = None
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ContainerPolicy:
    """What holds for one managed container."""

    idle_seconds: float | None = None
    """Sleep after this long without activity; None: never by itself."""
    warmup_seconds: float = 0.0
    """No sleep this long after the start."""
    wake_on: WakeOn = WakeOn.PACKETS
    shadow_ports: tuple[int, ...] = ()
    """Traffic to these ports neither wakes nor counts as activity."""
    probes: tuple[Probe, ...] = ()
    after_restore: tuple[str, ...] = ()
    """A command that runs in the container once it goes on with another pod's memory."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What holds for one pod."""

    containers: Mapping[str, ContainerPolicy] = field(default_factory=lambda: MappingProxyType({}))
    migrate: Migrate = Migrate.ALWAYS
    move_asleep: bool = True
    """Whether the pod that replaces one that slept goes on sleeping."""
    on_restore_failure: OnRestoreFailure = OnRestoreFailure.FRESH
    start_from: str | None = None
    priority: int | None = None
    """The higher, the earlier it is saved where there is no time for all; None: as the pod's
    PriorityClass says."""
    storage: Storage | None = None
    """None: as the cluster's administrator says."""

    def to_json(self) -> str:
        """Return the canonical JSON: equal policies give equal texts."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """Return the policy as plain JSON values."""
        # Who does not use what came later has a policy that earlier versions of daemon and runtime
        # can read.
        storage = {} if self.storage is None else {"storage": self.storage.value}
        return {
            **storage,
            **({} if self.move_asleep else {"move_asleep": False}),
            "version": POLICY_VERSION,
            "migrate": self.migrate.value,
            "on_restore_failure": self.on_restore_failure.value,
            "start_from": self.start_from,
            "priority": self.priority,
            "containers": {name: _container_dict(c) for name, c in sorted(self.containers.items())},
        }

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """Read what :meth:`to_json` wrote. Raises PolicyError."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PolicyError(f"policy is not JSON: {error}") from error
        return cls.from_dict(value)

    @classmethod
    def from_dict(cls, value: Any, *, is_followed: bool = False) -> Policy:
        """Read what :meth:`to_dict` gave. Raises PolicyError.

        A key that is not known is a wish that cannot be followed, and an error; but for a container
        that a newer version has begun to follow it for (*is_followed*): what is known of it holds.
        """
        fields = _object(value, "policy")
        if fields.get("version") != POLICY_VERSION:
            raise PolicyError(f"policy version {fields.get('version')!r} is not {POLICY_VERSION}")
        if is_followed:
            fields = _known(fields)
        _no_others(fields, _KEYS)
        containers = _object(fields.get("containers", {}), "containers")
        storage = fields.get("storage")
        return cls(
            migrate=_enum(Migrate, fields.get("migrate", "true"), "migrate"),
            move_asleep=_bool(fields.get("move_asleep", True), "move_asleep"),
            on_restore_failure=_enum(
                OnRestoreFailure, fields.get("on_restore_failure", "fresh"), "on_restore_failure"
            ),
            start_from=_optional_str(fields.get("start_from"), "start_from"),
            priority=_priority(fields.get("priority")),
            storage=None if storage is None else _enum(Storage, storage, "storage"),
            containers=MappingProxyType({n: _container(v, n) for n, v in containers.items()}),
        )


_CONTAINER_KEYS: Final = frozenset(
    {"idle_seconds", "warmup_seconds", "wake_on", "shadow_ports", "probes", "after_restore"}
)
_KEYS: Final = frozenset(
    {
        "version",
        "migrate",
        "move_asleep",
        "on_restore_failure",
        "start_from",
        "priority",
        "storage",
        "containers",
    }
)


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a policy and of its containers' rules."""
    containers = {
        name: {key: rule[key] for key in _object(rule, name).keys() & _CONTAINER_KEYS}
        for name, rule in _object(fields.get("containers", {}), "containers").items()
    }
    return {**{key: fields[key] for key in fields.keys() & _KEYS}, "containers": containers}


def _container_dict(container: ContainerPolicy) -> dict[str, Any]:
    # As for a pod's storage.
    hook = {"after_restore": list(container.after_restore)} if container.after_restore else {}
    return {
        **hook,
        "idle_seconds": container.idle_seconds,
        "warmup_seconds": container.warmup_seconds,
        "wake_on": container.wake_on.value,
        "shadow_ports": list(container.shadow_ports),
        "probes": [_probe_dict(p) for p in container.probes],
    }


def _probe_dict(probe: Probe) -> dict[str, Any]:
    if probe.kind is ProbeKind.EXEC:
        return {"kind": probe.kind.value, "argv": list(probe.argv)}
    return {"kind": probe.kind.value, "port": probe.port}


def _container(value: Any, name: str) -> ContainerPolicy:
    fields = _object(value, f"containers.{name}")
    _no_others(fields, _CONTAINER_KEYS)
    idle = fields.get("idle_seconds")
    return ContainerPolicy(
        idle_seconds=None if idle is None else _seconds(idle, f"{name}.idle_seconds"),
        warmup_seconds=_seconds(fields.get("warmup_seconds", 0), f"{name}.warmup_seconds"),
        wake_on=_enum(WakeOn, fields.get("wake_on", "packets"), f"{name}.wake_on"),
        shadow_ports=tuple(
            _port(p, f"{name}.shadow_ports") for p in _list(fields.get("shadow_ports", []), name)
        ),
        probes=tuple(_probe(p, name) for p in _list(fields.get("probes", []), name)),
        after_restore=_words(fields.get("after_restore", []), f"{name}.after_restore"),
    )


def _probe(value: Any, name: str) -> Probe:
    fields = _object(value, f"{name}.probes")
    _no_others(fields, {"kind", "port", "argv"})
    kind = _enum(ProbeKind, fields.get("kind"), f"{name}.probes.kind")
    if kind is ProbeKind.EXEC:
        argv = _words(fields.get("argv"), f"{name}.probes.argv")
        if not argv:
            raise PolicyError(f"{name}.probes.argv: {argv!r} is not a list of words")
        return Probe(kind=kind, argv=argv)
    return Probe(kind=kind, port=_port(fields.get("port"), f"{name}.probes.port"))


def _object(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{key}: {value!r:.80} is not an object")
    return value


def _no_others(fields: dict[str, Any], known: Set[str]) -> None:
    if unknown := sorted(fields.keys() - known):
        raise PolicyError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise PolicyError(f"{key}: {value!r:.80} is not a list")
    return value


def _words(value: Any, key: str) -> tuple[str, ...]:
    if not all(isinstance(word, str) for word in _list(value, key)):
        raise PolicyError(f"{key}: {value!r:.80} is not a list of words")
    return tuple(value)


def _seconds(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise PolicyError(f"{key}: {value!r:.80} is not a number of seconds")
    return float(value)


def _port(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise PolicyError(f"{key}: {value!r:.80} is not a port (1-65535)")
    return value


def _bool(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"{key}: {value!r:.80} is neither true nor false")
    return value


def _optional_str(value: Any, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise PolicyError(f"{key}: {value!r:.80} is not a string")
    return value


def _priority(value: Any) -> int | None:
    if value is None:
        return None
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or not LEAST_PRIORITY <= value <= MOST_PRIORITY:
        raise PolicyError(
            f"priority: {value!r:.80} is not an integer from {LEAST_PRIORITY} to {MOST_PRIORITY}"
        )
    return int(value)


def _enum(kind: type[_E], value: Any, key: str) -> _E:
    try:
        return kind(value)
    except ValueError:
        allowed = ", ".join(str(e.value) for e in kind)
        raise PolicyError(f"{key}: {value!r:.80} is not one of {allowed}") from None
