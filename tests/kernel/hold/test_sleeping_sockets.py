"""What happens to each kind of packet that reaches a sleeping application: real CRIU, real sockets.

The pure decisions are in tests/unit/shim/packets/test_gate.py; here is what a user sees of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from architect.shim.packets.nfqueue import read_status
from kernel.packets.topology import (
    CLIENT,
    FAMILY,
    POD,
    Topology,
    accepted,
    connected,
    received,
    until,
)
from support import runtime, traffic
from support.realpod import Node

TALKER = runtime.CHECKOUT / "tests/support/apps/talker.py"
PORT = 8080
VERSIONS = (4, 6)
LOOPBACK = {4: "127.0.0.1", 6: "::1"}

Start = Callable[..., runtime.Container]


@pytest.fixture
def start(node: Node, topology: Topology) -> Start:
    def started(*words: str, policy: dict[str, Any] | None = None) -> runtime.Container:
        netns = f"/proc/{os.getpid()}/fd/{topology.pod.fileno()}"
        argv = [runtime.SYSTEM_PYTHON, "-Su", str(TALKER), *words]
        container = node.run(argv, netns=netns, policy=policy)
        container.until("serving")
        return container

    return started


def ask(sock: socket.socket, text: str) -> None:
    sock.send(f"echo {text}\n".encode())


def heard(sock: socket.socket, text: str) -> Callable[[], bool]:
    return lambda: received(sock) == f"{text}\n".encode()


def talking(topology: Topology, version: int, **options: Any) -> socket.socket:
    """A connection on which a question was answered."""
    sock = topology.connect(version, port=PORT, **options)
    until(partial(connected, sock), what="a connection")
    ask(sock, "first")
    until(heard(sock, "first"), what="the first answer")
    return sock


def assert_no_resets(topology: Topology) -> None:
    for part in (topology.client, topology.pod):
        counters = traffic.tcp_counters(part)
        assert (counters["AttemptFails"], counters["OutRsts"]) == (0, 0), counters


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sidecar_that_talks_over_loopback_wakes_it_and_is_answered(
    node: Node, topology: Topology, start: Start, version: int
) -> None:
    start()
    sidecar = {"source": topology.pod, "to": LOOPBACK[version]}
    old = talking(topology, version, **sidecar)
    node.sleep()
    ask(old, "again")
    until(heard(old, "again"), what="an answer on the old connection")
    node.sleep()
    talking(topology, version, **sidecar)
    until(lambda: node.status()["state"] == "awake", what="awake")
    assert_no_resets(topology)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_peer_that_closes_wakes_nobody_and_is_heard_at_the_wake(
    node: Node, topology: Topology, start: Start, version: int
) -> None:
    container = start()
    leaving = talking(topology, version)
    node.sleep()
    leaving.close()
    until(lambda: node.status()["held_packets"] >= 1, what="its FIN waits")
    assert node.status()["state"] == "asleep"
    node.wake()
    container.until("a client said goodbye")


def test_a_peer_that_resets_wakes_nobody_and_is_heard_at_the_wake(
    node: Node, topology: Topology, start: Start
) -> None:
    container = start()
    leaving = talking(topology, 4)
    node.sleep()
    leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    leaving.close()
    until(lambda: node.status()["held_packets"] >= 1, what="its RST waits")
    assert node.status()["state"] == "asleep"
    node.wake()
    container.until("a client reset")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_large_upload_into_a_sleeping_connection_arrives_whole(
    node: Node, topology: Topology, start: Start, version: int
) -> None:
    start()
    sock = talking(topology, version)
    node.sleep()
    data = random.Random(1).randbytes(3 << 20)
    sock.setblocking(True)
    sock.settimeout(traffic.PATIENCE_SECONDS)
    sock.sendall(b"take %d\n" % len(data) + data)
    assert sock.recv(65536).decode().strip() == hashlib.sha256(data).hexdigest()
    assert_no_resets(topology)


@pytest.mark.parametrize("version", VERSIONS)
def test_closed_ports_answer_as_ever_and_wake_nobody(
    node: Node, topology: Topology, start: Start, version: int
) -> None:
    start()
    node.sleep()
    sock = topology.connect(version, port=PORT + 1)
    datagrams = topology.udp(version)
    datagrams.connect((POD[version], PORT + 1))
    datagrams.send(b"x")
    datagrams.setblocking(False)

    def refused(each: socket.socket) -> bool:
        return each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED

    until(lambda: refused(sock), what="the reset of a closed TCP port")
    until(lambda: refused(datagrams), what="port unreachable of a closed UDP port")
    assert node.status()["state"] == "asleep"
    assert node.status()["held_packets"] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_neighbour_discovery_and_echo_work_without_waking(
    node: Node, topology: Topology, start: Start, version: int
) -> None:
    start()
    node.sleep()
    with topology.client.entered():
        pinged = subprocess.run(
            [runtime.SYSTEM_PYTHON, "-Ic", PING, POD[version]],
            capture_output=True,
            text=True,
            timeout=runtime.DEADLINE_SECONDS,
        )
    assert pinged.returncode == 0, pinged.stderr
    assert node.status()["state"] == "asleep"


PING = """
import socket, struct, sys
six = ":" in sys.argv[1]
family, proto = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)
sock = socket.socket(family, socket.SOCK_RAW, proto)
sock.settimeout(90)
echo = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 7, 7)
if not six:
    words = struct.unpack("!4H", echo)
    echo = echo[:2] + struct.pack("!H", 0xFFFF - sum(words) % 0xFFFF) + echo[4:]
