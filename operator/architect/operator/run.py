"""The operator's process: wait for the lease, then watch and sweep until it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import kopf

from architect.core.errors import Retryable, Unavailable
from architect.kube.api import Api
from architect.kube.connection import Connection
from architect.kube.errors import NotFound
from architect.kube.events import Recorder
from architect.kube.notes import Notes
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS, Resource
from architect.objectstore.control import Control
from architect.operator import handlers, metrics, releaser, watchman
from architect.operator.adopter import Adopter
from architect.operator.apply import Applier
from architect.operator.authority_store import AuthorityStore
from architect.operator.collector import Collector
from architect.operator.dismisser import Dismisser
from architect.operator.endpoint import Endpoint
from architect.operator.keyring_store import KeyringStore
from architect.operator.kms.aws import Aws
from architect.operator.kms.service import KeyService, OpensOnly, SecretAlone
from architect.operator.kms.settings import KmsSettings
from architect.operator.leader import Elector
from architect.operator.metrics import Metrics
from architect.operator.registrar import Registrar
from architect.operator.releaser import Releaser
from architect.operator.rounds import Round, repeat
from architect.operator.settings import OperatorSettings, host_port
from architect.operator.signer import Signer
from architect.operator.strongbox import Strongbox
from architect.operator.sweep import Sweeper
from architect.operator.unmanaged import UnmanagedPods
from architect.operator.watchman import Watchman

log = logging.getLogger(__name__)

T = TypeVar("T")

FIELD_MANAGER: Final = "architect-operator"

STUCK_SECONDS: Final = 60.0
"""The event loop notes the time every second; a minute without is not load but a deadlock."""

WATCH_SECONDS: Final = 300
"""After this long the server ends a watch, and kopf begins the next. Whole seconds: kopf sends the
number as it is, and the API server reads an integer."""

REQUEST_SECONDS: Final = 30.0
"""For one list of kopf's; a list of 100,000 pods takes some."""


KINDS_TIMEOUT_SECONDS: Final = 60.0
"""How long CRDs that were created together with us may take."""


NOTES_SECONDS: Final = 3.0
"""For events that wait to be written when the process ends."""

STORE_THREADS: Final = 2
"""That work in the object store at the same time, the sweep included."""

KEY_THREADS: Final = 4
"""That give keys at the same time. All of them wait while the key management service is asked."""


class LeadershipLost(Retryable):
    """Another replica works now, or nobody could be asked; the process starts over as standby."""


