"""Kubelet told from the node's other processes, by real sockets of real processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from architect.shim.packets.addresses import NodeAddresses
from architect.shim.packets.gate import Origin
from architect.shim.packets.headers import SYN, Kind, Packet
from architect.shim.packets.nfqueue import NfQueue
from architect.shim.packets.origin import Origins
from architect.shim.packets.ruleset import Plan, Ruleset, State
from architect.shim.packets.watch import Watch
from kernel.packets.topology import (
    CLIENT,
    HOST,
    POD,
    Topology,
    accepted,
    connected,
    run,
    until,
)

VERSIONS = (4, 6)
PORT, KUBELET_PORT = 8080, 20250

PROCESS = """
import socket, sys
listeners = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
kept = {}
print("up", flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "connect":
        address, port = rest
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setblocking(False)
        sock.connect_ex((address, int(port)))
        kept[str(sock.getsockname()[1])] = sock
        print(sock.getsockname()[1], flush=True)
    else:
        kept.pop(rest[0]).close()
        print("closed", flush=True)
"""


class Process:
    """A process of the host that connects when told to."""

    def __init__(self, topology: Topology, *, listen: tuple[int, ...] = ()) -> None:
        self.child = subprocess.Popen(
            ["ip", "netns", "exec", topology.names["host"], sys.executable, "-I", "-S", "-c",
             PROCESS, *map(str, listen)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self.read() == "up"

    def read(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline().strip()

    def ask(self, command: str) -> str:
        assert self.child.stdin is not None
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()
        return self.read()

    def connect(self, version: int) -> int:
        return int(self.ask(f"connect {POD[version]} {PORT}"))

    def stop(self) -> None:
        self.child.kill()
        self.child.communicate()


@pytest.fixture
def kubelet(topology: Topology) -> Iterator[Process]:
    made = Process(topology, listen=(KUBELET_PORT,))
    yield made
    made.stop()


@pytest.fixture
def other(topology: Topology) -> Iterator[Process]:
    made = Process(topology)
    yield made
    made.stop()


@pytest.fixture
def origins(topology: Topology) -> Iterator[Origins]:
    made = Origins(netns=topology.host, kubelet_port=KUBELET_PORT)
    yield made
    made.close()


def request(version: int, source_port: int, source: str = "") -> Packet:
    return Packet(Kind.TCP, version, source or HOST[version], source_port, POD[version], PORT, SYN)


@pytest.fixture
def watch(topology: Topology, ruleset: Ruleset, origins: Origins) -> Iterator[Watch]:
    queue = NfQueue.bind(topology.pod, fail_open=True)
    ruleset.apply(Plan(state=State.AWAKE, watch=True, node_addresses=origins.addresses.current()))
    yield Watch(queue, ruleset=ruleset, find_origin=origins.find)
    queue.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_watching_tells_probes_from_other_connections_and_delays_none(
    topology: Topology,
    ruleset: Ruleset,
    watch: Watch,
    kubelet: Process,
    other: Process,
    version: int,
) -> None:
    server = topology.listen(version, port=PORT)
    kubelet.connect(version)
    until(lambda: watch.pump() or watch.probes, what="kubelet's request is seen")
    topology.keep(accepted(server))
    # TCP repeats a request that is looked at later than after a second.
    assert watch.probes >= 1 and (watch.real, watch.last_real) == (0, None)
    counters = ruleset.counters()
    assert counters.probe.packets and not counters.node.packets
    port = other.connect(version)
    until(lambda: watch.pump() or watch.real, what="the other's request is seen")
    topology.keep(accepted(server))
    assert watch.last_real is not None
    assert (watch.last_real.source, watch.last_real.source_port) == (HOST[version], port)
    assert ruleset.counters().node.packets
    # Traffic from elsewhere is not even looked at.
    client = topology.connect(version, port=PORT)
    until(lambda: connected(client), what="a connection that nobody looks at")
    assert watch.pump() == 0
    assert ruleset.counters().remote.packets


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_watcher_nobody_waits(
    topology: Topology, ruleset: Ruleset, watch: Watch, kubelet: Process, version: int
) -> None:
    watch.detach().close()
    server = topology.listen(version, port=PORT)
    kubelet.connect(version)
    topology.keep(accepted(server))
    assert ruleset.counters().node.packets


@pytest.mark.parametrize("version", VERSIONS)
def test_origins_of_waiting_requests(
    topology: Topology,
    ruleset: Ruleset,
    origins: Origins,
    kubelet: Process,
    other: Process,
    version: int,
) -> None:
    # Nobody reads the queue: the requests stay in SYN_SENT.
    ruleset.apply(Plan(state=State.HOLDING))
    probe, real = kubelet.connect(version), other.connect(version)
    assert origins.find(request(version, probe), False) is Origin.KUBELET
    assert origins.find(request(version, real), False) is Origin.NODE
    assert origins.find(request(version, 1), False) is Origin.NODE, "masqueraded"
    assert origins.find(request(version, 1, CLIENT[version]), False) is Origin.REMOTE
    other.ask(f"close {real}")
    assert origins.find(request(version, real), True) is Origin.GONE
    assert origins.errors == 0


def test_a_restarted_kubelet_is_found_again(
    topology: Topology, ruleset: Ruleset, origins: Origins, kubelet: Process
) -> None:
    ruleset.apply(Plan(state=State.HOLDING))
    assert origins.kubelet.pid == kubelet.child.pid
    kubelet.stop()
    assert origins.kubelet.pid is None
    successor = Process(topology, listen=(KUBELET_PORT,))
    try:
        until(lambda: origins.kubelet.pid == successor.child.pid, what="the new kubelet is found")
        port = successor.connect(4)
        assert origins.find(request(4, port), False) is Origin.KUBELET
    finally:
        successor.stop()


@pytest.mark.parametrize(("version", "address"), [(4, "10.77.0.99"), (6, "fd77::99")])
def test_a_new_address_is_known_at_once(topology: Topology, version: int, address: str) -> None:
    length = {4: 24, 6: 64}[version]
    with contextlib.closing(NodeAddresses(topology.host)) as addresses:
        generation = addresses.generation
        assert HOST[version] in addresses and address not in addresses
        assert "127.0.0.1" not in addresses and "::1" not in addresses
        host = topology.names["host"]
        run("ip", "-n", host, "address", "add", f"{address}/{length}", "dev", "br0")
        assert address in addresses
        assert addresses.generation > generation
        run("ip", "-n", host, "address", "delete", f"{address}/{length}", "dev", "br0")
        assert address not in addresses
