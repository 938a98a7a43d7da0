"""Read and write objects: one method a verb, one request a call (a list: one a page)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.kube.connection import Request, Stream, Transport, connect
from architect.kube.errors import NotFound
from architect.kube.resources import SECRETS, ObjectRef, Resource

REQUEST_TIMEOUT_SECONDS: Final = 10.0
"""The API server answers in milliseconds; one that restarts comes back within seconds."""

PAGE: Final = 500
"""Objects a page, as kubectl's."""

STREAM_SLACK_SECONDS: Final = 15.0
"""A watch is silent until its first bookmark, about a minute; it ends by the server's clock."""

JsonObject = dict[str, Any]


class PatchKind(enum.Enum):
    """How a patch is to be understood."""

    MERGE = "application/merge-patch+json"
    """Objects are merged, null removes, lists are replaced."""
    STRATEGIC = "application/strategic-merge-patch+json"
    """As merge, but lists with a key (conditions, containers) are merged; built-in kinds only."""
    JSON = "application/json-patch+json"
    """A list of operations; a failed ``test`` is a Rejected of reason ``Invalid``."""
    APPLY = "application/apply-patch+yaml"
    """Server-side apply as our field manager."""


@dataclass(frozen=True, kw_only=True)
class ObjectList:
    """What a list returned."""

    items: tuple[JsonObject, ...]
    resource_version: str