sock.sendto(echo, (sys.argv[1], 0))
while True:
    data = sock.recv(1500)
    data = data if six else data[20:]
    if data[0] == (129 if six else 0):
        break
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_that_speaks_to_a_sleeping_client_is_heard(
    node: Node, topology: Topology, start: Start, version: int
) -> None:
    server = topology.keep(topology.client.open_socket(FAMILY[version], socket.SOCK_STREAM))
    server.bind((CLIENT[version], 5432))
    server.listen()
    server.setblocking(False)
    resolver = topology.udp(version)
    resolver.bind((CLIENT[version], 5432))
    container = start(CLIENT[version], "5432")
    database = topology.keep(accepted(server))
    container.until("connected to the database")
    asked: dict[str, Any] = {}
    resolver.settimeout(traffic.PATIENCE_SECONDS)
    for _ in range(2):
        kind, sender = resolver.recvfrom(100)
        asked[kind.decode()] = sender
    node.sleep()
    database.send(b"wake up")
    container.until("the database said wake up")
    # Answers to what it asked before it fell asleep.
    for which in ("connected", "open"):
        node.sleep()
        resolver.sendto(b"10.0.0.1", asked[which])
        container.until(f"the {which} resolver socket heard 10.0.0.1")
    # A stranger's datagram to the connected one is refused, as the kernel would.
    node.sleep()
    stranger = topology.udp(version)
    stranger.connect((POD[version], asked["connected"][1]))
    stranger.send(b"x")
    until(
        lambda: stranger.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED,
        what="port unreachable",
    )
    assert node.status()["state"] == "asleep"
    database.close()
    until(lambda: node.status()["held_packets"] >= 1, what="its FIN waits")
    assert node.status()["state"] == "asleep"
    node.wake()
    container.until("the database said goodbye")


def test_a_socket_whose_packets_cannot_wait_keeps_it_awake(
    node: Node, topology: Topology, start: Start
) -> None:
    start()
    sock = talking(topology, 4)
    sock.send(b"raw\n")
    until(lambda: received(sock) == b"open\n", what="a raw socket")
    with pytest.raises(AssertionError, match="a raw socket, whose packets cannot wait"):
        node.sleep()  # which tries again while it is only busy
    assert node.status()["state"] == "awake"
    sock.send(b"unraw\n")
    until(lambda: received(sock) == b"closed\n", what="none any more")
    node.sleep()


