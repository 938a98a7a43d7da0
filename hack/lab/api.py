"""Questions to the API server, asked through the host's loopback."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import errors

REQUEST_TIMEOUT_SECONDS = 10.0


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

    def get(self, path: str) -> dict[str, Any]:
        """Return an object or list. Raises LabError."""
        try:
            return dict(json.loads(self._request(path)))
        except (OSError, http.client.HTTPException) as error:
            raise errors.LabError(f"API server: {path}: {error}") from error

    def _request(self, path: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=context, timeout=REQUEST_TIMEOUT_SECONDS
        )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise errors.LabError(f"API server: {path}: status {answer.status}: {body[:500]!r}")
        return body
