"""What the sockets of managed containers mean to gate, stand-in and counters."""

from __future__ import annotations

import socket

from architect.api.policy import ContainerPolicy, Probe, ProbeKind, WakeOn
from architect.shim.keeper.listeners import Member, counted_ports, knowledge
from architect.shim.packets import sockdiag
from architect.shim.packets.connections import ImageSockets
from architect.shim.packets.gate import Listener, SavedConnection
from architect.shim.packets.headers import Flow
from architect.shim.packets.sockdiag import Socket
from architect.shim.standin import ports

SOCKETS = (
    Socket("tcp", 6, sockdiag.LISTEN, "::", 80, "::", 0, 0, 128, 10),
    Socket("tcp", 4, sockdiag.LISTEN, "0.0.0.0", 9090, "0.0.0.0", 0, 0, 128, 11),
    Socket("tcp", 4, sockdiag.LISTEN, "0.0.0.0", 22, "0.0.0.0", 0, 0, 128, 99),
    Socket("tcp", 4, sockdiag.ESTABLISHED, "10.0.0.2", 80, "10.0.0.9", 5000, 0, 0, 12),
    Socket("udp", 4, sockdiag.CLOSE, "0.0.0.0", 53, "0.0.0.0", 0, 0, 0, 13),
    Socket("udp", 4, sockdiag.ESTABLISHED, "10.0.0.2", 40000, "10.0.0.53", 53, 0, 0, 14),
    Socket("udp", 4, sockdiag.CLOSE, "0.0.0.0", 0, "0.0.0.0", 0, 0, 0, 15),
)
OURS = {10, 11, 12, 13, 14, 15}


def test_of_a_running_container_only_its_own_sockets_that_take_requests_count() -> None:
    policy = ContainerPolicy(shadow_ports=(9090,))
    member = Member.running(policy, SOCKETS, OURS)
    assert member.listeners == (
        Listener(protocol="tcp", address="::", port=80),
        Listener(protocol="tcp", address="0.0.0.0", port=9090, wakes=False),
        Listener(protocol="udp", address="0.0.0.0", port=53),
        Listener(protocol="udp", address="10.0.0.2", port=40000, peer=("10.0.0.53", 53)),
    )
    assert counted_ports([member]) == {(socket.IPPROTO_TCP, 80), (socket.IPPROTO_UDP, 53)}
    assert member.standin == (
        ports.Listener(family=socket.AF_INET6, address="::", port=80),
        ports.Listener(family=socket.AF_INET, address="0.0.0.0", port=9090),
    )


def test_nothing_that_only_exec_wakes_counts() -> None:
    member = Member.running(ContainerPolicy(wake_on=WakeOn.EXEC), SOCKETS, OURS)
    assert not any(each.wakes for each in member.listeners)
    assert counted_ports([member]) == frozenset()


def test_the_gate_knows_all_members_and_every_port_that_may_be_probed() -> None:
    flow = Flow("10.0.0.9", 5000, "10.0.0.2", 80)
    saved = SavedConnection(receive_next=1, window=2)
    asleep = Member.asleep(
        ContainerPolicy(probes=(Probe(kind=ProbeKind.HTTP, port=8081),)),
        ImageSockets({flow: saved}, (Listener(protocol="tcp", address="0.0.0.0", port=70),)),
    )
    found = knowledge([asleep, Member.running(ContainerPolicy(), SOCKETS, OURS)])
    assert [each.port for each in found.listeners] == [70, 80, 9090, 53, 40000]
    assert found.connections == {flow: saved}
    assert found.probe_ports == {70, 80, 8081, 9090}
