"""Questions to the API server, asked through the host's loopback."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import errors
from lab.patience import patient

REQUEST_TIMEOUT_SECONDS = patient(10.0)


@dataclass(frozen=True, kw_only=True)
class Api:
    """Where the API server is and who asks."""

    port: int
    ca: Path
    certificate: Path
    key: Path

    def ready(self) -> bool:
        """Whether the API server says that it is ready."""
        try:
            return self._request("/readyz") == b"ok"
        except (OSError, http.client.HTTPException, errors.LabError):
            return False

    def get(self, path: str, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> dict[str, Any]:
        """Return an object or list. Raises LabError."""
        try:
            return dict(json.loads(self._request(path, timeout_seconds=timeout_seconds)))
        except (OSError, http.client.HTTPException) as error:
            raise errors.LabError(f"API server: {path}: {error}") from error

    def post(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        """Create what *value* is below *path*; return the answer. Raises LabError, OSError."""
        return dict(json.loads(self._request(path, method="POST", body=json.dumps(value))))

    def delete(self, path: str) -> None:
        """Ask for the deletion of the object at *path*. Raises LabError, OSError."""
        self._request(path, method="DELETE")

    def watch(self, path: str, *, silence_seconds: float) -> Iterator[dict[str, Any]]:
        """Yield the changes of a list, from the resourceVersion that *path* names.

        It ends when the server ends it. Raises LabError, TimeoutError after *silence_seconds*
        without any change, OSError.
        """
        connection = self._connection(silence_seconds)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != 200:
                raise errors.LabError(f"API server: {path}: status {answer.status}")
            while line := answer.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def _connection(self, timeout_seconds: float) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=context, timeout=timeout_seconds
        )

    def _request(
        self,
        path: str,
        *,
        method: str = "GET",
        body: str | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> bytes:
        connection = self._connection(timeout_seconds)
        try:
            headers = {} if body is None else {"content-type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise errors.LabError(f"API server: {path}: status {answer.status}: {said[:500]!r}")
        return said
