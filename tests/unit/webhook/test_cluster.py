"""What is asked of the API server about the Secret and the webhook configurations."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import jsonpatch
import pytest

from architect.kube import errors
from architect.kube.api import Api
from architect.kube.connection import Request, Stream
from architect.kube.rbac import flatten
from architect.webhook import certificates, rbac
from architect.webhook.certificates import Action, Material
from architect.webhook.cluster import ClusterStore
from architect.webhook.rotation import Conflict, SelfMade
from architect.webhook.settings import Settings

SETTINGS = Settings(namespace="ours")
SECRET = "/api/v1/namespaces/ours/secrets/architect-webhook-tls"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
MUTATING = f"{ADMISSION}/mutatingwebhookconfigurations/architect-webhook"
VALIDATING = f"{ADMISSION}/validatingwebhookconfigurations/architect-webhook"


class MemoryServer:
    """An API server of three objects: versions, preconditions, both kinds of patch."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.asked: list[tuple[str, str]] = []
        for path, count in ((MUTATING, 2), (VALIDATING, 1)):
            webhooks = [
                {"name": f"w{n}", "clientConfig": {"service": {"name": "s"}}, "futureField": n}
                for n in range(count)
            ]
            self._store(path, {"metadata": {"name": "architect-webhook"}, "webhooks": webhooks})

    def _store(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        metadata = {**value["metadata"], "resourceVersion": str(self.version)}
        self.objects[path] = {**value, "metadata": metadata}
        return self.objects[path]

    def call(self, request: Request) -> Any:
        self.asked.append((request.method, request.path))
        path, body = request.path, json.loads(json.dumps(request.body))
        if request.method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise self._error(409, "AlreadyExists", request)
            return self._store(path, body)
        current = self.objects.get(path)
        if current is None:
            raise self._error(404, "NotFound", request)
        if request.method == "GET":
            return current
        assert request.method == "PATCH"
        if request.content_type == "application/json-patch+json":
            patched = jsonpatch.apply_patch(current, body)
        else:
            metadata = {**current["metadata"], **body.get("metadata", {})}
            data = {**current.get("data", {}), **body["data"]}
            patched = {**current, "metadata": metadata, "data": data}
        if patched["metadata"]["resourceVersion"] != current["metadata"]["resourceVersion"]:
            raise self._error(409, "Conflict", request)
        return self._store(path, patched)

    def stream(self, request: Request) -> Stream:
        raise AssertionError(f"{request.what}: nothing is watched")

    def _error(self, status: int, reason: str, request: Request) -> Exception:
        body = json.dumps({"kind": "Status", "reason": reason}).encode()
        return errors.translate(status, body, what=request.what)


def store(server: MemoryServer, settings: Settings = SETTINGS) -> ClusterStore:
    return ClusterStore(Api(server, field_manager="architect-webhook"), settings)


def made() -> Material:
    return certificates.carry_out(
        Action.CREATE, None, now=datetime.now(UTC), dns_names=SETTINGS.dns_names
    )


def test_the_secret_is_created_once_read_back_and_replaced_by_its_version() -> None:
    server = MemoryServer()
    ours = store(server)
    assert ours.read() is None
    first, second = made(), made()
    ours.create(first)
    with pytest.raises(Conflict):
        ours.create(second)
    stored = ours.read()
    assert stored is not None
    assert stored.material == first
    ours.replace(second, resource_version=stored.resource_version)
    with pytest.raises(Conflict):
        ours.replace(first, resource_version=stored.resource_version)
    again = ours.read()
    assert again is not None
    assert again.material == second


def test_the_secret_has_the_shape_of_a_tls_secret() -> None:
    server = MemoryServer()
    material = made()
    store(server).create(material)
    secret = server.objects[SECRET]
    assert secret["type"] == "kubernetes.io/tls"
    assert secret["data"].keys() == {"tls.crt", "tls.key", "ca.crt", "ca.key"}
    assert base64.b64decode(secret["data"]["tls.crt"]) == material.certificate


@pytest.mark.parametrize(
    "data", [None, {}, {"tls.crt": "", "tls.key": ""}, {"tls.crt": "%", "ca.key": "x"}]
)
def test_a_secret_without_usable_keys_is_there_and_has_no_material(data: Any) -> None:
    server = MemoryServer()
    store(server).create(made())
    server.objects[SECRET]["data"] = data
    stored = store(server).read()
    assert stored is not None
    assert stored.material is None


def test_the_bundle_is_written_into_every_webhook_and_nothing_else_changes() -> None:
    server = MemoryServer()
    ours = store(server)
    mutating, validating = ours.configurations()
    assert (mutating.bundles, validating.bundles) == ((b"", b""), (b"",))
    ours.trust(mutating, b"bundle")
    assert ours.configurations()[0].bundles == (b"bundle", b"bundle")
    webhooks = server.objects[MUTATING]["webhooks"]
    assert [w["futureField"] for w in webhooks] == [0, 1]
    assert all(w["clientConfig"]["service"] == {"name": "s"} for w in webhooks)


def test_a_configuration_that_changed_meanwhile_is_a_conflict() -> None:
    server = MemoryServer()
    ours = store(server)
    mutating, _ = ours.configurations()
    ours.trust(mutating, b"one")
    with pytest.raises(Conflict):
        ours.trust(mutating, b"two")
    del server.objects[MUTATING]
    with pytest.raises(Conflict):
        ours.trust(mutating, b"two")


def test_configurations_that_do_not_exist_or_are_not_wanted_are_left_out() -> None:
    server = MemoryServer()
    del server.objects[MUTATING]
    assert [c.kind for c in store(server).configurations()] == ["ValidatingWebhookConfiguration"]
    without = Settings(namespace="ours", validating_configuration="")
    assert store(server, without).configurations() == []


def test_a_pass_asks_for_nothing_that_the_role_does_not_grant() -> None:
    server = MemoryServer()
    source = SelfMade(store=store(server), dns_names=SETTINGS.dns_names)
    source.fetch()
    source.fetch()
    granted = flatten(rule.to_role_rule() for rule in rbac.RULES)
    assert set(_used(server.asked)) <= granted
    assert all(c.bundles[0] for c in store(server).configurations())


def _used(asked: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str, str, str]]:
    verbs = {"GET": "get", "POST": "create", "PATCH": "patch"}
    for method, path in asked:
        parts = path.strip("/").split("/")
        group = "" if parts[0] == "api" else parts[1]
        if method == "POST":
            yield group, parts[-1], "", verbs[method]
        else:
            yield group, parts[-2], parts[-1], verbs[method]
