"""Which event leads where. The decisions are in :mod:`architect.operator.plan`.

Only ``on.event`` handlers: kopf then writes nothing into the objects, neither its progress nor a
finalizer, so that objects and namespaces can be deleted while no operator runs. What such a handler
misses or fails at is found by the next sweep.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kopf

from architect.core.tls import without_strictness
from architect.kube.connection import Credentials
from architect.kube.resources import (
    CHECKPOINTS,
    NODES,
    PERSISTENT_CHECKPOINTS,
    PODS,
    SIGNING_REQUESTS,
)
from architect.operator import abandoned, plan
from architect.operator.collector import Collector
from architect.operator.dismisser import Dismisser
from architect.operator.registrar import Registrar
from architect.operator.releaser import Releaser
from architect.operator.signer import Signer
from architect.operator.sweep import Sweeper
from architect.operator.unmanaged import UnmanagedPods
from architect.operator.watchman import Watchman


def register(
    registry: kopf.OperatorRegistry,
    *,
    sweeper: Sweeper,
    unmanaged: UnmanagedPods,
    registrar: Registrar,
    signer: Signer,
    releaser: Releaser,
    dismisser: Dismisser,
    watchman: Watchman,
    collector: Collector | None,
    store_threads: ThreadPoolExecutor,
    key_threads: ThreadPoolExecutor,
    credentials: Callable[[], Credentials],
) -> None:
    """Add our handlers to *registry*."""

    async def in_threads(
        threads: ThreadPoolExecutor, work: Callable[[dict[str, Any]], None], value: dict[str, Any]
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(threads, work, value)

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return connection_info(credentials())

    @kopf.on.event(PODS.version, PODS.plural, registry=registry, when=_is_of_interest)
    async def pod_changed(event: kopf.RawEvent, **_: Any) -> None:
        value = dict(event["object"])
        if event["type"] == "DELETED":
            unmanaged.forget(value)
            await asyncio.to_thread(sweeper.pod_deleted, value)
        else:
            await asyncio.to_thread(unmanaged.look_at, value)
            await asyncio.to_thread(registrar.pod_changed, value)

    @kopf.on.event(CHECKPOINTS.group, CHECKPOINTS.version, CHECKPOINTS.plural, registry=registry)
    async def checkpoint_changed(event: kopf.RawEvent, **_: Any) -> None:
        value = dict(event["object"])
        if event["type"] == "DELETED":
            sweeper.deleted(value)
            await asyncio.to_thread(dismisser.deleted, value)
            if collector is not None:
                await in_threads(store_threads, collector.deleted, value)
            return
        # First who waits: a pod does not come before the one that it replaces is deleted, and does
        # not start before it has its key, for which a key management service may be asked.
        await asyncio.to_thread(dismisser.look_at, value)
        await in_threads(key_threads, releaser.look_at, value)
        await asyncio.to_thread(sweeper.changed, value)
        if collector is not None:
            await in_threads(store_threads, collector.changed, value)

    @kopf.on.event(
        PERSISTENT_CHECKPOINTS.group,
        PERSISTENT_CHECKPOINTS.version,
        PERSISTENT_CHECKPOINTS.plural,
        registry=registry,
    )
    async def persistent_changed(event: kopf.RawEvent, **_: Any) -> None:
        value = dict(event["object"])
        if event["type"] != "DELETED":
            await asyncio.to_thread(registrar.look_at, value)
            return
        registrar.deleted(value)
        if collector is not None:
            await in_threads(store_threads, collector.deleted, value)

    @kopf.on.event(NODES.version, NODES.plural, registry=registry)
    async def node_changed(event: kopf.RawEvent, **_: Any) -> None:
        value: dict[str, Any] = dict(event["object"])
        if event["type"] == "DELETED":
            watchman.gone(value)
        else:
            watchman.changed(value)
        if event["type"] == "DELETED" or abandoned.is_out_of_service(value):
            await asyncio.to_thread(sweeper.node_lost, value["metadata"]["name"])

    @kopf.on.event(
        SIGNING_REQUESTS.group, SIGNING_REQUESTS.version, SIGNING_REQUESTS.plural, registry=registry
    )
    async def certificate_requested(event: kopf.RawEvent, **_: Any) -> None:
        if event["type"] != "DELETED":
            await asyncio.to_thread(signer.look_at, dict(event["object"]))


class _Tolerant(kopf.ConnectionInfo):
    """Accepts the CAs that our own connection accepts."""

    def as_ssl_context(self) -> ssl.SSLContext:
        return without_strictness(super().as_ssl_context())


def connection_info(credentials: Credentials) -> kopf.ConnectionInfo:
    """Return our credentials as kopf wants them."""
    return _Tolerant(
        server=credentials.server,
        ca_path=credentials.ca_path,
        insecure=not credentials.is_verified,
        scheme="Bearer" if credentials.token else None,
        token=credentials.token,
        certificate_path=credentials.certificate_path,
        private_key_path=credentials.private_key_path,
    )


def _is_of_interest(body: kopf.Body, **_: Any) -> bool:
    return plan.is_of_interest(body)
