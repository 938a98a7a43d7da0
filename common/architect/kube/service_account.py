"""How a pod reaches the API server: its ServiceAccount's files, which kubelet keeps fresh.

The client library does the same. It takes 56 MB of memory for it, most of which are classes for
every kind of object, and a daemon runs on every node; so it is left to kubeconfig files, which are
another matter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from architect.core.errors import ConfigError

DIRECTORY: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

FRESH_SECONDS: Final = 60.0
"""How long a token that was read is used: kubelet replaces it after 80 % of its hour or more."""

HINT: Final = "run in a pod with a ServiceAccount, or give --kubeconfig"


class ServiceAccount:
    """Server, authorities and token. Safe to use from several threads."""

    def __init__(self, server: str, directory: Path) -> None:
        self.server = server
        self.ca_path = str(directory / "ca.crt")
        self._token_path = directory / "token"
        self._lock = threading.Lock()
        self._token = ""
        self._read_at = float("-inf")

    def token(self) -> str:
        """Return what proves who we are. Raises ConfigError if there was never one."""
        with self._lock:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                try:
                    found = self._token_path.read_text().strip()
                except OSError as error:
                    if not self._token:
                        raise ConfigError(
                            f"cannot read the ServiceAccount's token: {error}", hint=HINT
                        ) from error
                else:
                    # An empty one is being written at this moment.
                    self._token = found or self._token
                    self._read_at = time.monotonic()
            if not self._token:
                raise ConfigError(f"{self._token_path} is empty", hint=HINT)
            return self._token


def find(environment: Mapping[str, str], *, directory: Path = DIRECTORY) -> ServiceAccount:
    """Return this pod's. Raises ConfigError if this is no pod, or one without a ServiceAccount."""
    host = environment.get("KUBERNETES_SERVICE_HOST")
    port = environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ConfigError(
            "cannot find the API server: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are "
            "not set",
            hint=HINT,
        )
    account = ServiceAccount(
        f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}", directory
    )
    account.token()
    if not Path(account.ca_path).is_file():
        raise ConfigError(f"{account.ca_path} is not there", hint=HINT)
    return account
