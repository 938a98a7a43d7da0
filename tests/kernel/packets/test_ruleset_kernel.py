"""What the rules count, and how they come and go."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from architect.shim.packets import nftables, talkers
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
from kernel.packets.topology import (
    CLIENT,
    HOST,
    POD,
    Topology,
    accepted,
    connected,
    received,
    run,
    until,
)

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
        until(lambda: received(peer) == b"question", what="the question")
        peer.send(b"answer")
        until(lambda: received(client) == b"answer", what="the answer")
        # To its end: what comes late is not to be counted with what comes next.
        peer.shutdown(socket.SHUT_WR)
        until(lambda: received(client) == b"", what="the end of the answer")
        client.close()
        until(lambda: received(peer) == b"", what="the end of the question")
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
    server = topology.udp_server(version, port=UDP_PORT)
    client = topology.udp(version)

    def send() -> None:
        for _ in range(10):
            client.sendto(bytes(100), (POD[version], UDP_PORT))
            # Neighbour discovery, and a busy kernel's deferred work, come before delivery.
            until(lambda: received(server) == bytes(100), what="the datagram")

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
            client.settimeout(90)
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


def test_a_kernel_that_cannot_note_talkers_is_found_out_and_counts(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        # As with an expression that it does not know, the kernel answers ENOENT.
        without.setattr(nftables, "update", lambda name: nftables.lookup(f"no-{name}"))
        found = detect(topology.pod)
    assert tables(topology) == ""
    assert found == replace(detect(topology.pod), names_talkers=False)
    ruleset = Ruleset(topology.pod, support=found)
    try:
        ruleset.apply(Plan(state=State.AWAKE))
        assert set(difference(ruleset, lambda: talk(topology, 4, port=PORT))) == {"remote"}
        assert ruleset.last_talker() is None
    finally:
        ruleset.close()


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


@pytest.mark.parametrize("version", VERSIONS)
def test_the_last_talker_is_named_whatever_its_protocol(
    topology: Topology, counting: Ruleset, support: Support, version: int
) -> None:
    assert support.names_talkers
    assert counting.last_talker() is None
    # Not of what `remote` counts: a node, the pod itself, a shadow port, nobody's port.
    talk(topology, version, port=PORT, source="host")
    talk(topology, version, port=PORT, source="pod")
    talk(topology, version, port=SHADOW)
    talk(topology, version, port=PORT + 1)
    assert counting.last_talker() is None
    topology.udp_server(version, port=UDP_PORT)
    with topology.udp(version) as client:
        client.sendto(b"x", (POD[version], UDP_PORT))
    until(counting.last_talker, what="the datagram is noted")
    first = counting.last_talker()
    assert first is not None
    assert (first.address, first.port, first.sources) == (CLIENT[version], UDP_PORT, 1)
    assert 0 <= first.seconds_ago < 60
    # Only the order is told by time: ticks of the kernel, not how fast this machine is.
    until(
        lambda: (found := counting.last_talker()) is not None and found.seconds_ago > 0.1,
        what="the entry grows older",
    )
    talk(topology, version, port=PORT)
    second = counting.last_talker()
    assert second is not None
    assert (second.address, second.port, second.sources) == (CLIENT[version], PORT, 1)


def test_the_youngest_talker_of_both_families_is_the_last(
    topology: Topology, counting: Ruleset
) -> None:
    server = {v: topology.udp_server(v, port=UDP_PORT) for v in VERSIONS}

    def say(version: int) -> str:
        with topology.udp(version) as client:
            client.sendto(b"x", (POD[version], UDP_PORT))
        until(lambda: received(server[version]) == b"x", what="the datagram")
        found = counting.last_talker()
        assert found is not None
        until(
            lambda: (f := counting.last_talker()) is not None and f.seconds_ago > 0.1,
            what="the entry grows older",
        )
        return found.address

    assert [say(v) for v in (4, 6, 4)] == [CLIENT[4], CLIENT[6], CLIENT[4]]
    last = counting.last_talker()
    assert last is not None and last.sources == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_a_flood_of_sources_is_bounded_loses_nothing_and_hides_nobody_for_long(
    topology: Topology, counting: Ruleset, version: int
) -> None:
    more = talkers.BOUND + 50
    first = int(ipaddress.ip_address("10.77.8.1" if version == 4 else "fd77:0:0:0:8::1"))
    flood = [str(ipaddress.ip_address(first + i)) for i in range(more)]
    kind = "-4" if version == 4 else "-6"
    host_bits = "32" if version == 4 else "128"
    _addresses(topology, kind, [f"{a}/{host_bits}" for a in flood])
    run("ip", "-n", topology.names["pod"], kind, "route", "add", "default", "dev", "eth0")
    server = topology.udp_server(version, port=UDP_PORT)
    family = socket.AF_INET if version == 4 else socket.AF_INET6

    def say(address: str) -> None:
        with topology.client.open_socket(family, socket.SOCK_DGRAM) as client:
            client.bind((address, 0))
            client.sendto(address.encode(), (POD[version], UDP_PORT))

    def heard(address: str) -> bool:
        return received(server) == address.encode()

    def flooded() -> None:
        for address in flood:
            say(address)
            until(partial(heard, address), what=f"the datagram from {address}")

    assert difference(counting, flooded)["remote"].packets == more
    full = counting.last_talker()
    assert full is not None
    assert full.sources == talkers.BOUND
    assert full.address in flood[: talkers.BOUND]
    # The look emptied the set: the next one is named.
    say(CLIENT[version])
    until(partial(heard, CLIENT[version]), what="the datagram")
    last = counting.last_talker()
    assert last is not None
    assert (last.address, last.sources) == (CLIENT[version], 1)


def _addresses(topology: Topology, kind: str, addresses: list[str]) -> None:
    lines = "".join(
        f"address add {a} dev eth0{' nodad' if kind == '-6' else ''}\n" for a in addresses
    )
    subprocess.run(
        ["ip", "-n", topology.names["client"], kind, "-batch", "-"],
        input=lines,
        check=True,
        capture_output=True,
        text=True,
    )


def test_talkers_stay_known_across_states_and_rules_made_again(
    topology: Topology, counting: Ruleset, support: Support
) -> None:
    talk(topology, 4, port=PORT)
    counting.apply(Plan(state=State.HOLDING))
    counting.apply(Plan(state=State.AWAKE))
    # As the next keeper does.
    following = Ruleset(topology.pod, support=support)
    try:
        following.apply(Plan(state=State.AWAKE))
        last = following.last_talker()
        assert last is not None
        assert (last.address, last.port) == (CLIENT[4], PORT)
    finally:
        following.close()


def test_rules_of_an_older_keeper_learn_to_name_and_those_without_name_nobody(
    topology: Topology, support: Support
) -> None:
    older = Ruleset(topology.pod, support=Support(support.mechanism, support.families))
    newer = Ruleset(topology.pod, support=support)
    try:
        older.apply(Plan(state=State.AWAKE))
        assert newer.last_talker() is None
        talk(topology, 4, port=PORT)
        assert older.counters().remote.packets
        assert older.last_talker() is None
        newer.apply(Plan(state=State.AWAKE))
        talk(topology, 4, port=PORT)
        last = newer.last_talker()
        assert last is not None and last.address == CLIENT[4]
        # And back: an older keeper's rules leave the set alone.
        again = Ruleset(topology.pod, support=Support(support.mechanism, support.families))
        again.apply(Plan(state=State.AWAKE))
        assert set(difference(again, lambda: talk(topology, 4, port=PORT))) == {"remote"}
        again.close()
    finally:
        older.close()
        newer.close()
