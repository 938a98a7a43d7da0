"""A machine that its cloud takes back, and an object store that is far away, without Kubernetes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo import network
from lab import addresses, artefacts, errors, netns, object_store, rootfs, spot, store_faults
from lab.cache import Cache
from lab.cluster import Cluster
from lab.machine import Bind, Machine, MachineSpec
from lab.node import Node
from lab.settings import Settings
from support.patience import patient

PORT = 7000
SLOW = 1 << 20
"""Bytes in a second."""
QUICK_SECONDS = patient(90.0)

LISTEN = (
    "import socket; s = socket.create_server(('', 7000)); c, _ = s.accept(); "
    "c.sendall(b'here'); c.recv(1)"
)


@dataclass(frozen=True)
class World:
    """A node's machine and the control plane's, joined as in a cluster."""

    cluster: Cluster
    node: Node

    @property
    def plane(self) -> Machine:
        return self.cluster.plane.machine


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = Settings.from_environment()
    state = found.state.parent / f"architect-spot-{os.getpid()}"
    settings = Settings(cache=found.cache, state=state)
    cluster = Cluster(settings=settings)
    made = World(cluster, Node(machine=Machine("node1", settings=settings)))
    cache = Cache(found.cache)
    root = rootfs.node_root(cache)
    store = Bind(source=artefacts.versitygw(cache), target=object_store.PROGRAM, readonly=True)
    try:
        for machine, binds in ((made.plane, (store,)), (made.node.machine, ())):
            machine.create(MachineSpec(root=root, sysctls=netns.SYSCTLS, binds=binds))
        netns.make_bridge(made.plane)
        netns.connect(made.plane, made.node.machine, made.node.addresses)
        yield made
    finally:
        for machine in (made.node.machine, made.plane):
            machine.destroy()
        subprocess.run(["rm", "-rf", "--one-file-system", state], check=True)


def ask(machine: Machine, path: str) -> str:
    """Return what the metadata service says to somebody in *machine*."""
    base = f"http://{spot.ADDRESS}/latest"
    token = machine.run_in_network(
        *("curl", "-fsS", "-X", "PUT", "-H", "x-aws-ec2-metadata-token-ttl-seconds: 60"),
        f"{base}/api/token",
    )
    return machine.run_in_network(
        "curl", "-fsS", "-H", f"x-aws-ec2-metadata-token: {token}", f"{base}/{path}"
    )


def connected(world: World) -> socket.socket:
    """Return a connection from outside to a program in the node, which has said something."""
    world.node.machine.start_service("listener", ["/usr/bin/python3", "-c", LISTEN])
    deadline = time.monotonic() + QUICK_SECONDS
    while True:
        try:
            made = network.tcp(world.plane.network, world.node.addresses.v4, PORT)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            continue
        assert made.recv(4) == b"here"
        return made


def test_a_node_that_ends_says_nothing_to_whoever_talks_with_it(world: World) -> None:
    directory = world.node.machine.directory
    with connected(world) as link:
        world.node.end(world.plane)
        assert not directory.exists()
        assert world.node.machine.pid is None
        link.settimeout(1.0)
        with pytest.raises(TimeoutError):
            link.recv(1)  # neither an end nor a reset: it waits for what will never come


def test_a_notice_is_heard_in_the_node_and_its_end_comes_when_it_was_said(world: World) -> None:
    node = world.node
    with spot.metadata(node.machine) as service:
        with pytest.raises(errors.CommandFailed):
            ask(node.machine, "meta-data/spot/instance-action")
        with spot.countdown(world.cluster, node, service, 3600) as announced:
            told = json.loads(ask(node.machine, "meta-data/spot/instance-action"))
            said = time.strptime(told["time"], "%Y-%m-%dT%H:%M:%SZ")
            assert told["action"] == "terminate"
            assert time.mktime(said) - time.timezone == announced.ends
            assert 0 < announced.left_seconds <= 3600
            assert node.machine.pid is not None
            assert announced.call_off()
        # One that is waited for: too short for a look at what is said.
        with spot.countdown(world.cluster, node, service, 2) as countdown:
            countdown.wait()
            assert countdown.ended is not None
            assert countdown.ended >= countdown.ends
            assert node.machine.pid is None
            assert not node.machine.directory.exists()
        with pytest.raises(errors.LabError):
            service.withdraw()  # it went with its machine


def test_a_notice_that_is_withdrawn_ends_nothing(world: World) -> None:
    node = world.node
    with spot.metadata(node.machine) as service:
        with spot.countdown(world.cluster, node, service, 3600) as countdown:
            service.withdraw()
            assert countdown.call_off()
            # Nobody counts any more.
            with pytest.raises(errors.LabError, match="has not ended"):
                countdown.wait()
        assert countdown.ended is None
        assert node.machine.pid is not None
        with pytest.raises(errors.CommandFailed):
            ask(node.machine, "meta-data/spot/instance-action")
    assert spot.ADDRESS not in node.machine.run_in_network("ip", "addr", "show", "lo")


def test_a_cloud_may_be_earlier_than_it_said(world: World) -> None:
    with (
        spot.metadata(world.node.machine, "azure") as service,
        spot.countdown(world.cluster, world.node, service, 3600) as countdown,
    ):
        countdown.end_now()
        assert not world.node.machine.directory.exists()


def test_a_role_is_the_machines(world: World) -> None:
    with spot.metadata(world.node.machine) as service:
        service.role("node", "key", "secret")
        roles = "meta-data/iam/security-credentials"
        assert ask(world.node.machine, f"{roles}/") == "node"
        given = json.loads(ask(world.node.machine, f"{roles}/node"))
        assert (given["AccessKeyId"], given["SecretAccessKey"]) == ("key", "secret")


class Sink:
    """Takes what comes to a port in the control plane's network."""

    def __init__(self, machine: Machine, port: int) -> None:
        script = (
            f"import socket; s = socket.create_server(('', {port}))\n"
            "while True:\n"
            "  c, _ = s.accept()\n"
            "  while c.recv(1 << 16): pass\n"
            "  c.sendall(b'all'); c.close()\n"
        )
        self.process = machine.popen_in_network([sys.executable, "-c", script])

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def sent_seconds(world: World, port: int, size: int) -> float:
    """Return how long it takes *size* bytes from the node to the control plane."""
    deadline = time.monotonic() + QUICK_SECONDS
    while True:
        try:
            link = network.tcp(world.node.machine.network, addresses.CONTROL_PLANE_V4, port)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with link:
        began = time.monotonic()
        link.sendall(bytes(size))
        link.shutdown(socket.SHUT_WR)
        assert link.recv(3) == b"all"
        return time.monotonic() - began


