"""An API server in memory for certificate requests and Secrets, with the rules that protect them.

The requestor's account and node are written by the server; an approval changes conditions only, a
status update the certificate only. ``tests/cluster/test_peer.py`` holds it against a real one.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from typing import Any

from architect.kube import errors
from architect.kube.api import Api
from architect.kube.connection import Request, Stream

ACCOUNT = "system:serviceaccount:architect:architect-daemon"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


class SigningServer:
    """The objects; :meth:`as_daemon` and :meth:`as_operator` are two who talk to it."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.fail: Callable[[Request], Exception | None] = lambda _: None
        """Asked before each request; may return an error to raise."""
        self._version = 0
        self._lock = threading.RLock()

    def as_daemon(self, node: str, *, account: str = ACCOUNT) -> Api:
        extra = {"authentication.kubernetes.io/node-name": [node]} if node else {}
        return Api(
            _Session(self, {"username": account, "extra": extra}), field_manager="architect-daemon"
        )

    def as_operator(self) -> Api:
        return Api(
            _Session(self, {"username": "operator", "extra": {}}),
            field_manager="architect-operator",
        )

    def put(self, path: str, value: dict[str, Any]) -> None:
        """Have an object there, whoever looks through them meanwhile."""
        with self._lock:
            self.objects[path] = value

    def requests(self) -> list[dict[str, Any]]:
        with self._lock:
            return [copy.deepcopy(v) for k, v in self.objects.items() if k.startswith(REQUESTS)]

    def answer(self, request: Request, who: dict[str, Any]) -> Any:
        with self._lock:
            if (error := self.fail(request)) is not None:
                raise error
            return copy.deepcopy(getattr(self, f"_{request.method.lower()}")(request, who))

    def _put(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        value["metadata"]["resourceVersion"] = str(self._version)
        value["metadata"].setdefault("uid", f"uid-{self._version}")
        self.objects[path] = value
        return value

    def _get(self, request: Request, who: dict[str, Any]) -> Any:
        if request.path == REQUESTS:
            return {"items": self.requests(), "metadata": {"resourceVersion": str(self._version)}}
        if request.path in self.objects:
            return self.objects[request.path]
        raise refuse(404, "NotFound", request)

    def _post(self, request: Request, who: dict[str, Any]) -> Any:
        value = copy.deepcopy(request.body)
        path = f"{request.path}/{value['metadata']['name']}"
        if path in self.objects:
            raise refuse(409, "AlreadyExists", request)
        if request.path == REQUESTS:
            value["spec"] = {**value["spec"], **who}
            value["status"] = {}
        return self._put(path, value)

    def _patch(self, request: Request, who: dict[str, Any]) -> Any:
        path, _, sub = request.path.rpartition("/")
        if sub not in ("approval", "status"):
            path, sub = request.path, ""
        if path not in self.objects:
            raise refuse(404, "NotFound", request)
        value = copy.deepcopy(self.objects[path])
        metadata = request.body.get("metadata") or {}
        if metadata.get("resourceVersion") not in (None, value["metadata"]["resourceVersion"]):
            raise refuse(409, "Conflict", request)
        if sub == "":
            value["data"] = {**value.get("data", {}), **request.body["data"]}
            return self._put(path, value)
        given, status = request.body["status"], value["status"]
        if sub == "approval":
            status["conditions"] = given["conditions"]
        else:
            old = {c["type"] for c in status.get("conditions", ())}
            new = given.get("conditions", status.get("conditions", []))
            if ({c["type"] for c in new} ^ old) & {"Approved", "Denied"}:
                raise refuse(422, "Invalid", request)
            status.update(given)
        return self._put(path, value)


class _Session:
    """A Transport with an account."""

    def __init__(self, server: SigningServer, who: dict[str, Any]) -> None:
        self._server = server
        self._who = who

    def call(self, request: Request) -> Any:
        return self._server.answer(request, self._who)

    def stream(self, request: Request) -> Stream:
        raise AssertionError("nothing here watches")


def refuse(code: int, reason: str, request: Request) -> Exception:
    """Return the error that a real server's answer would become."""
    body = json.dumps({"kind": "Status", "code": code, "reason": reason, "message": ""})
    return errors.translate(code, body.encode(), what=request.what)
