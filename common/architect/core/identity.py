"""Who a pod is, beyond its own life: what the pod that replaces it has in common with it.

Two pods are the same to their owner if they have the same namespace, controller and, where the
owner counts its pods, ordinal. Memory fits from one into the other if, besides, both were made
from the same template. :func:`template_hash` is over the *meaning* of the pod's spec as the API
server returns it, after admission, so that it is computed alike on two nodes from two pods; the
owner's own hashes do not serve: StatefulSets and Jobs have none over the template, and two labels
that are missing compare equal.

**What is in.** Everything that a process is started with or sees: of each container and init
container its image, command, environment, ports, mounts, security context, limits and lifecycle
hooks, the volumes, the pod's security context, its namespaces, service account, runtime class,
restart policy and name resolution. A StatefulSet's claims keep their names: they belong to the
ordinal.

**What is out**, since it differs between two pods of one template, changes while a pod runs, or
never reaches a process:

- names: the pod's, its hostname and subdomain, and the random part of the service account token's
  volume (``kube-api-access-x7k2p``), with the place of its mount;
- where and when it may run: node, affinity, tolerations, priority, gates, overhead. Admission adds
  to them, and controllers lift gates;
- requests, which we lower ourselves while a pod sleeps, and how a resize is done;
- probes: kubelet asks whichever process is there, and our webhook leads their ports elsewhere;
- how an image got onto the node: pull policy and secrets, which admission fills in;
- ephemeral containers, readiness gates and deadlines: they come and go with one pod;
- metadata and status altogether.

**A field that is not known here is in.** A later Kubernetes, or an admission webhook, may add one
that matters to memory, and the two mistakes do not weigh the same: a field too many costs a fresh
start, with that field's name in the reason, while a field too few restores memory into a pod that
is set up in another way, and says nothing.

The order of a list counts (environment, arguments, init containers), but for volumes and their
mounts: a StatefulSet's controller appends its claims in no order, and no order means anything
there.

Standard library only, pure, nothing given is changed. What is not a pod raises FormatError.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.core import podspec
from architect.core.errors import FormatError
from architect.core.podspec import Object

HASH_VERSION: Final = "v1"
"""Of what is in the hash and how; hashes of two versions say nothing about each other."""

MAX_PARTS: Final = 256
"""With more parts than this a container is one part as a whole."""

STATEFUL_SET: Final = ("apps", "StatefulSet")
JOB: Final = ("batch", "Job")
DAEMON_SET: Final = ("apps", "DaemonSet")

_POD_INDEX: Final = "apps.kubernetes.io/pod-index"
_COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"
_ORDINAL: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_ORDINAL: Final = 2**31 - 1

_SPEC_LEFT_OUT: Final = frozenset(
    {
        # Names.
        "hostname",
        "hostnameOverride",
        "subdomain",
        # Where and when.
        "affinity",
        "nodeName",
        "nodeSelector",
        "overhead",
        "preemptionPolicy",
        "priority",
        "priorityClassName",
        "schedulerName",
        "schedulingGates",
        "schedulingGroup",
        "tolerations",
        "topologySpreadConstraints",
        "workloadRef",
        # How images came.
        "imagePullSecrets",
        # Of one pod's life.
        "activeDeadlineSeconds",
        "ephemeralContainers",
        "readinessGates",
        # An old name of serviceAccountName.
        "serviceAccount",
    }
)
_CONTAINER_LEFT_OUT: Final = frozenset({*podspec.PROBES, "imagePullPolicy", "name", "resizePolicy"})
_RESOURCES_LEFT_OUT: Final = frozenset({"requests"})

_CONTAINER_LISTS: Final = {"containers": "container", "initContainers": "init container"}
_ONE_BY_ONE: Final = frozenset({*_CONTAINER_LISTS, "resources", "volumes"})

_TOKEN_VOLUME: Final = re.compile(r"kube-api-access-[a-z0-9]{5}")
_TOKEN_VOLUME_NAME: Final = "kube-api-access"
_SHORT_DIGITS: Final = 12


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The controller of a pod."""

    api_version: str
    kind: str
    name: str
    uid: str

    @property
    def group_kind(self) -> tuple[str, str]:
        """The API group and the kind: other groups have a ``StatefulSet`` of their own."""
        group, slash, _ = self.api_version.partition("/")
        return (group if slash else "", self.kind)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a pod has in common with the one that replaces it."""

    namespace: str
    owner: Owner
    ordinal: int | None
    """The pod's number, for owners that count: a StatefulSet and an indexed Job."""
    template_hash: str