def test_what_goes_to_the_store_is_held_to_a_rate_and_nothing_else_is(world: World) -> None:
    store, elsewhere = 9000, 9001
    with Sink(world.plane, store), Sink(world.plane, elsewhere):
        sent_seconds(world, store, 1)
        with store_faults.limited(world.node.machine, SLOW, port=store):
            # All connections together have the rate, less the burst.
            results: list[float] = []
            threads = [
                threading.Thread(
                    target=lambda: results.append(sent_seconds(world, store, 2 * SLOW))
                )
                for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            # The quickest of some: each of them may have to wait for the processor.
            unlimited = min(sent_seconds(world, elsewhere, 2 * SLOW) for _ in range(5))
            for thread in threads:
                thread.join()
            assert max(results) > 3.0
            assert unlimited < min(results)
            shown = world.node.machine.run_in_network("tc", "qdisc", "show", "dev", "eth0")
            assert "htb" in shown
        assert "htb" not in world.node.machine.run_in_network("tc", "qdisc", "show", "dev", "eth0")


def asked_store(world: World) -> str:
    """Return what comes of a question to the object store: a status, or curl's complaint."""
    try:
        return world.node.machine.run_in_network(
            *("curl", "-sS", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}"),
            f"{object_store.ENDPOINT}/",
        )
    except errors.CommandFailed as error:
        return f"curl {error.status}"


def until_store_says(world: World, wanted: set[str]) -> str:
    deadline = time.monotonic() + QUICK_SECONDS
    while (said := asked_store(world)) not in wanted:
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    return said


@pytest.mark.parametrize(
    ("fault", "outcome"), [("refuses", "curl 7"), ("is silent", "curl 28"), ("answers 503", "503")]
)
def test_the_object_store_fails_and_is_back(world: World, fault: str, outcome: str) -> None:
    for name, argv in object_store.service().items():
        world.plane.start_service(name, argv)
    well = until_store_says(world, {"403", "400", "200"})
    with store_faults.failing(world.cluster.plane, fault):
        until_store_says(world, {outcome})
    until_store_says(world, {well})


def test_every_fault_of_the_store_is_tried() -> None:
    assert store_faults.FAULTS == ("refuses", "is silent", "answers 503")
