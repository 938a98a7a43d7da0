"""What is shown of drains: counters that move awake and asleep, and databases with their files."""

from __future__ import annotations

import base64
import socket
from functools import partial
from typing import Final

from architect.api import names
from demo import counter, databases, network, stage
from demo.counter import one_more_visit
from demo.errors import DemoError
from demo.moving import ASK_SECONDS, Drain, Mover, only
from demo.pods import Application
from demo.results import Result
from demo.story import State
from lab.cluster import Cluster

ROLLOUT_SECONDS: Final = 180
ORDINALS: Final = ("counters-0", "counters-1")
PORTS: Final = {"valkey": 6379, "postgresql": 5432}


def show(cluster: Cluster, *, namespace: str = stage.NAMESPACE) -> list[Result]:
    """Drain the nodes of the counters and databases that run in *namespace*, one after the other.

    Raises DemoError, LabError.
    """
    progress = cluster.progress
    if len(cluster.nodes) < 2:
        progress.say("one node: there is nowhere to go from it, no drain is shown")
        return []
    web = Application(cluster=cluster, namespace=namespace, name="counter")
    home = web.node().name
    with progress.step(f"counters: kubectl apply -f examples/{stage.COUNTERS}, on {home} too"):
        begin_counters(cluster, home, namespace=namespace)
    drain = partial(Drain, cluster=cluster, namespace=namespace)
    one = web_counter(web)
    found: list[Result] = []
    with progress.step(f"drain of {home}: a Deployment and a StatefulSet, awake"):
        movers = (one, *(ordinal(cluster, name) for name in ORDINALS))
        found += drain(movers=movers, condition="awake").run()
    with progress.step("drain: the Deployment again, asleep"):
        old = web.pod()
        before = one.observe(one.service)
        web.wait_for_label(names.STATUS_SCALED_DOWN)
        found += drain(movers=(one,), condition="asleep").go({one.name: old}, {one.name: before})
    for mover in (valkey(cluster, namespace), postgresql(cluster, namespace)):
        with progress.step(f"drain: {mover.name}, with its files in an emptyDir"):
            found += drain(movers=(mover,), condition="awake").run()
    return found


def begin_counters(cluster: Cluster, home: str, *, namespace: str) -> None:
    """Run the StatefulSet, all of it on one node."""
    with only(cluster, home):
        manifest = stage.EXAMPLES / stage.COUNTERS / "manifest.yaml"
        cluster.kubectl("-n", namespace, "apply", "-f", str(manifest))
        cluster.kubectl(
            *("-n", namespace, "rollout", "status", "statefulset/counters"),
            f"--timeout={ROLLOUT_SECONDS}s",
            timeout_seconds=ROLLOUT_SECONDS + 30,
        )
    for name in ORDINALS:
        pod = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        asked = pod["spec"].get("runtimeClassName")
        if asked != names.RUNTIME_CLASS:
            raise DemoError(f"{name}: runtime class {asked} instead of {names.RUNTIME_CLASS}")


def web_counter(app: Application) -> Mover:
    """Return the Deployment's counter."""
    return Mover(
        name=app.name,
        app=app.name,
        subject="web application, 64 MiB, a Deployment",
        ask=partial(_visit, app.cluster, "/"),
        observe=partial(_visit, app.cluster, "/state"),
        changes=one_more_visit,
        service=str(app.service()["clusterIP"]),
    )


def ordinal(cluster: Cluster, name: str) -> Mover:
    """Return one of the StatefulSet's counters."""
    return Mover(
        name=name,
        app=name.rpartition("-")[0],
        subject="web application, 16 MiB, of a StatefulSet",
        ask=partial(_visit, cluster, "/"),
        observe=partial(_visit, cluster, "/state"),
        changes=one_more_visit,
        has_ordinal=True,
    )


def valkey(cluster: Cluster, namespace: str) -> Mover:
    """Return the key-value store, with what the story of its sleep left in it."""

    def observe(address: str) -> State:
        return databases.valkey_state(_connect(cluster, address, PORTS["valkey"]))

    return Mover(
        name="valkey",
        app="valkey",
        subject=f"Valkey, {databases.KEYS} keys, append-only file",
        ask=observe,
        observe=observe,
        service=_service(cluster, namespace, "valkey"),
    )


def postgresql(cluster: Cluster, namespace: str) -> Mover:
    """Return the database, with what the story of its sleep left in it."""
    secret = cluster.api.get(f"/api/v1/namespaces/{namespace}/secrets/postgresql")
    password = base64.b64decode(secret["data"]["password"]).decode()

    def observe(address: str) -> State:
        return databases.postgresql_state(
            _connect(cluster, address, PORTS["postgresql"]), password=password
        )

    return Mover(
        name="postgresql",
        app="postgresql",
        subject=f"PostgreSQL, {databases.ROWS} rows",
        ask=observe,
        observe=observe,
        service=_service(cluster, namespace, "postgresql"),
    )


def _visit(cluster: Cluster, path: str, address: str) -> State:
    connection = counter.Connection(partial(_connect, cluster, address, counter.PORT))
    try:
        return connection.ask(path)
    finally:
        connection.close()


def _connect(cluster: Cluster, address: str, port: int) -> socket.socket:
    inside = cluster.plane.machine.network
    return network.tcp(inside, address, port, timeout_seconds=ASK_SECONDS)


def _service(cluster: Cluster, namespace: str, name: str) -> str:
    found = cluster.api.get(f"/api/v1/namespaces/{namespace}/services/{name}")
    return str(found["spec"]["clusterIP"])
