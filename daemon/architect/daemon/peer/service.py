"""This node's end of the transport: its certificate, its server, and what it gets from others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from architect.checkpoint import manifest as manifests
from architect.checkpoint.manifest import Manifest
from architect.core.errors import NodeError, Unavailable
from architect.daemon.checkpoint import landing
from architect.daemon.metrics import Metrics
from architect.daemon.peer.addresses import Addresses
from architect.daemon.peer.claims import Claims
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.identity import Identity
from architect.daemon.settings import DaemonSettings
from architect.kube.api import Api

if TYPE_CHECKING:
    from architect.daemon.peer.client import Fetched, Fetcher
    from architect.daemon.peer.server import PeerServer

log = logging.getLogger(__name__)

LISTEN_RETRY_SECONDS: Final = 30.0

FETCH_SECONDS: Final = 600.0
"""For a whole checkpoint, unless who gets it says otherwise."""


class Peer:
    """The daemon's peer. :meth:`run` belongs to a thread, :meth:`fetch` to any."""

    def __init__(
        self,
        config: DaemonSettings,
        *,
        api: Api,
        checkpoints: Path,
        metrics: Metrics,
        may_read: Callable[[str, str], bool] | None = None,
        identity: Identity | None = None,
        address_of: Callable[[str], str] | None = None,
    ) -> None:
        self._config = config
        self._checkpoints = checkpoints
        self._may_read = (
            may_read or Claims(api, node=config.node_name, locate=self._locate).may_read
        )
        self._metrics = metrics
        self._identity = identity or Identity(api, node=config.node_name)
        self._identity.on_change = self._changed
        self._address_of = (
            address_of
            or Addresses(
                api, namespace=config.namespace, selector=config.daemon_selector
            ).address_of
        )
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._server: PeerServer | None = None
        self._fetcher: Fetcher | None = None

    @property
    def port(self) -> int:
        """Where it serves; 0 before it does."""
        return 0 if self._server is None else self._server.port

    @property
    def is_serving(self) -> bool:
        """Whether another node gets something at this moment."""
        return self._server is not None and self._server.is_serving

    def run(self, stop: threading.Event) -> None:
        """Serve until *stop*; :meth:`close` after setting it."""
        serving = threading.Thread(
            target=self._serve, args=(stop,), name="peer-listen", daemon=True
        )
        serving.start()
        self._identity.run(stop)
        self._ready.set()
        serving.join()

    def close(self) -> None:
        """Have :meth:`run` see that it is to end."""
        self._ready.set()
        self._identity.poke()

    def fetch(
        self,
        node: str,
        checkpoint_id: str,
        target: Path,
        *,
        accept: Callable[[Manifest], None] = lambda _: None,
        is_durable: bool = True,
        patience_seconds: float | None = None,
        timeout_seconds: float = FETCH_SECONDS,
    ) -> Fetched:
        """Get a checkpoint from another node: see :meth:`client.Fetcher.fetch`."""
        with self._lock:
            if self._fetcher is None:
                from architect.daemon.peer.client import Fetcher

                self._fetcher = Fetcher(
                    credentials=self._identity.current,
                    address_of=self._address_of,
                    suspect=self._identity.suspect,
                    received=self._metrics.peer_received_bytes.inc,
                )
            fetcher = self._fetcher
        return fetcher.fetch(
            node,
            checkpoint_id,
            target,
            accept=accept,
            floor_bytes=self._config.free_floor_bytes,
            is_durable=is_durable,
            patience_seconds=patience_seconds,
            timeout_seconds=timeout_seconds,
        )

    def _serve(self, stop: threading.Event) -> None:
        """Listen as soon as there is a certificate, until *stop*."""
        self._ready.wait()
        if stop.is_set():
            return
        # 10 MiB of memory, which a daemon that is told to check or uninstall does without.
        from architect.daemon.peer.server import PeerServer

        server = PeerServer(
            credentials=self._identity.current,
            locate=self._locate,
            may_read=self._may_read,
            sent=self._metrics.peer_sent_bytes.inc,
        )
        while not stop.is_set():
            try:
                server.start(self._config.peer_address, data_address=self._config.peer_data_address)
                self._server = server
                break
            except (NodeError, Unavailable) as error:
                log.error("%s; again in %.0f s", error, LISTEN_RETRY_SECONDS)
                stop.wait(LISTEN_RETRY_SECONDS)
        stop.wait()
        server.stop()

    def _changed(self, credentials: Credentials) -> None:
        self._metrics.certificate_end.set(credentials.ends_at.timestamp())
        self._ready.set()

    def _locate(self, checkpoint_id: str) -> Path | None:
        """Return where a checkpoint of this node lies."""
        if not manifests.is_id(checkpoint_id) or checkpoint_id.endswith(landing.SUFFIX):
            return None
        path = self._checkpoints / checkpoint_id
        return path if path.is_dir() else None
