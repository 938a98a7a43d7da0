"""Which containers are managed, and what config.json becomes for them. Pure.

Reasons not to manage a container that asks for it:

====================  =============================================================================
``NoPolicy``          the webhook has not seen the pod
``BadPolicy``         the policy or a stand-alone container's annotation cannot be read
``NoProcess``         config.json names no command
``HostNetwork``       the pod's network namespace is the node's: its packets cannot be held
``HostPid``           the container sees the node's processes
``SharedPidNamespace``  our init would not be PID 1
``UserNamespace``     not supported yet
``Terminal``          a terminal cannot be dumped
``InitSystem``        an init of its own, which insists on being PID 1: it would end at once
``DevIsBind``         /dev is no tmpfs: our init would leave a trace outside of the container
``ProcMount``         /proc is not the container's own: CRIU would believe what it finds there
``Capability``        the container could reach CRIU: see :mod:`architect.core.capabilities`
``ExecutableNotFound``  left to the lower runtime, which says it in its own words
``IdInUse``           another engine's managed container has the same id (found by :mod:`.create`)
====================  =============================================================================
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from architect.api.policy import Policy, PolicyError
from architect.core import capabilities
from architect.shim import seccomp

Spec = dict[str, Any]

STAND_ALONE_NAME: Final = "main"
"""The container's name in the policy of a container that no Kubernetes engine started."""

_CONTAINER: Final = "container"

INIT_SYSTEMS: Final = frozenset({"init", "openrc-init", "runit-init", "s6-linux-init", "systemd"})
"""Programs that run as PID 1 or not at all; ``/init`` is that of s6-overlay."""

TRACER: Final = "Tracer"
"""Reason in the note of a container that could reach CRIU in another one of its pod."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which container of which pod a config.json is for."""

    pod: str
    namespace: str
    pod_name: str
    container: str
    sandbox_id: str | None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A container whose owner wants it managed."""

    identity: Identity
    policy: Policy


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Why a container that asks for it is not managed."""

    identity: Identity
    reason: str
    message: str


def wanted(spec: Spec, *, container_id: str) -> Wanted | Refused | None:
    """Return what the annotations of *spec* ask for; None: nothing, as of sandboxes."""
    annotations: Mapping[str, str] = spec.get("annotations") or {}
    kind = first(annotations, names.CRI_CONTAINER_TYPE)
    if kind is None:
        return _stand_alone(annotations, container_id=container_id)
    if kind != _CONTAINER:
        return None
    identity = identity_of(annotations)
    text = annotations.get(names.POLICY)
    if text is None:
        if not any(key in annotations for key in names.USER_ANNOTATIONS):
            return None
        return Refused(
            identity=identity,
            reason="NoPolicy",
            message=f"the pod has no annotation {names.POLICY}: "
            "the webhook did not see it; recreate the pod",
        )
    try:
        policy = Policy.from_json(text)
    except PolicyError as error:
        return Refused(identity=identity, reason="BadPolicy", message=str(error))
    if identity.container not in policy.containers:
        return None
    if not identity.pod:
        return Refused(identity=identity, reason="BadPolicy", message="the engine names no pod uid")
    return Wanted(identity=identity, policy=policy)


def tracer(spec: Spec) -> Refused | None:
    """Return why the pod must not sleep or wake while the container of *spec* is there.

    It is an unmanaged one that joins the processes of another (``kubectl debug --target``) with a
    capability that reaches CRIU.
    """
    annotations: Mapping[str, str] = spec.get("annotations") or {}
    if first(annotations, names.CRI_CONTAINER_TYPE) != _CONTAINER:
        return None
    joined = any(n.get("type") == "pid" and n.get("path") for n in _namespaces(spec))
    refused = capabilities.refused(held_capabilities(spec)) if joined else []
    if not refused:
        return None
    return Refused(
        identity=identity_of(annotations),
        reason=TRACER,
        message="it joins the processes of another container, which cannot sleep or wake "
        f"meanwhile: {capabilities.explained(refused)}",
    )


def identity_of(annotations: Mapping[str, str]) -> Identity:
    """Return which container of which pod an engine of Kubernetes annotates so."""
    return Identity(
        pod=first(annotations, names.CRI_POD_UID) or "",
        namespace=first(annotations, names.CRI_POD_NAMESPACE) or "",
        pod_name=first(annotations, names.CRI_POD_NAME) or "",
        container=first(annotations, names.CRI_CONTAINER_NAME) or "",
        sandbox_id=first(annotations, names.CRI_SANDBOX_ID),
    )


def _stand_alone(annotations: Mapping[str, str], *, container_id: str) -> Wanted | Refused | None:
    if not any(key in annotations for key in (*names.USER_ANNOTATIONS, names.POLICY)):
        return None
    identity = Identity(
        pod=container_id,
        namespace="",
        pod_name="",
        container=STAND_ALONE_NAME,
        sandbox_id=None,
    )
    # Reading users' annotations is the webhook's work; only stand-alone containers pay for it.
    from architect.core.annotations import (
        AnnotationErrors,
        AppContainer,
        policy_from_annotations,
    )

    ours = {key: value for key, value in annotations.items() if key in names.USER_ANNOTATIONS}
    try:
        if (text := annotations.get(names.POLICY)) is not None:
            policy: Policy | None = Policy.from_json(text)
        else:
            policy = policy_from_annotations(ours, [AppContainer(name=STAND_ALONE_NAME)])
    except (AnnotationErrors, PolicyError) as error:
        return Refused(identity=identity, reason="BadPolicy", message=str(error))
    if policy is None or STAND_ALONE_NAME not in policy.containers:
        return None
    return Wanted(identity=identity, policy=policy)


