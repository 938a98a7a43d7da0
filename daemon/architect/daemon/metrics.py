"""What Prometheus reads, on ``/metrics``, with ``/healthz`` and ``/readyz`` beside it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from architect.core import httpserver

SECONDS_BUCKETS: Final = (
    0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Fine around 100 ms, where most sleeps and wakes lie."""

BYTES_BUCKETS: Final = tuple(float(2**n) for n in range(20, 38, 2))
"""1 MiB to 64 GiB."""

REQUEST_TIMEOUT_SECONDS: Final = 10.0


class Metrics:
    """All metrics of one daemon."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.sleeps = Counter("architect_sleeps", "Pods put to sleep", registry=r)
        self.wakes = Counter("architect_wakes", "Pods woken", ["reason"], registry=r)
        self.failures = Counter(
            "architect_failures",
            "Sleeps, wakes and other operations that failed",
            ["operation", "reason"],
            registry=r,
        )
        self.sleep_seconds = Histogram(
            "architect_sleep_seconds", "Duration of a sleep", buckets=SECONDS_BUCKETS, registry=r
        )
        self.wake_seconds = Histogram(
            "architect_wake_seconds", "Duration of a wake", buckets=SECONDS_BUCKETS, registry=r
        )
        self.freeze_seconds = Histogram(
            "architect_freeze_seconds",
            "How long a pod stood still while it was copied",
            buckets=SECONDS_BUCKETS,
            registry=r,
        )
        self.image_bytes = Histogram(
            "architect_image_bytes", "Size of an image", buckets=BYTES_BUCKETS, registry=r
        )
        self.held_packets = Counter(
            "architect_held_packets", "Packets held and released", registry=r
        )
        self.pods = Gauge("architect_pods", "Managed pods of the node", ["state"], registry=r)
        self.awake_reasons = Gauge(
            "architect_awake_pods", "Awake pods by what keeps them awake", ["reason"], registry=r
        )
        self.kept_requests = Gauge(
            "architect_kept_requests",
            "Pods whose requests stay while they sleep since an autoscaler divides by them, or "
            "since it is not known whether one does",
            ["reason"],
            registry=r,
        )
        self.node_ready = Gauge(
            "architect_node_ready", "1 if the node can run managed pods", registry=r
        )
        self.api_errors = Counter(
            "architect_api_errors", "Requests to the API server that failed", ["reason"], registry=r
        )
        self.keeper_errors = Counter(
            "architect_keeper_errors", "Requests to the keeper that failed", registry=r
        )
        self.disk_free_bytes = Gauge(
            "architect_disk_free_bytes", "Free space on the disk of the images", registry=r
        )
        self.disk_image_bytes = Gauge(
            "architect_disk_image_bytes", "Space that images use", registry=r
        )
        self.saved_pods = Gauge(
            "architect_saved_pods", "Saved pods that wait here for their successors", registry=r
        )
        self.saved_bytes = Gauge(
            "architect_saved_bytes", "Space that saved pods use, before compression", registry=r
        )
        self.saved_removed = Counter(
            "architect_saved_removed",
            "Saved pods that were removed here though nobody had gone on with them",
            ["reason"],
            registry=r,
        )
        self.peer_sent_bytes = Counter(
            "architect_peer_sent_bytes", "Bytes of checkpoints given to other nodes", registry=r
        )
        self.peer_received_bytes = Counter(
            "architect_peer_received_bytes", "Bytes of checkpoints got from other nodes", registry=r
        )
        self.store_sent_bytes = Counter(
            "architect_store_sent_bytes", "Bytes sent to the object store", registry=r
        )
        self.store_received_bytes = Counter(
            "architect_store_received_bytes", "Bytes got from the object store", registry=r
        )
        self.store_seconds = Histogram(
            "architect_store_seconds",
            "Duration of an upload to the object store",
            buckets=SECONDS_BUCKETS,
            registry=r,
        )
        self.notices = Gauge(
            "architect_notices",
            "What is announced about this machine at the moment",
            ["source", "kind"],
            registry=r,
        )
        self.notices_seen = Counter(
            "architect_notices_seen",
            "What was announced about this machine",
            ["source", "kind"],
            registry=r,
        )
        self.notice_failures = Counter(
            "architect_notice_failures",
            "Questions to who announces a machine's end that were not answered well",
            ["source", "reason"],
            registry=r,
        )
        self.notice_provider = Gauge(
            "architect_notice_provider",
            "1 for the cloud whose metadata service is asked",
            ["provider"],
            registry=r,
        )
        self.announced_end_seconds = Gauge(
            "architect_announced_end_seconds",
            "Seconds until this machine's announced end; +Inf: none is; NaN: nobody said when",
            registry=r,
        )
        self.spot_needed_seconds = Gauge(
            "architect_spot_needed_seconds",
            "How long it would take to save all pods that can be saved; +Inf: for ever; NaN: this "
            "is no spot machine, or nothing is known yet",
            registry=r,
        )
        self.spot_needed_seconds.set(math.nan)
        self.spot_notice_seconds = Gauge(
            "architect_spot_notice_seconds",
            "How long before this spot machine's end it is announced; NaN: this is none",
            registry=r,
        )
        self.spot_notice_seconds.set(math.nan)
        self.spot_limit = Gauge(
            "architect_spot_limit",
            "1 for what would shorten the needed seconds most if it were twice as fast",
            ["limit"],
            registry=r,
        )
        self.spot_pods = Gauge(
            "architect_spot_pods",
            "Pods that lie in the object store, or would within the notice",
            ["verdict"],
            registry=r,
        )
        self.spot_misfits = Gauge(
            "architect_spot_misfits",
            "Pods that would not be saved within the notice",
            ["reason"],
            registry=r,
        )
        self.spot_pending_bytes = Gauge(
            "architect_spot_pending_bytes",
            "What the pods that can be saved would have to send",
            registry=r,
        )
        self.certificate_end = Gauge(
            "architect_certificate_end_timestamp_seconds",
            "Unix time at which this daemon's certificate ends",
            registry=r,
        )
        self.observe_seconds = Histogram(
            "architect_observe_seconds",
            "Duration of one look at the node's pods",
            buckets=SECONDS_BUCKETS,
            registry=r,
        )


Health = Callable[[], str]
"""Returns what is wrong; nothing: all is well."""


class Answer(NamedTuple):
    """What is served at one place."""

    status: int
    kind: str
    """Its media type."""
    body: bytes


Page = Callable[[str], Answer]
"""Answers a query, which is whatever stands behind the question mark."""


class Server:
    """Serves metrics and health in threads of its own."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        address: tuple[str, int],
        alive: Health,
        ready: Health,
        pages: Mapping[str, Page] = MappingProxyType({}),
    ) -> None:
        """Prepare. *pages* are served beside these, by their paths."""
        places = ", ".join(("/metrics", "/healthz", "/readyz", *sorted(pages)))

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_SECONDS

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                if path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
                elif self.path == "/healthz":
                    self._health(alive())
                elif self.path == "/readyz":
                    self._health(ready())
                elif (page := pages.get(path)) is not None:
                    self._answer(*page(query))
                else:
                    self._answer(404, "text/plain", f"see {places}\n".encode())

            def _health(self, problem: str) -> None:
                code, text = (503, problem) if problem else (200, "ok")
                self._answer(code, "text/plain; charset=utf-8", f"{text}\n".encode())

            def _answer(self, code: int, kind: str, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes every few seconds are not worth a line."""

        self._server = httpserver.Server(address, Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is served."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and wait until it has stopped."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
