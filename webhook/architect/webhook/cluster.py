"""The webhook's few objects in the cluster: one Secret and two webhook configurations.

Nothing here is called for an admission request: one pass every ``--sync-seconds``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

from architect.kube import errors
from architect.kube.api import Api, PatchKind
from architect.kube.resources import (
    MUTATING_WEBHOOKS,
    SECRETS,
    VALIDATING_WEBHOOKS,
    ObjectRef,
)
from architect.webhook.certificates import Material
from architect.webhook.rotation import Configuration, Conflict, Stored
from architect.webhook.settings import Settings

_KEYS: Final = {
    "ca_bundle": "ca.crt",
    "ca_key": "ca.key",
    "certificate": "tls.crt",
    "key": "tls.key",
}
_RESOURCES: Final = {r.kind: r for r in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)}


class ClusterStore:
    """A :class:`architect.webhook.rotation.Store` over the API server."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api = api
        self._secret = ObjectRef(
            resource=SECRETS, name=settings.secret_name, namespace=settings.namespace
        )
        names = (settings.mutating_configuration, settings.validating_configuration)
        self._configurations = tuple(
            ObjectRef(resource=resource, name=name)
            for resource, name in zip(_RESOURCES.values(), names, strict=True)
            if name
        )

    def read(self) -> Stored | None:
        """Return the Secret, None if it does not exist."""
        secret = self._api.find(self._secret)
        if secret is None:
            return None
        return Stored(
            material=_material(secret.get("data") or {}),
            resource_version=secret["metadata"]["resourceVersion"],
        )

    def create(self, material: Material) -> None:
        """Create the Secret. Raises Conflict if it exists."""
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {
                "name": self._secret.name,
                "namespace": self._secret.namespace,
                "labels": {
                    "app.kubernetes.io/name": "architect",
                    "app.kubernetes.io/component": "webhook",
                },
            },
            "data": _data(material),
        }
        try:
            self._api.create(self._secret, secret)
        except errors.AlreadyExists as error:
            raise Conflict(str(error)) from error

    def replace(self, material: Material, *, resource_version: str) -> None:
        """Replace the Secret. Raises Conflict unless it is at *resource_version*."""
        try:
            self._api.patch(
                self._secret, {"data": _data(material)}, resource_version=resource_version
            )
        except (errors.Conflict, errors.NotFound) as error:
            raise Conflict(str(error)) from error

    def configurations(self) -> Sequence[Configuration]:
        """Return our webhook configurations, those that exist."""
        found = []
        for ref in self._configurations:
            value = self._api.find(ref)
            if value is None:
                continue
            bundles = tuple(
                _decoded((webhook.get("clientConfig") or {}).get("caBundle")) or b""
                for webhook in value.get("webhooks") or ()
            )
            found.append(
                Configuration(
                    kind=ref.resource.kind,
                    name=ref.name,
                    resource_version=value["metadata"]["resourceVersion"],
                    bundles=bundles,
                )
            )
        return found

    def trust(self, configuration: Configuration, bundle: bytes) -> None:
        """Write *bundle*. Raises Conflict if *configuration* was changed since it was read."""
        ref = ObjectRef(resource=_RESOURCES[configuration.kind], name=configuration.name)
        encoded = base64.b64encode(bundle).decode("ascii")
        # A merge patch would replace the whole list of webhooks. A resourceVersion that a patch
        # writes is a precondition: 409 if it is not the current one.
        operations: list[dict[str, Any]] = [
            {
                "op": "replace",
                "path": "/metadata/resourceVersion",
                "value": configuration.resource_version,
            },
            *(
                {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": encoded}
                for index in range(len(configuration.bundles))
            ),
        ]
        try:
            self._api.patch(ref, operations, kind=PatchKind.JSON)
        except (errors.Conflict, errors.NotFound) as error:
            raise Conflict(str(error)) from error


def _data(material: Material) -> dict[str, str]:
    return {
        key: base64.b64encode(getattr(material, field)).decode("ascii")
        for field, key in _KEYS.items()
    }


def _material(data: Mapping[str, Any]) -> Material | None:
    values = {field: _decoded(data.get(key)) for field, key in _KEYS.items()}
    found = {field: value for field, value in values.items() if value}
    return Material(**found) if len(found) == len(_KEYS) else None


def _decoded(text: str | None) -> bytes | None:
    try:
        return None if text is None else base64.b64decode(text)
    except binascii.Error:
        return None