class Operator:
    """One process of the operator."""

    def __init__(self, settings: OperatorSettings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._metrics = Metrics()
        api = Api(connection, field_manager=FIELD_MANAGER)
        recorder = Recorder(api, component="operator", instance=settings.identity)
        self._notes = Notes(recorder)
        self._applier = Applier(api, recorder, self._metrics, tell=self._notes.tell)
        self._unmanaged = UnmanagedPods(
            self._applier, self._metrics, has_gvisor=settings.has_gvisor
        )
        self._registrar = Registrar(
            api,
            self._applier,
            self._metrics,
            has_store=settings.store is not None,
            limits=settings.limits,
        )
        self._sweeper = Sweeper(
            api,
            self._applier,
            self._metrics,
            self._unmanaged,
            self._registrar,
            daemon_namespace=settings.namespace,
            daemon_selector=settings.daemon_selector,
        )
        self._dismisser = Dismisser(api, self._applier)
        authorities = AuthorityStore(api, namespace=settings.namespace, name=settings.ca_secret)
        self._signer = Signer(
            api,
            authorities,
            self._metrics,
            account=f"system:serviceaccount:{settings.namespace}:{settings.daemon_account}",
        )
        self._releaser = Releaser(
            api,
            KeyringStore(
                api,
                Strongbox(
                    key_service(settings.kms),
                    self._metrics,
                    cluster=settings.kms_cluster,
                    namespace=settings.namespace,
                    secret=settings.key_secret,
                ),
                namespace=settings.namespace,
                name=settings.key_secret,
                config_map=settings.key_config_map,
            ),
            self._metrics,
            authorities=lambda: authorities.fetch().trusted,
        )
        self._adopter = None
        self._collector = None
        if (store := settings.store) is not None:
            # It takes 30 MiB of memory when it is made, which a replica that only waits does
            # without.
            self._adopter = Adopter(
                api,
                self._metrics,
                tell=self._notes.tell,
                open_bucket=lambda: Control(store),
                bucket=store.bucket,
                prefix=store.prefix,
                authorities=lambda: authorities.fetch().trusted,
            )
            self._collector = Collector(
                api,
                self._metrics,
                open_bucket=lambda: Control(store),
                prefix=store.prefix,
                is_kept=self._adopter.is_unsettled,
            )
        self._watchman = Watchman(
            api,
            self._applier,
            self._metrics,
            self._dismisser,
            self._adopter,
            marks=settings.spot_out_of_service,
        )
        # A store or a key management service that hangs, and what waits for it, costs nobody else a
        # thread, least of all the lease.
        self._store_threads = ThreadPoolExecutor(STORE_THREADS, "store")
        self._key_threads = ThreadPoolExecutor(KEY_THREADS, "keys")
        self._machine_thread = ThreadPoolExecutor(1, "machines")
        self._lease_thread = ThreadPoolExecutor(1, "lease")
        self._elector = Elector(
            api,
            namespace=settings.namespace,
            name=settings.lease,
            identity=settings.identity,
            lease_seconds=settings.lease_seconds,
        )
        self._beat_at = time.monotonic()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises LeadershipLost; ConfigError if the endpoint's address is none.
        """
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        with Endpoint(
            host_port(self._settings.address),
            numbers=self._metrics,
            health=self._what_is_stuck,
            readiness=self._what_is_missing,
        ):
            beat = asyncio.create_task(self._beat())
            notes_end = threading.Event()
            writer = threading.Thread(
                target=self._notes.run, args=(notes_end,), name="notes", daemon=True
            )
            writer.start()
            try:
                self._metrics.set(metrics.LEADER, 0)
                if await self._wait_for_lease(stopped):
                    await self._lead(stopped)
            finally:
                beat.cancel()
                self._metrics.set(metrics.LEADER, 0)
                await self._by_lease_thread(self._elector.release)
                # What was told last is written, unless the API server is what is away.
                await loop.run_in_executor(None, self._notes.settle, NOTES_SECONDS)
                notes_end.set()
                self._notes.poke()

    async def _by_lease_thread(self, step: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lease_thread, step)

    async def _wait_for_lease(self, stopped: asyncio.Event) -> bool:
        """Return whether we lead; False if we were stopped before."""
        log.info("waiting for lease %s as %s", self._settings.lease, self._settings.identity)
        while not stopped.is_set():
            if await self._by_lease_thread(self._elector.step):
                return True
            await _wait(stopped, seconds=self._elector.interval_seconds)
        return False

    async def _lead(self, stopped: asyncio.Event) -> None:
        """Work as long as we hold the lease and are not stopped."""
        log.info("holding lease %s", self._settings.lease)
        self._metrics.set(metrics.LEADER, 1)
        stop_work = asyncio.Event()
        # kopf ends every task that was made after it started, so ours are made before.
        renewal = asyncio.create_task(self._renew(stopped, stop_work))
        sweeps = [
            asyncio.create_task(
                repeat(
                    one,
                    stop_work,
                    seconds=self._settings.sweep_interval_seconds,
                    failed=lambda: self._metrics.add(metrics.SWEEPS, result="failed"),
                )
            )
            for one in self._rounds()
        ]
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=kopf_settings(),
                clusterwide=True,
                standalone=True,
                stop_flag=stop_work,
            )
        finally:
            stop_work.set()
            has_lost = not await renewal
            await asyncio.gather(*sweeps)
        if has_lost:
            raise LeadershipLost(f"lease {self._settings.lease} is lost")

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        handlers.register(
            registry,
            sweeper=self._sweeper,
            unmanaged=self._unmanaged,
            registrar=self._registrar,
            signer=self._signer,
            releaser=self._releaser,
            dismisser=self._dismisser,
            watchman=self._watchman,
            collector=self._collector,
            store_threads=self._store_threads,
            key_threads=self._key_threads,
            credentials=self._connection.credentials,
        )
        return registry

    async def _renew(self, stopped: asyncio.Event, stop_work: asyncio.Event) -> bool:
        """Renew until the work is to end; return whether we still held the lease then.

        kopf takes the signals over as it starts, and ends by itself; one that came just before is
        seen here.
        """
        while not stopped.is_set() and not stop_work.is_set():
            if not await self._by_lease_thread(self._elector.step):
                log.warning("lease %s is lost", self._settings.lease)
                stop_work.set()
                return False
            await _wait(stop_work, seconds=self._elector.interval_seconds)
        stop_work.set()
        return True

    def _rounds(self) -> list[Round]:
        """Return what is looked at again and again, each by itself: none waits for another."""
        found = [
            Round(what="objects", look=self._sweeper.sweep),
            Round(what="certificates", look=self._signer.sweep),
            Round(what="pods of machines that end", look=self._dismisser.sweep),
            Round(
                what="machines that end",
                look=self._watchman.look,
                threads=self._machine_thread,
                seconds=watchman.LOOK_SECONDS,
            ),
        ]
        if self._collector is not None and self._adopter is not None:
            # Without a store nothing is ever encrypted for our keys.
            found += [
                Round(what="keys", look=self._releaser.sweep, threads=self._key_threads),
                Round(
                    what="claims that wait",
                    look=self._releaser.look_at_waiting,
                    threads=self._key_threads,
                    seconds=releaser.WAITING_SECONDS,
                ),
                Round(what="object store", look=self._look_at_store, threads=self._store_threads),
            ]
        return found

    def _look_at_store(self) -> None:
        """Give what lies there to whom it is of, and remove what is nobody's: in this order."""
        assert self._adopter is not None and self._collector is not None
        self._adopter.sweep()
        self._collector.sweep()

    async def _beat(self) -> None:
        while True:
            self._beat_at = time.monotonic()
            await asyncio.sleep(1)

    def _what_is_stuck(self) -> str:
        silent = time.monotonic() - self._beat_at
        return f"the event loop has been stuck for {silent:.0f} s" if silent > STUCK_SECONDS else ""

    def _what_is_missing(self) -> str:
        contact = self._elector.contact_at
        if contact is None or time.monotonic() - contact > STUCK_SECONDS:
            return "the API server does not answer"
        return ""


def key_service(settings: KmsSettings | None) -> KeyService:
    """Return who seals the private keys."""
    if settings is None:
        return SecretAlone()
    service = Aws(settings)
    return OpensOnly(service) if settings.unseal else service


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: it watches, and writes nothing."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # events are ours, deduplicated and bounded
    # No watch of namespaces and CRDs, and no permission to: our kinds are there before we start.
    settings.scanning.disabled = True
    settings.watching.server_timeout = WATCH_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    return settings


def check_kinds(api: Api, *, timeout_seconds: float = KINDS_TIMEOUT_SECONDS) -> None:
    """Return once our kinds are served: kopf looks for them at its start only.

    Raises Unavailable if they are not served in time, Forbidden if we may not read them.
    """
    deadline = time.monotonic() + timeout_seconds
    for resource in (CHECKPOINTS, PERSISTENT_CHECKPOINTS):
        while (problem := _unserved(api, resource)) is not None:
            if time.monotonic() >= deadline:
                raise problem
            log.info("%s", problem)
            time.sleep(problem.delay_seconds)


def _unserved(api: Api, resource: Resource) -> Retryable | None:
    try:
        api.list(resource, is_cached=True)
    except NotFound:
        return Unavailable(
            f"kind {resource.kind} is not served",
            hint="are the CRDs installed? see crds.enabled of the chart",
        )
    except Retryable as error:  # 429 in the seconds after the CRD was created
        return error
    return None


async def _wait(event: asyncio.Event, *, seconds: float) -> None:
    """Return after *seconds*, or at once when *event* is set."""
    with contextlib.suppress(TimeoutError):
        # Not wait_for, which makes a task in Python 3.11: kopf ends all that are not its own.
        async with asyncio.timeout(seconds):
            await event.wait()
