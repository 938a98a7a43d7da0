"""The object store as the daemon uses it: whole objects of a few MiB, put and got by threads.

A request is one request: no object is sent in parts, so that it is there as a whole or not at all.
What is sent goes with its CRC32C in a signed header, so that the store takes nothing that was
damaged or cut short on its way. What comes is counted, and its content is for the reader to verify.

``awscrt`` is imported when a :class:`Store` is made: the daemon's other commands do without. Its
threads call back, never ours; all that our threads do is wait, each with its own deadline.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, Final

from architect.checkpoint import envelope
from architect.cloud import addresses
from architect.core.errors import ArchitectError, ConfigError, FormatError, Rejected, Unavailable
from architect.objectstore import errors, trust
from architect.objectstore.settings import StoreSettings

MAX_OBJECT_BYTES: Final = envelope.MAX_BYTES
"""Of an object that is put or got: the envelope is the largest."""

PART_BYTES: Final = 9 * 1024**2
"""What a larger object is got in: a sealed shard of 8 MiB comes in one request."""

CONCURRENCY: Final = 4
"""Requests in flight unless uploads may have more; who asks for more waits. Each takes a part's
memory in awscrt besides what the caller holds: 41 MB for four and 65 MB for eight, which were no
faster on two cores."""

MEMORY_BYTES: Final = 256 * 1024**2
"""What awscrt's pool of buffers may hold, at least: a bound that is not met, with few in flight."""

BUFFERS: Final = 2
"""Parts for each request beyond which the pool would let one wait: a bound that is not met."""

REQUEST_GBPS: Final = 0.4
"""For each request that there may be: awscrt has a connection for that much of what it is told to
aim at, and ten at least."""

