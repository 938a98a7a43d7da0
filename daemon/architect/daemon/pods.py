"""What the daemon keeps of a pod: the few fields it decides upon, read from the API's JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from architect.api import names
from architect.api.policy import Migrate, Policy, PolicyError
from architect.core.errors import Rejected

RESOURCES: Final = ("cpu", "memory")
"""The resources that an in-place resize may change."""

TERMINAL: Final = frozenset({"Succeeded", "Failed"})
"""Phases in which no container of a pod will ever run again."""


@dataclass(frozen=True, kw_only=True)
class PodContainer:
    """One app container of a pod."""

    name: str
    is_running: bool
    is_ready: bool
    requests: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    limits: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    restarts_on_resize: frozenset[str] = frozenset()
    """Resources whose ``resizePolicy`` restarts the container."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A pod or node condition, as far as it matters."""

    status: str
    reason: str = ""
    message: str = ""
    since: str = ""
    """``lastTransitionTime`` as the API wrote it."""


@dataclass(frozen=True, kw_only=True)
class ManagedPod:
    """A pod of this node with a policy."""

    uid: str
    namespace: str
    name: str
    policy: Policy
    containers: Mapping[str, PodContainer]
    """All app containers, managed or not."""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    original_requests: Mapping[str, Mapping[str, str]] | None = None
    """What the annotation holds; None without it."""
    conditions: Mapping[str, Condition] = field(default_factory=lambda: MappingProxyType({}))
    resource_version: int = 0
    owner: Mapping[str, str] | None = None
    """The controlling owner's ``apiVersion``, ``kind``, ``name`` and ``uid``."""
    phase: str = "Running"
    qos_class: str = "Burstable"
    is_terminating: bool = False
    has_pod_resources: bool = False
    """``spec.resources``: requests of the pod as a whole, which container requests do not lower."""
    is_gvisor: bool = False
    """It runs under gVisor, does not sleep, and starts from a PersistentCheckpoint or fresh."""
    debug_containers: tuple[str, ...] = ()
    """Running ephemeral containers: somebody is looking at the pod."""
    class_priority: int = 0
    """What its PriorityClass gave the pod."""

    @property
    def full_name(self) -> str:
        """``namespace/name``, for people."""
        return f"{self.namespace}/{self.name}"

    @property
    def managed(self) -> tuple[str, ...]:
        """Names of the containers that the policy manages and that exist, sorted."""
        return tuple(sorted(n for n in self.policy.containers if n in self.containers))

    @property
    def priority(self) -> int:
        """How early it is saved where there is no time for all: the higher, the earlier."""
        return self.class_priority if self.policy.priority is None else self.policy.priority

    @property
    def is_terminal(self) -> bool:
        """Whether no container of it will ever run again."""
        return self.phase in TERMINAL


def read(value: Mapping[str, Any]) -> ManagedPod | None:
    """Return the pod that the API sent, or None if it is not managed.

    Raises Rejected(BadPolicy) if its policy annotation cannot be read: anybody who may change the
    pod may have written it.
    """
    metadata = value["metadata"]
    annotations = metadata.get("annotations") or {}
    text = annotations.get(names.POLICY)
    if text is None:
        return None
    try:
        policy = Policy.from_json(text)
    except PolicyError as error:
        raise Rejected(
            f"pod {metadata['namespace']}/{metadata['name']}: annotation {names.POLICY}: {error}",
            reason="BadPolicy",
            hint="the webhook writes it when a pod is created; delete the pod",
        ) from error
    if not policy.containers:
        return None
    spec, status = value.get("spec") or {}, value.get("status") or {}
    is_gvisor = spec.get("runtimeClassName") == names.RUNTIME_CLASS_GVISOR
    if is_gvisor:
        # As the webhook writes it; but whoever may change the pod may change that.
        policy = dataclasses.replace(policy, migrate=Migrate.NEVER)
    statuses = {s["name"]: s for s in status.get("containerStatuses") or ()}
    return ManagedPod(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        policy=policy,
        containers=MappingProxyType(
            {c["name"]: _container(c, statuses.get(c["name"], {})) for c in spec["containers"]}
        ),
        labels=MappingProxyType(
            {
                key: label
                for key, label in (metadata.get("labels") or {}).items()
                if key.startswith(names.STATUS_LABEL_PREFIX)
            }
        ),
        original_requests=_original(annotations.get(names.ORIGINAL_REQUESTS)),
        conditions=MappingProxyType(
            {
                c["type"]: Condition(
                    status=c.get("status", ""),
                    reason=c.get("reason") or "",
                    message=c.get("message") or "",
                    since=c.get("lastTransitionTime") or "",
                )
                for c in status.get("conditions") or ()
            }
        ),
        resource_version=version_of(value),
        owner=_controller(metadata.get("ownerReferences") or ()),
        phase=status.get("phase") or "Pending",
        qos_class=status.get("qosClass") or "Burstable",
        is_terminating=bool(metadata.get("deletionTimestamp")),
        has_pod_resources=bool((spec.get("resources") or {}).get("requests")),
        is_gvisor=is_gvisor,
        debug_containers=tuple(
            s["name"]
            for s in status.get("ephemeralContainerStatuses") or ()
            if (s.get("state") or {}).get("running") is not None
        ),
        class_priority=int(spec.get("priority") or 0),
    )


def _container(spec: Mapping[str, Any], status: Mapping[str, Any]) -> PodContainer:
    resources = spec.get("resources") or {}
    return PodContainer(
        name=spec["name"],
        is_running=(status.get("state") or {}).get("running") is not None,
        is_ready=bool(status.get("ready")),
        requests=_resources(resources.get("requests")),
        limits=_resources(resources.get("limits")),
        restarts_on_resize=frozenset(
            p["resourceName"]
            for p in spec.get("resizePolicy") or ()
            if p.get("restartPolicy") == "RestartContainer"
        ),
    )


def _resources(value: Mapping[str, Any] | None) -> Mapping[str, str]:
    return MappingProxyType({r: str(q) for r, q in (value or {}).items() if r in RESOURCES})


def _original(text: str | None) -> Mapping[str, Mapping[str, str]] | None:
    """Read the annotation; what somebody made unreadable counts as lost, not as an error.

    The requests then stay as they are, which :mod:`architect.daemon.resize` says aloud.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return MappingProxyType({})
    if not isinstance(value, dict):
        return MappingProxyType({})
    return MappingProxyType(
        {
            str(name): _resources(requests)
            for name, requests in value.items()
            if isinstance(requests, dict)
        }
    )


def version_of(value: Mapping[str, Any]) -> int:
    """Return the resourceVersion, which grows with every write (KEP-5504); 0 if it is no number."""
    text = str(value["metadata"].get("resourceVersion") or "")
    return int(text) if text.isdigit() else 0


def _controller(owners: Sequence[Mapping[str, Any]]) -> Mapping[str, str] | None:
    for owner in owners:
        if owner.get("controller"):
            return MappingProxyType(
                {key: str(owner[key]) for key in ("apiVersion", "kind", "name", "uid")}
            )
    return None
