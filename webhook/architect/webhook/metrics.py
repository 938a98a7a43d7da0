"""What the webhook counts, in a registry of its own."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MALFORMED: Final = "malformed"
"""Result of a request that was no AdmissionReview or too large (400, 413)."""

CROWDED: Final = "crowded"
"""Result of a large request beside too many others (503)."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# The API server waits up to the configuration's timeoutSeconds (1 to 30); a decision takes about
# a millisecond.
_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0)


class Metrics:
    """The webhook's metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.admissions = Counter(
            "architect_webhook_admissions",
            "Admission requests by endpoint and result.",
            ["path", "result"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "architect_webhook_admission_seconds",
            "Time from the whole body to the answer.",
            ["path"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.certificate_expiry = Gauge(
            "architect_webhook_certificate_expiry_timestamp_seconds",
            "When the certificate that is served expires.",
            registry=self.registry,
        )
        self.certificate_passes = Counter(
            "architect_webhook_certificate_passes",
            "Looks at the certificate: unchanged, loaded or failed.",
            ["outcome"],
            registry=self.registry,
        )

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)