EVENT_THREADS: Final = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Of awscrt, for sockets and TLS: one core encrypts about as much as a link of 10 Gb/s carries, and
the node's others have what comes to decrypt and to write. On two cores a second thread was worth
less than the noise of ten runs, beside the plain copy, and took 30 to 90 MB more."""

CONNECT_SECONDS: Final = 5.0
"""To a machine that does not answer at all."""

RETRIES: Final = 2
RETRY_FIRST_SECONDS: Final = 0.1
RETRY_MAX_SECONDS: Final = 1.0
"""Of awscrt within one call. Whoever calls has more patience, and knows what else is to be done."""

CHECK_SECONDS: Final = 15.0
"""For :meth:`Store.check`, credentials that are asked for anew included."""

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
"""Of the body of what has none."""

UNSIGNED_BODY: Final = "UNSIGNED-PAYLOAD"
"""In place of a body's SHA-256, which would take longer than it takes to encrypt and hash a shard.
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html"""

CHECKSUM_HEADER: Final = "x-amz-checksum-crc32c"
"""Of the body, 4 bytes in base64: a store refuses a body that has another one (``BadDigest``). The
header is signed. Who changes a body on purpose, with the same sum, is found out by the envelope.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html"""

END_SECONDS: Final = 2.0
"""Until a request that is given up has let go of its object. One that waits for a handshake to
fail takes longer, and holds it meanwhile: see :mod:`architect.objectstore.trust`."""


class Store:
    """One bucket. All methods may be called from any thread, and block.

    Errors are those of :mod:`architect.objectstore.errors`. Raises ConfigError when made with a CA
    file that cannot be used.
    """

    def __init__(
        self,
        settings: StoreSettings,
        *,
        requests: Callable[[], int] = lambda: CONCURRENCY,
        most_requests: int = CONCURRENCY,
    ) -> None:
        """Prepare; *requests* tells, at once, how many may be in flight: :data:`CONCURRENCY` may.

        There are never to be more than *most_requests*, or that.
        """
        from awscrt import auth, checksums, http, s3
        from awscrt import io as crt_io

        self._settings = settings
        self._auth, self._http, self._s3 = auth, http, s3
        self._crc32c = checksums.crc32c
        self._allowed = requests
        self._slots = threading.Condition()
        self._in_flight = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._requests: set[Any] = set()
        most = max(CONCURRENCY, most_requests)
        threads = crt_io.EventLoopGroup(EVENT_THREADS)
        bootstrap = crt_io.ClientBootstrap(threads, crt_io.DefaultHostResolver(threads))
        self._credentials = auth.AwsCredentialsProvider.new_default_chain(bootstrap)
        self._client: Any = s3.S3Client(
            bootstrap=bootstrap,
            region=settings.region,
            tls_mode=(
                s3.S3RequestTlsMode.ENABLED
                if settings.is_encrypted
                else s3.S3RequestTlsMode.DISABLED
            ),
            tls_connection_options=_tls(settings, crt_io),
            signing_config=self._signed(EMPTY_SHA256),
            part_size=PART_BYTES,
            throughput_target_gbps=most * REQUEST_GBPS,
            memory_limit=max(MEMORY_BYTES, most * BUFFERS * PART_BYTES),
            connect_timeout_ms=int(CONNECT_SECONDS * 1000),
            retry_config=s3.S3RetryConfig(
                max_retries=RETRIES,
                backoff_scale_factor_ms=int(RETRY_FIRST_SECONDS * 1000),
                max_backoff_secs=int(RETRY_MAX_SECONDS),
            ),
        )

    def put(
        self,
        key: str,
        body: bytes | bytearray,
        *,
        is_new: bool = False,
        timeout_seconds: float,
    ) -> None:
        """Have *body* be the object of a whole key, of at most :data:`MAX_OBJECT_BYTES`.

        With *is_new*, raises Rejected(Exists) where there is one. That may be ours, of a request
        whose answer was lost: whoever must know gets it and looks. An object for which this raises
        anything else may be there, too, but never a part of one.
        """
        if len(body) > MAX_OBJECT_BYTES:
            raise ValueError(f"{len(body)} bytes for {key!r:.300}: at most {MAX_OBJECT_BYTES}")
        headers = [
            ("Content-Length", str(len(body))),
            ("Content-Type", "application/octet-stream"),
            (CHECKSUM_HEADER, _checksum(self._crc32c(body))),
        ]
        if is_new:
            headers.append(("If-None-Match", "*"))
        request = self._http.HttpRequest(
            "PUT", self._settings.path_of(key), self._headers(headers), _Body(body)
        )
        self._run(
            f"put {self._settings.bucket}/{key}",
            timeout_seconds,
            type=self._s3.S3RequestType.DEFAULT,
            operation_name="PutObject",
            request=request,
            signing_config=self._signed(UNSIGNED_BODY),
        )

    def get(self, key: str, *, most_bytes: int, timeout_seconds: float) -> bytes:
        """Return the object of a whole key.

        Raises Rejected(NoSuchKey), and FormatError if it has more than *most_bytes*, which is found
        by its announced size, before it has come.
        """
        what = f"get {self._settings.bucket}/{key}"
        answer = _Answer(what, min(most_bytes, MAX_OBJECT_BYTES))
        request = self._http.HttpRequest("GET", self._settings.path_of(key), self._headers())
        try:
            self._run(
                what,
                timeout_seconds,
                type=self._s3.S3RequestType.GET_OBJECT,
                request=request,
                on_headers=answer.on_headers,
                on_body=answer.on_body,
            )
        except Rejected as error:
            # It is asked for from its first byte on, which an empty object does not have.
            if error.reason == errors.EMPTY:
                return b""
            raise
        return answer.whole()

    def check(self) -> None:
        """See that the bucket is there and that we may write to it.

        The first time this leaves an empty object there; later the store only says that it exists,
        which it says to nobody who may not write.
        """
        if problem := trust.problem_with(self._settings):
            raise errors.refused(f"cannot trust {self._settings.url}: {problem}", errors.UNTRUSTED)
        try:
            self.put(self._settings.probe_key, b"", is_new=True, timeout_seconds=CHECK_SECONDS)
        except Rejected as error:
            if error.reason != errors.EXISTS:
                raise

    def close(self) -> None:
        """End all requests, and let none begin; those who wait for one get Unavailable."""
        self._closing.set()
        with self._lock:
            requests = tuple(self._requests)
            client, self._client = self._client, None
        for request in requests:
            request.cancel()
        futures.wait([request.finished_future for request in requests], END_SECONDS)
        if client is not None:
            ended = client.shutdown_event
            del client, requests
            ended.wait(END_SECONDS)

    def _run(self, what: str, timeout_seconds: float, **arguments: Any) -> None:
        """Carry out a request within *timeout_seconds*, the wait for its turn included.

        One that is not done by then takes up to 8 s more, to be ended and to find out why.
        """
        ends_at = time.monotonic() + timeout_seconds
        with self._slot(what, timeout_seconds):
            request = self._begin(what, arguments)
            future = request.finished_future
            try:
                done, _ = futures.wait([future], max(0.0, ends_at - time.monotonic()))
                if not done:
                    request.cancel()
                    futures.wait([future], END_SECONDS)
            finally:
                with self._lock:
                    self._requests.discard(request)
                # It holds the client, and would in an error's traceback.
                del request
            if not done:
                if problem := trust.problem_with(self._settings):
                    raise errors.refused(f"cannot {what}: {problem}", errors.UNTRUSTED)
                raise errors.unreachable(f"not done after {timeout_seconds:g} s", what=what)
            if (error := future.exception()) is not None:
                raise self._translated(error, what) from error

    def _begin(self, what: str, arguments: dict[str, Any]) -> Any:
        with self._lock:
            if self._client is None:
                raise _closed(what)
            request = self._client.make_request(**arguments)
            self._requests.add(request)
            return request

    @contextlib.contextmanager
    def _slot(self, what: str, timeout_seconds: float) -> Iterator[None]:
        with self._slots:
            if not self._slots.wait_for(self._is_free, max(0.0, timeout_seconds)):
                raise errors.unreachable(
                    f"{self._in_flight} other requests took all of {timeout_seconds:g} s", what=what
                )
            self._in_flight += 1
        try:
            yield
        finally:
            with self._slots:
                self._in_flight -= 1
                self._slots.notify_all()

    def _is_free(self) -> bool:
        return self._in_flight < max(CONCURRENCY, self._allowed())

    def _signed(self, body_value: str) -> Any:
        """Return how a request is signed, with its body's SHA-256 or what stands for any body."""
        return self._auth.AwsSigningConfig(
            service="s3",
            region=self._settings.region,
            credentials_provider=self._credentials,
            # The path is signed as it is sent.
            use_double_uri_encode=False,
            should_normalize_uri_path=False,
            signed_body_value=body_value,
            signed_body_header_type=self._auth.AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
        )

    def _headers(self, more: Sequence[tuple[str, str]] = ()) -> Any:
        return self._http.HttpHeaders([("Host", self._settings.host), *more])

    def _translated(self, error: BaseException, what: str) -> BaseException:
        """Return what a future failed with as an error of ours; what is no failure of S3 stays."""
        if isinstance(error, ArchitectError):
            return error
        if self._closing.is_set():
            return _closed(what)
        status = getattr(error, "status_code", None)
        if status is not None and status >= 300:
            return errors.translate(status, getattr(error, "body", None) or b"", what=what)
        if (reason := _REASONS.get(getattr(error, "name", ""))) is not None:
            return errors.refused(f"cannot {what}: {errors.bounded(str(error))}", reason)
        return errors.unreachable(str(error) or type(error).__name__, what=what)


