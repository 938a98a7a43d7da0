"""No request and no datagram is lost, whenever a pod falls asleep and wakes."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

import pytest

from lab.cluster import Cluster
from lab.machine import Machine
from support.loads import Load, load
from support.tiers import sized
from support.workloads import Workload, eventually, try_to_sleep, wait_for_service, workload

pytestmark = pytest.mark.concurrent

CYCLES = sized(5, 100)
RATE = 50.0
PAUSE_SECONDS = 0.6
"""Longest time that a pod is left awake between two sleeps."""


@pytest.fixture(scope="module")
def server(architect: Cluster, theme: str) -> Iterator[Workload]:
    with workload(architect, theme, "busy", mebibytes=32) as made:
        yield made


@pytest.mark.timeout(sized(600, 1800))
@pytest.mark.parametrize(
    ("family", "origin"), [("IPv4", "the control plane"), ("IPv6", "the other node")]
)
def test_clients_see_no_error_through_sleeps_and_wakes(
    server: Workload, family: str, origin: str
) -> None:
    machine = _machine(server, origin)
    address = server.service_ip(family)
    wait_for_service(machine, address)
    before = server.get()
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(load(kind, address, machine=machine, rate=RATE))
            for kind in ("new", "kept", "udp")
        ]
        _sleep_at_random_moments(server, clients)
    for client in clients:
        client.check(identity=before["identity"])
    http = sum(c.result["answered"] for c in clients if c.kind != "udp")
    # The application has counted each request once: none was lost, none was given to it twice.
    assert server.get()["count"] == before["count"] + http + 1
    assert server.restarts() == 0


def _machine(server: Workload, origin: str) -> Machine:
    if origin == "the control plane":
        return server.cluster.plane.machine
    own = server.node().name
    return next(n.machine for n in server.cluster.nodes if n.name != own)


def _sleep_at_random_moments(server: Workload, clients: list[Load]) -> None:
    seed = random.randrange(1 << 32)
    print(f"random seed {seed}")
    chosen = random.Random(seed)
    for _ in range(CYCLES):
        time.sleep(chosen.uniform(0, PAUSE_SECONDS))
        eventually(lambda: try_to_sleep(lambda: server.runtime("sleep")), what="it falls asleep")
        # Traffic wakes it at once: the next cycle begins from any state.
        assert all(client.is_alive() for client in clients)
