"""Operators before an API server in memory, with a key management service that is real."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any, Final

from architect.kube.api import Api
from architect.operator.keyring_store import KEY, KeyringStore
from architect.operator.kms.service import KeyService
from architect.operator.metrics import Metrics
from support.keyservices import NAMESPACE, SECRET, box_of
from support.memoryserver import MemoryServer

SECRET_PATH: Final = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}"


class Cluster:
    """One API server; each operator is a new process, which remembers nothing."""

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.api = Api(self.server, field_manager="architect-operator")
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.numbers = Metrics()

    def operator(self, service: KeyService, **place: str) -> KeyringStore:
        return KeyringStore(
            self.api,
            box_of(service, self.numbers, **place),
            namespace=place.get("namespace", NAMESPACE),
            name=place.get("secret", SECRET),
            config_map=SECRET,
            clock=lambda: self.now,
        )

    def raw(self) -> str:
        """Return what the Secret holds."""
        data = self.server.objects[SECRET_PATH]["data"][KEY]
        return base64.b64decode(data).decode()

    def form(self) -> dict[str, Any]:
        return dict(json.loads(self.raw()))

    def put(self, form: dict[str, Any], path: str = SECRET_PATH) -> None:
        data = {KEY: base64.b64encode(json.dumps(form).encode()).decode()}
        self.server.put(path, {**self.server.objects.get(path, {}), "data": data})