def identity_of(pod: Object) -> Identity | None:
    """Return the identity of *pod*, or None if nobody can replace it as itself.

    That is a pod without a controller, or a StatefulSet's without a number, which the StatefulSet
    does not look after either. Raises FormatError if it is not a pod.
    """
    owner = owner_of(pod)
    if owner is None:
        return None
    ordinal = _ordinal(pod, owner)
    if ordinal is None and owner.group_kind == STATEFUL_SET:
        return None
    return Identity(
        namespace=_required(podspec.fields(pod.get("metadata"), "metadata"), "namespace"),
        owner=owner,
        ordinal=ordinal,
        template_hash=template_hash(pod),
    )


def owner_of(pod: Object) -> Owner | None:
    """Return the controller of *pod*; None without one. Raises FormatError."""
    metadata = podspec.fields(pod.get("metadata"), "metadata")
    for reference in podspec.items(metadata.get("ownerReferences"), "metadata.ownerReferences"):
        if reference.get("controller") is True:
            return Owner(
                api_version=_required(reference, "apiVersion"),
                kind=_required(reference, "kind"),
                name=_required(reference, "name"),
                uid=_required(reference, "uid"),
            )
    return None


def template_hash(pod: Object) -> str:
    """Return ``v1:`` and 64 hexadecimal digits over what *pod* was made from.

    The module's text says what is in. Raises FormatError if it is not a pod.
    """
    return f"{HASH_VERSION}:{_digest(list(_parts(pod)))}"


def hash_version(template_hash: str) -> str:
    """Return the version of a template hash, empty if it has none."""
    return template_hash.partition(":")[0] if ":" in template_hash else ""


