"""An API server in memory, with the rules that matter here: uids, versions, what exists."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from architect.kube import errors
from architect.kube.connection import Request


class MemoryServer:
    """A Transport. *fail* is asked before each request and may return an error to raise."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.fail: Callable[[Request], Exception | None] = lambda _: None
        self._version = 0

    def put(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        value = copy.deepcopy(value)
        value.setdefault("metadata", {})["resourceVersion"] = str(self._version)
        value["metadata"].setdefault("uid", f"uid-{self._version}")
        value["metadata"].setdefault("generation", 1)
        self.objects[path] = value
        return copy.deepcopy(value)

    def stream(self, request: Request) -> Any:
        raise AssertionError("nothing here watches")

    def call(self, request: Request) -> Any:
        self.requests.append(request)
        if (error := self.fail(request)) is not None:
            raise error
        return getattr(self, request.method.lower())(request)

    def methods(self) -> list[str]:
        return [r.method for r in self.requests]

    def get(self, request: Request) -> Any:
        if request.path in self.objects:
            return copy.deepcopy(self.objects[request.path])
        plural = request.path.rpartition("/")[2]
        if plural in PLURALS:
            return {"items": [copy.deepcopy(v) for v in self._below(request)]}
        raise self._refuse(404, "NotFound", request)

    def post(self, request: Request) -> Any:
        path = f"{request.path}/{request.body['metadata']['name']}"
        if path in self.objects:
            raise self._refuse(409, "AlreadyExists", request)
        return self.put(path, request.body)

    def patch(self, request: Request) -> Any:
        path, _, last = request.path.rpartition("/")
        path = path if last == "status" else request.path
        if path not in self.objects:
            raise self._refuse(404, "NotFound", request)
        value = self.objects[path]
        metadata = request.body.get("metadata") or {}
        if metadata.get("uid", value["metadata"]["uid"]) != value["metadata"]["uid"]:
            raise self._refuse(422, "Invalid", request, "metadata.uid: field is immutable")
        version = value["metadata"]["resourceVersion"]
        if metadata.get("resourceVersion", version) != version:
            raise self._refuse(409, "Conflict", request)
        return self.put(path, _merged(value, request.body))

    def delete(self, request: Request) -> Any:
        if request.path not in self.objects:
            raise self._refuse(404, "NotFound", request)
        wanted = request.body.get("preconditions", {})
        metadata = self.objects[request.path]["metadata"]
        if (
            wanted.get("resourceVersion", metadata["resourceVersion"])
            != metadata["resourceVersion"]
        ):
            raise self._refuse(409, "Conflict", request)
        del self.objects[request.path]
        return {}

    def _below(self, request: Request) -> list[dict[str, Any]]:
        prefix, _, plural = request.path.rpartition("/")
        return [
            value
            for path, value in self.objects.items()
            if path.split("/")[-2] == plural and path.startswith(prefix)
        ]

    @staticmethod
    def _refuse(code: int, reason: str, request: Request, message: str = "") -> Exception:
        body = json.dumps({"kind": "Status", "code": code, "reason": reason, "message": message})
        return errors.translate(code, body.encode(), what=request.what)


PLURALS = {"pods", "nodes", "checkpoints", "persistentcheckpoints", "events", "leases"}


def _merged(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, item in patch.items():
        if item is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), item)
    return result