class _Body(io.RawIOBase):
    """What is sent, read in awscrt's thread: :class:`io.BytesIO` would copy it."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._view = memoryview(data)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._view[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        self._at = min(max(0, base + offset), len(self._view))
        return self._at


class _Answer:
    """The body of an answer as it comes, in awscrt's thread: limited, and counted."""

    def __init__(self, what: str, most_bytes: int) -> None:
        self._what = what
        self._most_bytes = most_bytes
        self._announced: int | None = None
        self._chunks: list[bytes] = []
        self._size = 0

    def on_headers(self, *, status_code: int, headers: Sequence[tuple[str, str]], **_: Any) -> None:
        """Take the size that is announced. Raises FormatError, which ends the request."""
        if status_code >= 300:
            return
        for name, value in headers:
            if name.lower() == "content-length" and value.isdecimal():
                self._announced = int(value)
        if self._announced is not None:
            self._limit(self._announced)

    def on_body(self, *, chunk: bytes, **_: Any) -> None:
        """Take what comes, which it does in order. Raises FormatError, which ends the request."""
        self._size += len(chunk)
        self._limit(self._size)
        self._chunks.append(bytes(chunk))

    def whole(self) -> bytes:
        """Return all of it. Raises Unavailable if it is not as long as was announced."""
        if self._size != self._announced:
            raise errors.unreachable(
                f"{self._size} bytes came of {self._announced}", what=self._what
            )
        return b"".join(self._chunks)

    def _limit(self, size: int) -> None:
        if size > self._most_bytes:
            raise FormatError(
                f"cannot {self._what}: {size} bytes, at most {self._most_bytes} are read"
            )


_REASONS: Final = {
    "AWS_AUTH_SIGNING_NO_CREDENTIALS": errors.NO_CREDENTIALS,
    "AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE": errors.UNTRUSTED,
    "AWS_ERROR_S3_REQUEST_TIME_TOO_SKEWED": errors.WRONG_CLOCK,
}
"""What awscrt calls by a name of its own and another try does not settle."""


def _checksum(value: int) -> str:
    """Return a CRC32C as S3 writes it."""
    return base64.b64encode(value.to_bytes(4)).decode("ascii")


def _closed(what: str) -> Unavailable:
    return Unavailable(f"cannot {what}: this daemon's store was closed")


def _tls(settings: StoreSettings, crt_io: Any) -> Any:
    """Return how the server is to prove who it is. Raises ConfigError."""
    if not settings.is_encrypted:
        return None
    # It says what is wrong with a file, which awscrt does not.
    addresses.tls_context(settings.ca_file)
    options = crt_io.TlsContextOptions()
    try:
        if settings.ca_file:
            options.override_default_trust_store_from_path(None, settings.ca_file)
        return crt_io.ClientTlsContext(options).new_connection_options()
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"no TLS with the authorities of {settings.ca_file or 'the system'}: {error}"
        ) from error