def parts(pod: Object) -> dict[str, str]:
    """Return each part of what *pod* was made from, by name, with a short hash of it.

    Kept beside a checkpoint, so that a difference can be named although its pod is gone:
    ``container app: image``, ``volume data``, ``hostNetwork``. For explanations only: 48 bits say
    that two parts differ, the template hash says that none does. Raises FormatError.
    """
    found = list(_parts(pod))
    if len(found) > MAX_PARTS:
        found = list(_whole_containers(found))
    return {name: _digest(value)[:_SHORT_DIGITS] for name, value in found}


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the parts that only one side has or that differ, sorted.

    A container or volume that only one side has is named once, not with each of its fields.
    """
    lonely = _groups(theirs) ^ _groups(ours)
    different = (n for n in theirs.keys() | ours.keys() if theirs.get(n) != ours.get(n))
    return tuple(sorted({g if (g := _group(name)) in lonely else name for name in different}))


def _parts(pod: Object) -> Iterator[tuple[str, Any]]:
    """Yield name and canonical value of each part, in an order that depends on nothing else."""
    spec = podspec.spec(pod)
    token_volume = _token_volume(spec)
    for key in sorted(spec.keys() - _SPEC_LEFT_OUT - _ONE_BY_ONE):
        if spec[key] is not None:
            yield key, _canonical(spec[key])
    resources = _resources(spec.get("resources"), "spec.resources")
    if resources:
        yield "resources", resources
    for key, word in _CONTAINER_LISTS.items():
        containers = podspec.items(spec.get(key), f"spec.{key}")
        # The order in which they start, and their number.
        yield key, [_required(c, "name") for c in containers]
        for container in containers:
            yield from _container_parts(container, word, token_volume)
    volumes = [
        (_renamed(_required(volume, "name"), token_volume), volume)
        for volume in podspec.items(spec.get("volumes"), "spec.volumes")
    ]
    for name, volume in sorted(volumes, key=lambda v: v[0]):
        yield f"volume {name}", _canonical({k: v for k, v in volume.items() if k != "name"})


def _container_parts(
    container: Object, word: str, token_volume: str | None
) -> Iterator[tuple[str, Any]]:
    name = _required(container, "name")
    for key in sorted(container.keys() - _CONTAINER_LEFT_OUT):
        value = container[key]
        if key == "resources":
            value = _resources(value, f"{word} {name}: resources")
            if not value:
                continue
        elif key == "volumeMounts":
            value = _mounts(value, f"{word} {name}: volumeMounts", token_volume)
        if value is not None:
            yield f"{word} {name}: {key}", _canonical(value)


def _resources(value: Any, path: str) -> dict[str, Any]:
    return {
        key: _canonical(amount)
        for key, amount in podspec.fields(value, path).items()
        if key not in _RESOURCES_LEFT_OUT and amount
    }


def _mounts(value: Any, path: str, token_volume: str | None) -> list[dict[str, Any]]:
    """Return mounts in the order of their paths, of which a container has each once."""
    mounts = [
        {**mount, "name": _renamed(_required(mount, "name"), token_volume)}
        for mount in podspec.items(value, path)
    ]
    return sorted(mounts, key=lambda m: str(m.get("mountPath")))


def _token_volume(spec: Object) -> str | None:
    """Return the name of the volume that admission added for the service account's token.

    None if several look like it: then their names count, as two equal names would hide which of
    them a container mounts.
    """
    found = []
    for volume in podspec.items(spec.get("volumes"), "spec.volumes"):
        name = _required(volume, "name")
        projected = podspec.fields(volume.get("projected"), "projected")
        sources = podspec.items(projected.get("sources"), "projected.sources")
        if _TOKEN_VOLUME.fullmatch(name) and any("serviceAccountToken" in s for s in sources):
            found.append(name)
    taken = any(v.get("name") == _TOKEN_VOLUME_NAME for v in spec.get("volumes") or ())
    return found[0] if len(found) == 1 and not taken else None


def _renamed(name: str, token_volume: str | None) -> str:
    return _TOKEN_VOLUME_NAME if name == token_volume else name


def _whole_containers(found: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    groups: dict[str, list[Any]] = {}
    for name, value in found:
        groups.setdefault(_group(name), []).append([name, value])
    yield from groups.items()


def _groups(side: Mapping[str, str]) -> set[str]:
    return {_group(name) for name in side}


def _group(name: str) -> str:
    """Return what a part belongs to: ``container app`` of ``container app: image``."""
    return name.partition(": ")[0]


def _ordinal(pod: Object, owner: Owner) -> int | None:
    if owner.group_kind == STATEFUL_SET:
        return _stateful_ordinal(pod, owner)
    if owner.group_kind == JOB:
        # The Job's controller believes the annotation; the label is its copy.
        for values in (podspec.annotations_of(pod), podspec.labels_of(pod)):
            if _COMPLETION_INDEX in values:
                return _number(values[_COMPLETION_INDEX])
    return None


def _stateful_ordinal(pod: Object, owner: Owner) -> int | None:
    """Return the number in the pod's name, which is what the controller goes by.

    The label repeats it. It can be changed on a living pod and the name cannot, so a label that
    says something else makes the pod nobody's rather than another ordinal's.
    """
    name = _required(podspec.fields(pod.get("metadata"), "metadata"), "name")
    prefix = f"{owner.name}-"
    ordinal = _number(name.removeprefix(prefix)) if name.startswith(prefix) else None
    label = podspec.labels_of(pod).get(_POD_INDEX)
    return ordinal if label is None or _number(label) == ordinal else None


def _number(text: str) -> int | None:
    """Return a pod's number as controllers write it; None for anything else."""
    if not _ORDINAL.fullmatch(text):
        return None
    number = int(text)
    return number if number <= _MAX_ORDINAL else None


def _canonical(value: Any) -> Any:
    """Return *value* without fields that are null, which the API takes for absent."""
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_canonical(v) for v in value]
    return value


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _required(value: Object, key: str) -> str:
    text = podspec.text(value.get(key), key)
    if text is None:
        raise FormatError(f"{key} is empty")
    return text
