"""Google's metadata server: values with etags, and requests that wait for the next change."""

from __future__ import annotations

import hashlib
import time

from support.cloudmetadata.server import MetadataServer, Reply, Request

FLAVOR = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
ROOT = "/computeMetadata/v1/instance/"


class Gce(MetadataServer):
    """One machine's."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.values = {
            "id": "4520031799277581759",
            "preempted": "FALSE",
            "maintenance-event": "NONE",
            "scheduling/preemptible": "TRUE",
        }
        self.is_concealed = False
        """GKE's own server answers, which has no more than this."""
        self.holds_back = True
        self.has_etags = True
        self.waiting = 0
        """Requests that are held back at the moment."""
        self.changes = 0
        super().__init__(address, port)

    def set(self, name: str, value: str) -> None:
        """Change a value, and tell those who wait."""
        with self.lock:
            self.values[name] = value
            self.changes += 1
            self.lock.notify_all()

    def preempt(self) -> None:
        """Announce the end."""
        self.set("preempted", "TRUE")

    def withdraw(self) -> None:
        """Take all of it back."""
        self.set("preempted", "FALSE")
        self.set("maintenance-event", "NONE")

    def answer(self, request: Request) -> Reply:
        if request.headers.get("metadata-flavor") != "Google" or (
            "x-forwarded-for" in request.headers
        ):
            return Reply(status=403, body=b"Missing Metadata-Flavor:Google header.\n")
        name = request.path.removeprefix(ROOT)
        known = {"id"} if self.is_concealed else self.values.keys()
        if request.method != "GET" or name not in known:
            return Reply(status=404, headers=FLAVOR)
        with self.lock:
            if self.holds_back and request.query.get("wait_for_change") == "true":
                self._hold(request, name)
            value, etag = self.values[name], self._etag(name)
        headers = {**FLAVOR, "ETag": etag} if self.has_etags else FLAVOR
        return Reply(body=value.encode(), headers={**headers, "Content-Type": "application/text"})

    def _hold(self, request: Request, name: str) -> None:
        timeout = request.query.get("timeout_sec", "")
        deadline = time.monotonic() + (float(timeout) if timeout.isdecimal() else 1e6)
        before = request.query.get("last_etag") or self._etag(name)
        self.waiting += 1
        try:
            while self._etag(name) == before and not self.is_closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self.lock.wait(left)
        finally:
            self.waiting -= 1

    def _etag(self, name: str) -> str:
        return hashlib.sha256(f"{name}={self.values[name]}".encode()).hexdigest()[:16]