def test_a_connection_accepted_while_draining_keeps_it_awake_until_it_is_answered(
    node: Node, topology: Topology, start: Start
) -> None:
    """The application is stopped with a connection in its backlog and its request unread."""
    container = start()
    (app,) = [p for p in _tree(container.pid) if b"talker" in _command(p)][-1:]
    os.kill(app, signal.SIGSTOP)
    until(lambda: _is_stopped(app), what="all its threads have stopped")
    sock = topology.connect(4, port=PORT)
    until(partial(connected, sock), what="the kernel's handshake")
    assert not node.try_sleep(patience_seconds=0.2), "not accepted yet"
    ask(sock, "hello")
    assert not node.try_sleep(patience_seconds=0.2)
    node.begin_sleep()
    os.kill(app, signal.SIGCONT)
    until(heard(sock, "hello"), what="the answer, whether it slept meanwhile or not")


def _tree(pid: int) -> list[int]:
    found = [pid]
    for child in runtime.children(pid):
        found += _tree(child)
    return found


def _is_stopped(pid: int) -> bool:
    states = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/stat") as file:
                states.append(file.read().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return set(states) == {"T"}


def _command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_to_a_pod_whose_keeper_knew_nothing_are_not_refused(
    node: Node, topology: Topology, start: Start, version: int
) -> None:
    """The keeper was killed after the dump and before it wrote what it held."""
    start()
    old = talking(topology, version)
    node.sleep()
    state = node.pod_directory / "pod.json"
    state.write_text('{"version": 1, "phase": "falling", "since": 0, "network": null}')
    node.kill_keeper()
    assert node.status()["state"] == "asleep"
    ask(old, "still there?")
    until(heard(old, "still there?"), what="an answer on a connection that slept")
    node.sleep()
    state.write_text("garbage")
    node.kill_keeper()
    talking(topology, version)
    assert_no_resets(topology)


def test_what_waits_for_a_pod_that_cannot_be_restored_does_not_wake_it_again(
    node: Node, topology: Topology, start: Start
) -> None:
    """Policy ``fail``: its image is broken, clients repeat their requests, one attempt is made."""
    start(policy={"on_restore_failure": "fail", "migrate": "false"})
    node.sleep()
    images = node.pod_directory / "app/image"
    broken = next(images.glob("core-*.img"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-8])
    clients = [topology.connect(4, port=PORT)]
    node.until_state("failed")
    clients += [topology.connect(version, port=PORT) for version in (4, 6, 4, 6)]
    until(lambda: node.status()["held_packets"] >= 5, what="all requests wait")
    # The first one's repetition, a second later, has been judged by then, too.
    status = read_status(topology.pod)
    assert status is not None
    until(
        lambda: (now := read_status(topology.pod)) and now.last_identifier > status.last_identifier,
        what="a repetition",
    )
    assert node.log().count("cannot be restored") == 1
    node.kill_keeper()
    assert node.status()["state"] == "failed"
    assert node.log().count("cannot be restored") == 1
    broken.write_bytes(whole)
    node.wake()
    for sock in clients:
        until(partial(connected, sock), what="a request that has waited is served")
    assert_no_resets(topology)


def test_with_the_policy_retry_attempts_keep_their_distance(
    node: Node, topology: Topology, start: Start
) -> None:
    start(policy={"on_restore_failure": "retry", "migrate": "false"})
    node.sleep()
    images = node.pod_directory / "app/image"
    broken = next(images.glob("core-*.img"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-8])
    began = time.monotonic()
    clients = [topology.connect(4, port=PORT)]

    def third_attempt() -> bool:
        # New requests all the time.
        if len(clients) < 200:
            clients.append(topology.connect(4, port=PORT))
        return node.log().count("cannot be restored") >= 3

    until(third_attempt, what="the third attempt")
    assert time.monotonic() - began >= 1.0 + 5.0
    broken.write_bytes(whole)
    node.wake()
    for sock in clients:
        until(partial(connected, sock), what="a request that has waited is served")
