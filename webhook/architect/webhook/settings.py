"""Everything the webhook can be told. Nothing reads the environment later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one replica of the webhook runs."""

    host: str | None = None
    """Address to listen on; None: all, IPv6 and IPv4."""

    port: int = 9443
    """TCP port to listen on; 0: a free one, for tests."""

    tls_dir: Path | None = None
    """Directory with ``tls.crt`` and ``tls.key`` that somebody else renews, such as cert-manager's
    volume. None: certificates are made here and kept in the Secret. With it, the replica never
    talks to the API server, and the CA bundle is somebody else's too."""

    namespace: str = "architect"
    """Namespace of the Secret and of the Service."""

    secret_name: str = "architect-webhook-tls"
    """Secret that the replicas share: CA, CA key, serving certificate and key."""

    service_name: str = "architect-webhook"
    """Service by whose name the API server calls: the names in the certificate follow from it."""

    mutating_configuration: str = "architect-webhook"
    """MutatingWebhookConfiguration whose CA bundle is kept up to date; empty: none."""

    validating_configuration: str = "architect-webhook"
    """ValidatingWebhookConfiguration whose CA bundle is kept up to date; empty: none."""

    kubeconfig: Path | None = None
    """Kubeconfig for a run outside the cluster; None: the pod's service account."""

    sync_seconds: float = 30.0
    """Time between two looks at the certificate. Another replica's renewal reaches this one
    within it, far inside the time for which the old certificate stays good."""

    start_seconds: float = 60.0
    """How long a replica waits at its start for a first certificate before it gives up and
    kubelet starts it again."""

    drain_seconds: float = 5.0
    """How long it serves on, not ready, after SIGTERM: the API server and kube-proxy need this
    long to see that the endpoint is going."""

    finish_seconds: float = 10.0
    """How long requests in flight may take after that. With ``drain_seconds`` it must stay below
    the pod's grace period."""

    keep_alive_seconds: int = 120
    """How long an idle connection stays open. Longer than the API server's 90 s (Go's
    IdleConnTimeout as client-go sets it): if this side closed first, a review sent in that moment
    would be lost, and with failurePolicy Ignore its pod would start unmanaged."""

    has_gvisor: bool = False
    """Whether the cluster has the runtime class of gVisor: pods must not be given one that is not
    there, with which they would not be created."""

    log_level: str = "info"
    """``debug`` adds the pods that are none of our business."""

    log_format: str = "text"
    """``text`` or ``json``: one object a line."""

    @property
    def dns_names(self) -> tuple[str, ...]:
        """Names that the serving certificate carries; the API server asks for the last."""
        return (
            self.service_name,
            f"{self.service_name}.{self.namespace}",
            f"{self.service_name}.{self.namespace}.svc",
        )