class Api:
    """The API server, as one part of ours sees it.

    *field_manager* (``architect-daemon``, …) is noted in ``managedFields`` beside what we write.
    Safe to use from several threads. Every method raises the errors of :mod:`architect.kube.errors`
    and Unavailable.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        field_manager: str,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> None:
        self._transport = transport
        self._field_manager = field_manager
        self._timeout_seconds = timeout_seconds

    @property
    def field_manager(self) -> str:
        """The name under which we write."""
        return self._field_manager

    def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> JsonObject:
        """Return an object, read from etcd. Raises NotFound."""
        ref = ObjectRef(resource=resource, name=name, namespace=namespace)
        return self._call("GET", ref)

    def find(self, ref: ObjectRef) -> JsonObject | None:
        """Return the object, or None if it is gone or another one bears its name."""
        try:
            value = self._call("GET", ref)
        except NotFound:
            return None
        return value if ref.uid in ("", value["metadata"].get("uid")) else None

    def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        is_cached: bool = False,
    ) -> ObjectList:
        """Return all objects that match the two selectors.

        *is_cached* lets the API server answer from its memory, which may lag behind and costs etcd
        nothing: right for what is repeated, wrong before something is destroyed.
        """
        items: list[JsonObject] = []
        query = _selectors(labels=labels, fields=fields)
        query |= {"resourceVersion": "0"} if is_cached else {"limit": str(PAGE)}
        while True:
            page = self._transport.call(
                Request(
                    method="GET",
                    path=resource.path(namespace=namespace),
                    query=query,
                    what=f"list {resource.plural}",
                    timeout_seconds=self._timeout_seconds,
                    is_secret=resource is SECRETS,
                )
            )
            # A list's items do not say what they are.
            kind = {"apiVersion": resource.api_version, "kind": resource.kind}
            items += ({**kind, **item} for item in page.get("items") or ())
            metadata = page.get("metadata") or {}
            if not (more := metadata.get("continue")):
                return ObjectList(
                    items=tuple(items), resource_version=metadata.get("resourceVersion", "")
                )
            query["continue"] = more

    def create(self, ref: ObjectRef, value: JsonObject) -> JsonObject:
        """Create *value* and return it as stored. Raises AlreadyExists."""
        return self._call("POST", ref, body=value, query={"fieldManager": self._field_manager})

    def patch(
        self,
        ref: ObjectRef,
        value: Any,
        *,
        kind: PatchKind = PatchKind.MERGE,
        subresource: str = "",
        resource_version: str = "",
    ) -> JsonObject:
        """Patch an object and return it as stored.

        Raises NotFound if it is gone or, where *ref* has a uid, another one bears its name;
        Conflict if it is no longer of *resource_version*, where that is given. Both need a patch
        that is an object.
        """
        if isinstance(value, dict):
            value = _with_preconditions(value, uid=ref.uid, resource_version=resource_version)
        query = {"fieldManager": self._field_manager}
        if kind is PatchKind.APPLY:
            query["force"] = "true"
        return self._call(
            "PATCH",
            ref,
            body=value,
            content_type=kind.value,
            subresource=subresource,
            query=query,
        )

    def delete(
        self,
        ref: ObjectRef,
        *,
        resource_version: str = "",
        grace_seconds: int | None = None,
        propagation: str = "Background",
    ) -> None:
        """Delete an object; one that is gone already, or replaced by another, is a success.

        Raises Conflict if it is no longer of *resource_version*, where that is given.
        """
        preconditions = {}
        if ref.uid:
            preconditions["uid"] = ref.uid
        if resource_version:
            preconditions["resourceVersion"] = resource_version
        body: JsonObject = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
        }
        if preconditions:
            body["preconditions"] = preconditions
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        try:
            self._call("DELETE", ref, body=body)
        except NotFound:
            return

    def proxied(
        self,
        pod: ObjectRef,
        *,
        port: int,
        path: str,
        query: Mapping[str, str],
        timeout_seconds: float,
    ) -> Any:
        """Return the JSON that *pod* itself serves at *path*, asked by the API server.

        Whoever asks needs ``get`` on ``pods/proxy``. Raises Forbidden; NotFound also if the pod
        serves no such path; Retryable also if it does not answer.
        """
        place = pod.resource.path(
            namespace=pod.namespace, name=f"{pod.name}:{port}", subresource="proxy"
        )
        return self._transport.call(
            Request(
                method="GET",
                path=place + path,
                query=query,
                what=f"ask {pod} for {path}",
                timeout_seconds=timeout_seconds,
            )
        )

    def stream(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        seconds: int,
    ) -> Stream:
        """Return the lines of a watch that the server ends after *seconds*.

        For :class:`architect.kube.watch.Watcher`, which makes objects of them.
        """
        query = _selectors(labels=labels, fields=fields)
        query |= {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        }
        return self._transport.stream(
            Request(
                method="GET",
                path=resource.path(namespace=namespace),
                query=query,
                what=f"watch {resource.plural}",
                timeout_seconds=seconds + STREAM_SLACK_SECONDS,
            )
        )

    def _call(
        self,
        method: str,
        ref: ObjectRef,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        subresource: str = "",
    ) -> JsonObject:
        is_creation = method == "POST"
        what = f"{_WORDS[method]} {ref}" + (f" {subresource}" if subresource else "")
        answer = self._transport.call(
            Request(
                method=method,
                path=ref.resource.path(
                    namespace=ref.namespace,
                    name=None if is_creation else ref.name,
                    subresource=subresource,
                ),
                query=query or {},
                what=what,
                body=body,
                content_type=content_type,
                timeout_seconds=self._timeout_seconds,
                is_secret=ref.resource is SECRETS,
            )
        )
        return dict(answer)


_WORDS: Final = {"GET": "read", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


def open_api(*, field_manager: str, version: str, kubeconfig: Path | None = None) -> Api:
    """Return the API by *kubeconfig*, or as the pod's ServiceAccount. Raises ConfigError."""
    connection = connect(user_agent=f"{field_manager}/{version}", kubeconfig=kubeconfig)
    return Api(connection, field_manager=field_manager)


def _selectors(*, labels: str, fields: str) -> dict[str, str]:
    pairs = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in pairs.items() if value}


def _with_preconditions(value: JsonObject, *, uid: str, resource_version: str) -> JsonObject:
    metadata = dict(value.get("metadata") or {})
    if uid:
        metadata["uid"] = uid
    if resource_version:
        metadata["resourceVersion"] = resource_version
    return {**value, "metadata": metadata} if metadata else value
