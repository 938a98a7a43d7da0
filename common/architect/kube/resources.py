"""The kinds that we read or write, and their paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from architect.api import names


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One kind of object, as its URL names it."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(
        self, *, namespace: str | None = None, name: str | None = None, subresource: str = ""
    ) -> str:
        """Return the URL's path: of one object, of a namespace's, or of all."""
        parts = ["apis", self.group] if self.group else ["api"]
        parts.append(self.version)
        if self.is_namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(quote(part, safe="") for part in parts)


PODS: Final = Resource(group="", version="v1", plural="pods", kind="Pod")
NODES: Final = Resource(group="", version="v1", plural="nodes", kind="Node", is_namespaced=False)
SECRETS: Final = Resource(group="", version="v1", plural="secrets", kind="Secret")
CONFIG_MAPS: Final = Resource(group="", version="v1", plural="configmaps", kind="ConfigMap")
PERSISTENT_VOLUME_CLAIMS: Final = Resource(
    group="", version="v1", plural="persistentvolumeclaims", kind="PersistentVolumeClaim"
)
LIMIT_RANGES: Final = Resource(group="", version="v1", plural="limitranges", kind="LimitRange")
DAEMON_SETS: Final = Resource(group="apps", version="v1", plural="daemonsets", kind="DaemonSet")
REPLICA_SETS: Final = Resource(group="apps", version="v1", plural="replicasets", kind="ReplicaSet")
STATEFUL_SETS: Final = Resource(
    group="apps", version="v1", plural="statefulsets", kind="StatefulSet"
)
REPLICATION_CONTROLLERS: Final = Resource(
    group="", version="v1", plural="replicationcontrollers", kind="ReplicationController"
)
AUTOSCALERS: Final = Resource(
    group="autoscaling",
    version="v2",
    plural="horizontalpodautoscalers",
    kind="HorizontalPodAutoscaler",
)
JOBS: Final = Resource(group="batch", version="v1", plural="jobs", kind="Job")
EVENTS: Final = Resource(group="events.k8s.io", version="v1", plural="events", kind="Event")
LEASES: Final = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
SIGNING_REQUESTS: Final = Resource(
    group="certificates.k8s.io",
    version="v1",
    plural="certificatesigningrequests",
    kind="CertificateSigningRequest",
    is_namespaced=False,
)
SIGNERS: Final = Resource(
    group="certificates.k8s.io",
    version="v1",
    plural="signers",
    kind="Signer",
    is_namespaced=False,
)
"""No objects: RBAC names a signer so."""
SUBJECT_ACCESS_REVIEWS: Final = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="subjectaccessreviews",
    kind="SubjectAccessReview",
    is_namespaced=False,
)
"""Nothing is kept of them: whoever creates one is answered in its status."""
MUTATING_WEBHOOKS: Final = Resource(
    group="admissionregistration.k8s.io",
    version="v1",
    plural="mutatingwebhookconfigurations",
    kind="MutatingWebhookConfiguration",
    is_namespaced=False,
)
VALIDATING_WEBHOOKS: Final = Resource(
    group="admissionregistration.k8s.io",
    version="v1",
    plural="validatingwebhookconfigurations",
    kind="ValidatingWebhookConfiguration",
    is_namespaced=False,
)
CHECKPOINTS: Final = Resource(
    group=names.GROUP, version=names.VERSION, plural="checkpoints", kind="Checkpoint"
)
PERSISTENT_CHECKPOINTS: Final = Resource(
    group=names.GROUP,
    version=names.VERSION,
    plural="persistentcheckpoints",
    kind="PersistentCheckpoint",
)


@dataclass(frozen=True, kw_only=True)
class ObjectRef:
    """One object, by name and, where it matters that it is still the same one, by uid."""

    resource: Resource
    name: str
    namespace: str | None = None
    uid: str = ""

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.resource.plural} {where}"

    @classmethod
    def of(cls, resource: Resource, value: dict[str, Any]) -> ObjectRef:
        """Return the reference to an object that the server sent."""
        metadata = value["metadata"]
        return cls(
            resource=resource,
            name=metadata["name"],
            namespace=metadata.get("namespace"),
            uid=metadata.get("uid", ""),
        )

    def to_owner(self) -> dict[str, Any]:
        """Return this object as an entry of ``metadata.ownerReferences``."""
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "name": self.name,
            "uid": self.uid,
        }

    def to_regarding(self) -> dict[str, Any]:
        """Return this object as an event refers to it."""
        value = {
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "name": self.name,
            "uid": self.uid,
        }
        if self.namespace:
            value["namespace"] = self.namespace
        return value


def pod(namespace: str, name: str, *, uid: str) -> ObjectRef:
    """Return the reference to a pod."""
    return ObjectRef(resource=PODS, namespace=namespace, name=name, uid=uid)


def node(name: str, *, uid: str = "") -> ObjectRef:
    """Return the reference to a node. Kubelet's own events use the node's name as uid."""
    return ObjectRef(resource=NODES, name=name, uid=uid)
