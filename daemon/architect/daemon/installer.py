"""Puts the runtime on the host and keeps it there: bundle, engine's configuration, keeper."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from typing import Final

from architect.api import names
from architect.core.errors import ArchitectError, NodeError
from architect.daemon import (
    containerd,
    engine,
    engine_pods,
    install,
    keeper_link,
    standin_certificate,
)
from architect.daemon.host import Host
from architect.daemon.install import Layout
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.settings import DaemonSettings, Engine

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = (60.0, 600.0, 3600.0)
"""Waits after a failed installation; the last one repeats. A try may restart the engine, so a node
with a lasting problem must not be tried every minute."""


KEEPER_SECONDS: Final = 20.0
"""For a keeper to be replaced: its parent gives it 15 s to end, in the middle of a restore, say."""
KEEPER_STEP_SECONDS: Final = 0.1


class Installer:
    """Installs at the start of the daemon, and again after a failure."""

    def __init__(self, settings: DaemonSettings, *, host: Host, layout: Layout) -> None:
        self._settings = settings
        self._host = host
        self._layout = layout
        self._failures = 0
        self._next_try = 0.0
        self.problem = "not installed yet"
        """What went wrong last; empty: all is in place."""
        self.engine: Engine | None = None
        """The node's engine, once all is in place."""

    def ensure(self) -> None:
        """Install unless it is done, or failed a short while ago."""
        if not self.problem or time.monotonic() < self._next_try:
            return
        try:
            self.engine = install_all(self._settings, self._host, self._layout)
        except (ArchitectError, OSError) as error:
            wait = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
            self._failures += 1
            self._next_try = time.monotonic() + wait
            self.problem = str(error)
            log.error("the runtime is not installed: %s; again in %.0f s", error, wait)
            return
        self.problem, self._failures = "", 0


def install_all(settings: DaemonSettings, host: Host, layout: Layout) -> Engine:
    """Install everything, in the order in which each part needs the one before.

    A second time nothing changes and the engine, which is returned, is not restarted. Raises
    ArchitectError or OSError.
    """
    for path, mode in ((layout.run, 0o755), (names.STATE, 0o700), (layout.pods, 0o700)):
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    # The kubelet makes a hostPath directory with mode 0755.
    names.STATE.chmod(0o700)
    for path in (names.CHECKPOINTS, names.REQUESTS, names.UPLOADS, names.ARRIVALS):
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o700)  # an earlier version made it for everybody
    # Without the handler a container of a pod that runs could not be replaced.
    has_gvisor = settings.has_gvisor or install.gvisor_containers(layout) > 0
    bundle = install.find_bundle(settings.bundle)
    version = install.install(bundle, layout, has_gvisor=has_gvisor)
    runtime = install.find_lower_runtime(
        host,
        configured=settings.lower_runtime,
        from_engine=engine.lower_runtime(settings, host),
    )
    install.write_runtime_conf(layout, runtime)
    standin_certificate.ensure(names.STANDIN_CERTIFICATE)
    handlers = containerd.OURS if has_gvisor else (names.RUNTIME_CLASS,)
    outcome = engine.configure(settings, host, handlers=handlers)
    if install.upgrade_keeper(host, layout):
        _await_keeper(settings, layout, version)
    else:
        keeper_link.start(host, current=layout.current)
    log.info(
        "bundle %s is installed over %s; %s %s",
        version,
        runtime,
        outcome.engine.value,
        "has been told of the handlers" if outcome.is_changed else "knows the handlers",
    )
    return outcome.engine


def _await_keeper(settings: DaemonSettings, layout: Layout, version: str) -> None:
    """Return once the keeper is of *version*, or when that has taken too long, which is told."""
    link = KeeperLink(
        timeout_seconds=settings.keeper_timeout_seconds,
        transition_timeout_seconds=settings.transition_timeout_seconds,
        path=layout.run / names.KEEPER_SOCKET.name,
    )
    deadline = time.monotonic() + KEEPER_SECONDS
    while True:
        try:
            found = link.version()
        except ArchitectError as error:
            found = str(error)
        if found == version:
            return
        if time.monotonic() > deadline:
            log.error("the keeper is not of version %s yet: %s", version, found)
            return
        time.sleep(KEEPER_STEP_SECONDS)


def uninstall_all(settings: DaemonSettings, host: Host, layout: Layout) -> int:
    """Take everything off the host unless containers or pods of ours are left; returns how many.

    Without the runtime their engine could neither exec into nor end them. Raises ArchitectError or
    OSError.
    """
    if left := install.living_containers(layout):
        return left
    if settings.engine is not Engine.NONE:
        if left := engine_pods.living(host, containerd.OURS):
            return left
        engine.unconfigure(settings, host)
    _end_keeper(host)
    install.remove(layout)
    return 0


def _end_keeper(host: Host) -> None:
    """End the keeper by its parent; nothing sleeps any more, so nothing is held."""
    for process in host.processes(install.WARDEN):
        try:
            os.kill(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
        except OSError as error:
            raise NodeError(f"cannot end the keeper's parent: {error.strerror}") from error
