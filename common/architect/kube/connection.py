"""One connection pool to the API server.

Where it is and who we are is known from the ServiceAccount's files, or from a kubeconfig, which the
client library reads; requests are made here, as JSON, with a time-out each.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import urllib3
from urllib3.util.ssl_ import create_urllib3_context

from architect.core.errors import ArchitectError, ConfigError
from architect.core.tls import without_strictness
from architect.kube import errors, service_account

CONNECT_TIMEOUT_SECONDS = 5.0
"""A handshake takes milliseconds, and a second on a node under load."""

POOL_SIZE = 64
"""Connections that are kept: a drained node's daemon has about as many threads at work."""

MAX_LINE_BYTES = 8 << 20
"""A watch sends one object a line; etcd holds none beyond 1.5 MiB, JSON escapes some of it."""

_NETWORK = (urllib3.exceptions.HTTPError, OSError)
"""What a request without an answer raises."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, before it knows the server."""

    method: str
    path: str
    query: Mapping[str, str]
    what: str
    """What is tried on which object, for errors."""
    body: Any = None
    content_type: str = "application/json"
    timeout_seconds: float = 10.0
    is_secret: bool = False


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """Where the server is and who we are, for another client library in this process."""

    server: str
    ca_path: str | None
    token: str | None
    certificate_path: str | None
    private_key_path: str | None
    is_verified: bool
    basic: str = ""
    """A whole header ``Authorization`` of another kind than a token's."""

    def headers(self) -> dict[str, str]:
        """Return what tells the server who we are; empty: our certificate does."""
        said = f"Bearer {self.token}" if self.token else self.basic
        return {"authorization": said} if said else {}


class Stream(Protocol):
    """The lines of a response that goes on."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield line by line; end when the server ends the response."""

    def close(self) -> None:
        """End the iteration, also from another thread; closing twice is harmless."""


class Transport(Protocol):
    """The seam between what we ask and how it gets there."""

    def call(self, request: Request) -> Any:
        """Return the JSON of a success. Raises what :func:`errors.translate` returns."""

    def stream(self, request: Request) -> Stream:
        """Return the lines of a success; ``timeout_seconds`` bounds the wait for each."""


def accept_old_authorities(pool: Any) -> None:
    """Have *pool* verify the server as :func:`architect.core.tls.without_strictness` says."""
    pool.connection_pool_kw["ssl_context"] = without_strictness(create_urllib3_context())


class Connection:
    """A :class:`Transport` over HTTPS; any number of threads may use it."""

    def __init__(
        self,
        pool: Any,
        *,
        credentials: Callable[[], Credentials],
        user_agent: str,
    ) -> None:
        """*pool* is urllib3's; *credentials* are asked for at each request."""
        accept_old_authorities(pool)
        self._pool = pool
        self._credentials = credentials
        self._user_agent = user_agent

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.clear()

    def credentials(self) -> Credentials:
        """Return what is valid now."""
        return self._credentials()

    def call(self, request: Request) -> Any:
        """See :class:`Transport`."""
        try:
            response = self._send(request)
            body = response.data
        except _NETWORK as error:
            raise errors.unreachable(error, what=request.what) from error
        if not 200 <= response.status < 300:
            raise _refusal(request, response.status, body)
        try:
            return json.loads(body)
        except ValueError as error:
            raise errors.unreachable(error, what=request.what) from error

    def stream(self, request: Request) -> Stream:
        """See :class:`Transport`."""
        try:
            response = self._send(request)
            if 200 <= response.status < 300:
                return _Lines(response, what=request.what)
            body = response.data
        except _NETWORK as error:
            raise errors.unreachable(error, what=request.what) from error
        raise _refusal(request, response.status, body)

    def _send(self, request: Request) -> Any:
        now = self._credentials()
        url = now.server + request.path
        if request.query:
            url += "?" + urlencode(request.query)
        headers = {"Accept": "application/json", "User-Agent": self._user_agent, **now.headers()}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        return self._pool.request(
            request.method,
            url,
            headers=headers,
            body=None if request.body is None else json.dumps(request.body),
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=request.timeout_seconds),
            preload_content=False,
        )


class _Lines:
    """The lines of one response."""

    def __init__(self, response: Any, *, what: str) -> None:
        self._response = response
        self._what = what
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        pending = b""
        try:
            while True:
                data = self._response.read1(65536)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                if len(pending) > MAX_LINE_BYTES:
                    raise errors.unreachable(ValueError("endless line"), what=self._what)
                yield from (line for line in lines if line)
        except (*_NETWORK, ValueError) as error:
            # A shut down socket reads as an error or as the end, whichever comes first.
            if self._is_closed:
                return
            raise errors.unreachable(error, what=self._what) from error
        finally:
            self._response.close()

    def close(self) -> None:
        self._is_closed = True
        try:
            self._response.shutdown()
        except (*_NETWORK, ValueError, RuntimeError):
            pass  # the response has ended by itself


def _refusal(request: Request, status: int, body: bytes) -> ArchitectError:
    return errors.translate(status, body, what=request.what, is_secret=request.is_secret)


def connect(*, user_agent: str, kubeconfig: Path | None = None) -> Connection:
    """Return a connection by *kubeconfig*, or as the pod's ServiceAccount without one.

    Raises ConfigError if neither can be read.
    """
    if kubeconfig is not None:
        return _by_kubeconfig(kubeconfig, user_agent=user_agent)
    account = service_account.find(os.environ)
    # No retries: a request is repeated by who decided on it, on fresh data.
    pool = urllib3.PoolManager(
        maxsize=POOL_SIZE, cert_reqs=ssl.CERT_REQUIRED, ca_certs=account.ca_path, retries=False
    )

    def credentials() -> Credentials:
        return Credentials(
            server=account.server,
            ca_path=account.ca_path,
            token=account.token(),
            certificate_path=None,
            private_key_path=None,
            is_verified=True,
        )

    return Connection(pool, credentials=credentials, user_agent=user_agent)


def _by_kubeconfig(path: Path, *, user_agent: str) -> Connection:
    # See service_account: for who does not need it, it is too large.
    from kubernetes import config
    from kubernetes.client.configuration import Configuration
    from kubernetes.client.rest import RESTClientObject

    own = Configuration()
    own.connection_pool_maxsize = POOL_SIZE
    own.retries = False
    load: Any = config.load_kube_config
    try:
        load(config_file=str(path), client_configuration=own)
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            f"cannot find the API server: {error}", hint=service_account.HINT
        ) from error

    def credentials() -> Credentials:
        settings: dict[str, Any] = dict(own.auth_settings())
        headers = {item["key"]: item["value"] for item in settings.values()}
        scheme, _, token = headers.get("authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer"
        return Credentials(
            server=own.host,
            ca_path=own.ssl_ca_cert,
            token=token.strip() or None if is_bearer else None,
            certificate_path=own.cert_file,
            private_key_path=own.key_file,
            is_verified=bool(own.verify_ssl),
            basic="" if is_bearer else headers.get("authorization", ""),
        )

    # The library makes the pool that the configuration describes: certificates, proxy, names.
    rest: Any = RESTClientObject(own)
    return Connection(rest.pool_manager, credentials=credentials, user_agent=user_agent)