def refusal(
    spec: Spec, *, is_host_network: bool, is_executable_found: bool
) -> tuple[str, str] | None:
    """Return reason and message if the container of *spec* cannot be managed."""
    process = spec.get("process") or {}
    args = process.get("args")
    if not isinstance(args, list) or not args or not all(isinstance(word, str) for word in args):
        return "NoProcess", "config.json names no command"
    namespaces = {n.get("type"): n.get("path") for n in _namespaces(spec)}
    if is_host_network or "network" not in namespaces:
        return "HostNetwork", "the container uses the node's network, whose packets cannot be held"
    if "pid" not in namespaces:
        return "HostPid", "the container sees the node's processes"
    if namespaces["pid"]:
        return (
            "SharedPidNamespace",
            "the container shares a process namespace (shareProcessNamespace)",
        )
    if "user" in namespaces:
        return "UserNamespace", "the container has a user namespace (hostUsers: false)"
    if process.get("terminal"):
        return "Terminal", "the container has a terminal (tty: true), which cannot be dumped"
    name = posixpath.basename(str(process["args"][0]))
    if name in INIT_SYSTEMS and not is_ours(spec):
        return (
            "InitSystem",
            f"the container starts an init of its own ({name}), which runs as PID 1 or not at all",
        )
    if _type_at(spec, "/dev") != "tmpfs":
        return "DevIsBind", "the container's /dev is not a tmpfs of its own"
    if _type_at(spec, "/proc") != "proc":
        return "ProcMount", "the container's /proc is not its own"
    if refused := capabilities.refused(held_capabilities(spec)):
        return (
            "Capability",
            "the container has a capability that reaches CRIU at its work: "
            f"{capabilities.explained(refused)}",
        )
    if not is_executable_found:
        return (
            "ExecutableNotFound",
            f"{process['args'][0]!r:.200} was not found in the container's files",
        )
    return None


def is_ours(spec: Spec) -> bool:
    """Whether *spec* was rewritten already: engines may repeat ``create`` on one bundle.

    Or its owner wrote it so, who gets no init of ours and is judged as anybody (:func:`refusal`).
    """
    return _args(spec)[:1] == [names.INIT_IN_CONTAINER]


def managed(
    spec: Spec, *, init: str, machine: str, denies_io_uring: bool, is_hollow: bool = False
) -> Spec:
    """Return *spec* with our init, the host's file *init*, in front of the command.

    *denies_io_uring*: the kernel does so by itself. The input is not modified.
    """
    process = dict(spec["process"])
    flags = ["--hollow"] if is_hollow else []
    process["args"] = [names.INIT_IN_CONTAINER, *flags, "--", *_args(spec)]
    process["env"] = without_multipath_tcp(list(process.get("env") or ()))
    mount = {
        "type": "bind",
        "source": init,
        "destination": names.INIT_IN_CONTAINER,
        "options": ["bind", "ro", "nosuid", "nodev"],
    }
    result = {**spec, "process": process, "mounts": [*(spec.get("mounts") or ()), mount]}
    if not denies_io_uring:
        linux = dict(_linux(spec))
        profile = seccomp.without_io_uring(linux.get("seccomp"), machine=machine)
        if profile is not None:
            linux["seccomp"] = profile
        result["linux"] = linux
    return result


def held_capabilities(spec: Spec) -> set[str]:
    """Return what any process of the container can get, be it by a set-uid program only."""
    sets = (spec.get("process") or {}).get("capabilities") or {}
    return {str(name) for names_of_set in sets.values() for name in names_of_set or ()}


def without_multipath_tcp(environment: list[str]) -> list[str]:
    """Return *environment* such that Go ≥ 1.24 listens on plain TCP, which CRIU can dump."""
    setting = "multipathtcp=0"
    for at, entry in enumerate(environment):
        name, _, value = entry.partition("=")
        if name != "GODEBUG":
            continue
        if any(part.startswith("multipathtcp=") for part in value.split(",")):
            return environment
        merged = f"GODEBUG={value},{setting}" if value else f"GODEBUG={setting}"
        return [*environment[:at], merged, *environment[at + 1 :]]
    return [*environment, f"GODEBUG={setting}"]


def network_namespace(spec: Spec) -> str | None:
    """Return the path of the network namespace that the container joins."""
    for namespace in _namespaces(spec):
        if namespace.get("type") == "network":
            return namespace.get("path") or None
    return None


def _args(spec: Spec) -> list[str]:
    return list((spec.get("process") or {}).get("args") or ())


def _linux(spec: Spec) -> Mapping[str, Any]:
    return spec.get("linux") or {}


def _namespaces(spec: Spec) -> Sequence[Mapping[str, Any]]:
    return _linux(spec).get("namespaces") or ()


def _type_at(spec: Spec, path: str) -> str | None:
    """Return the type of the last mount on *path*: it covers the ones before."""
    found = None
    for mount in spec.get("mounts") or ():
        if str(mount.get("destination", "")).rstrip("/") == path:
            found = mount.get("type")
    return found


def first(annotations: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    """Return the first annotation of *keys* that is there: each engine has its own."""
    return next((annotations[key] for key in keys if key in annotations), None)
