"""What the rules count, and how they come and go."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

import pytest

from architect.shim.packets.ruleset import (
    Count,
    Counters,
    Mechanism,
    Plan,
    Ruleset,
    State,
    Support,
    detect,
)
from kernel.packets.topology import HOST, POD, Topology, accepted, connected, run, until

VERSIONS = (4, 6)
PORT, SHADOW, UDP_PORT = 8080, 9090, 5353


def tables(topology: Topology) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", topology.names["pod"], "nft", "list", "tables"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def talk(topology: Topology, version: int, *, port: int, source: str = "client") -> None:
    """One connection with a request and an answer."""
    server = topology.listen(version, port=port)
    netns = {"client": topology.client, "host": topology.host, "pod": topology.pod}[source]
    client = topology.connect(version, port=port, source=netns)
    until(lambda: connected(client), what="a connection")
    with accepted(server) as peer:
        client.send(b"question")
        until(lambda: peer.recv(100) == b"question", what="the question")
        peer.send(b"answer")
    client.close()
    server.close()


def difference(ruleset: Ruleset, act: Callable[[], None]) -> dict[str, Count]:
    before = ruleset.counters()
    act()
    after = ruleset.counters()
    return {
        name: Count(
            getattr(after, name).packets - getattr(before, name).packets,
            getattr(after, name).bytes - getattr(before, name).bytes,
        )
        for name in Counters.__dataclass_fields__
        if getattr(after, name) != getattr(before, name)
    }


@pytest.fixture
def counting(ruleset: Ruleset) -> Ruleset:
    ruleset.apply(
        Plan(
            state=State.AWAKE,
            shadow_ports=frozenset({SHADOW}),
            node_addresses=frozenset(HOST.values()),
            listening=frozenset({(socket.IPPROTO_TCP, PORT), (socket.IPPROTO_UDP, UDP_PORT)}),
        )
    )
    return ruleset


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_are_counted_by_where_they_come_from_and_go_to(
    topology: Topology, counting: Ruleset, version: int
) -> None:
    def seen(*, port: int = PORT, source: str = "client") -> set[str]:
        return set(difference(counting, lambda: talk(topology, version, port=port, source=source)))

    assert seen() == {"remote"}
    assert seen(source="host") == {"node"}
    assert seen(port=SHADOW) == {"shadow"}
    assert seen(port=PORT + 1) == {"other"}
    # Over loopback the answers come in too, to a port that nobody listens on.
    assert seen(source="pod") == {"local", "other"}


@pytest.mark.parametrize("version", VERSIONS)
def test_datagrams_are_counted_with_their_bytes(
    topology: Topology, counting: Ruleset, version: int
) -> None:
    topology.udp_server(version, port=UDP_PORT)
    client = topology.udp(version)

    def send() -> None:
        for _ in range(10):
            client.sendto(bytes(100), (POD[version], UDP_PORT))

    header = 28 if version == 4 else 48
    assert difference(counting, send) == {"remote": Count(10, 10 * (100 + header))}


@pytest.mark.parametrize("version", VERSIONS)
def test_counters_go_on_across_states(topology: Topology, counting: Ruleset, version: int) -> None:
    talk(topology, version, port=PORT)
    before = counting.counters()
    assert before.remote.packets
    counting.apply(Plan(state=State.HOLDING))
    counting.apply(Plan(state=State.AWAKE))
    assert counting.counters().remote == before.remote


@pytest.mark.parametrize("version", VERSIONS)
def test_a_noted_probe_is_counted_apart(
    topology: Topology, counting: Ruleset, version: int
) -> None:
    server = topology.listen(version, port=PORT)
    client = topology.host.open_socket(
        socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM
    )
    with client:
        client.bind((HOST[version], 0))
        counting.note_probe(*client.getsockname()[:2])
        counting.note_probe(*client.getsockname()[:2])

        def probe() -> None:
            client.settimeout(10)
            client.connect((POD[version], PORT))
            topology.keep(accepted(server))

        assert set(difference(counting, probe)) == {"probe"}


def test_rules_are_made_again_from_any_state_and_removed_without_a_trace(
    topology: Topology, ruleset: Ruleset
) -> None:
    plan = Plan(state=State.AWAKE, watch=True, node_addresses=frozenset(HOST.values()))
    for _ in range(2):
        ruleset.apply(plan)
        ruleset.apply(Plan(state=State.HOLDING))
        assert tables(topology).split("\n")[:2] == ["table ip architect", "table ip6 architect"]
        ruleset.remove()
        assert tables(topology) == ""
        ruleset.remove()
    assert ruleset.counters() == Counters()


def test_detection_leaves_nothing_behind(topology: Topology) -> None:
    found = detect(topology.pod)
    assert found.mechanism is not Mechanism.DROP
    assert tables(topology) == ""


def test_a_kernel_without_queues_drops_and_counts(topology: Topology) -> None:
    families = detect(topology.pod).families
    ruleset = Ruleset(topology.pod, support=Support(Mechanism.DROP, families))
    try:
        ruleset.apply(Plan(state=State.HOLDING))
        topology.listen(port=PORT)
        client = topology.connect(port=PORT)
        until(lambda: ruleset.counters().held.packets, what="the request is counted")
        assert not connected(client)
        ruleset.apply(Plan(state=State.AWAKE))
        until(lambda: connected(client), what="the request comes again")
    finally:
        ruleset.close()


def test_many_addresses_and_ports_fit_into_one_transaction(
    topology: Topology, ruleset: Ruleset
) -> None:
    addresses = {f"10.{i // 250}.{i % 250}.1" for i in range(5000)}
    addresses |= {f"fd00:{i:x}::1" for i in range(5000)}
    ruleset.apply(
        Plan(
            state=State.AWAKE,
            watch=True,
            shadow_ports=frozenset(range(1000, 2000)),
            node_addresses=frozenset(addresses),
        )
    )
    assert "architect" in tables(topology)


def test_rules_that_somebody_flushed_are_made_again(topology: Topology, ruleset: Ruleset) -> None:
    ruleset.apply(Plan(state=State.AWAKE))
    run("ip", "netns", "exec", topology.names["pod"], "nft", "flush", "ruleset")
    assert tables(topology) == ""
    ruleset.apply(Plan(state=State.HOLDING))
    topology.listen(port=PORT)
    topology.connect(port=PORT)
    until(lambda: ruleset.counters().held.packets, what="the request meets the new rules")


def test_sets_follow_the_plan_without_new_rules(topology: Topology, counting: Ruleset) -> None:
    counting.apply(Plan(state=State.AWAKE, listening=frozenset({(socket.IPPROTO_TCP, PORT + 1)})))
    assert set(difference(counting, lambda: talk(topology, 4, port=PORT + 1))) == {"remote"}
    assert set(difference(counting, lambda: talk(topology, 4, port=SHADOW))) == {"other"}
    assert set(difference(counting, lambda: talk(topology, 4, port=PORT + 1, source="host"))) == {
        "remote"
    }
