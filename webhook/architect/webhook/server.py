"""The process: listen, keep the certificate fresh, end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn

from architect.core.errors import ArchitectError, ConfigError
from architect.webhook.app import Service, create_app
from architect.webhook.crowd import Crowd, Listener, protocol
from architect.webhook.rotation import Source
from architect.webhook.settings import Settings
from architect.webhook.tls import ServingContext

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
"""Between two attempts to get the first certificate."""

NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


class Server(uvicorn.Server):
    """uvicorn, whose signals are handled by :class:`Webhook`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn's own handler stops at once and ends by the signal."""
        yield


class Webhook:
    """One replica: :meth:`run` serves until :meth:`stop` or SIGTERM."""

    def __init__(self, settings: Settings, source: Source) -> None:
        self.settings = settings
        self.source = source
        self.tls = ServingContext()
        self.service = Service(why_not_ready=self.tls.why_not_ready, has_gvisor=settings.has_gvisor)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self.listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The port, once connections are accepted."""

    def stop(self) -> None:
        """Begin to end; a second call cuts the drain short."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Serve. Returns after everything in flight was answered.

        Raises ConfigError if it cannot listen, and what went wrong last if no certificate could be
        had within ``start_seconds``.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(RuntimeError, ValueError):  # not the main thread: tests
                loop.add_signal_handler(number, self.stop)
        if not await self._first_certificate():
            return
        crowd = Crowd()
        listener = Listener.of(_listen(self.settings), crowd)
        server = Server(
            uvicorn.Config(
                create_app(self.service),
                ssl_context_factory=lambda _config, _default: self.tls.outer,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                http=protocol(crowd),
                timeout_keep_alive=self.settings.keep_alive_seconds,
                timeout_graceful_shutdown=max(1, round(self.settings.finish_seconds)),
            )
        )
        port = listener.getsockname()[1]
        log.info("listening on port %d", port)
        with contextlib.closing(listener):
            await self._serve(server, listener, port=port)
        log.info("ended")

    async def _serve(self, server: Server, listener: socket.socket, *, port: int) -> None:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        refreshing = asyncio.create_task(self._keep_fresh())
        stopping = asyncio.create_task(self._stop.wait())
        hurrying = asyncio.create_task(self._hurry.wait())
        self.listening.set_result(port)
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                self.service.draining = True
                log.info("ending: not ready, serving on for %gs", self.settings.drain_seconds)
                await asyncio.wait(
                    {serving, hurrying},
                    timeout=self.settings.drain_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
        finally:
            server.should_exit = True
            for task in (refreshing, stopping, hurrying):
                task.cancel()
            await asyncio.gather(refreshing, stopping, hurrying, return_exceptions=True)
            await serving

    async def _first_certificate(self) -> bool:
        """Load a first certificate; False if the process was told to stop before."""
        deadline = asyncio.get_running_loop().time() + self.settings.start_seconds
        while True:
            try:
                await self._refresh()
            except ArchitectError as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                log.warning("no certificate yet: %s", error)
            else:
                return True
            if await self._stopped_within(RETRY_SECONDS):
                return False

    async def _keep_fresh(self) -> None:
        while not await self._stopped_within(self.settings.sync_seconds):
            try:
                await self._refresh()
            except ArchitectError as error:
                log.warning("the certificate stays as it is: %s", error)

    async def _refresh(self) -> None:
        outcomes = self.service.metrics.certificate_passes
        try:
            pair = await asyncio.to_thread(self.source.fetch)
            changed = self.tls.load(pair)
        except ArchitectError:
            outcomes.labels("failed").inc()
            raise
        outcomes.labels("loaded" if changed else "unchanged").inc()
        if self.tls.not_after is not None:
            self.service.metrics.certificate_expiry.set(self.tls.not_after.timestamp())
            if changed:
                log.info("serving a certificate valid until %s", self.tls.not_after.isoformat())

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), timeout=seconds)
        return self._stop.is_set()


def _listen(settings: Settings) -> socket.socket:
    """Return a listening socket: IPv6 and IPv4 on one, or IPv4 where there is no IPv6."""
    try:
        if settings.host is not None:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            return socket.create_server((settings.host, settings.port), family=family)
        try:
            return socket.create_server(
                ("::", settings.port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        except OSError as error:
            if error.errno not in NO_IPV6:
                raise
            return socket.create_server(("0.0.0.0", settings.port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on port {settings.port} of {settings.host or 'all addresses'}: "
            f"{error.strerror or error}"
        ) from error
