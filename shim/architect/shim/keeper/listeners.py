"""Which sockets of a pod belong to which managed container, and what that means (pure)."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from architect.api.policy import ContainerPolicy, ProbeKind, WakeOn
from architect.shim.packets import gate
from architect.shim.packets.sockdiag import Socket
from architect.shim.standin import ports

LISTEN: Final = 10
"""TCP_LISTEN, <net/tcp_states.h>."""
ESTABLISHED: Final = 1
IPPROTO: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


@dataclass(frozen=True, kw_only=True)
class Listening:
    """The listening sockets of a pod's managed containers, as gate and stand-in want them."""

    gate: tuple[gate.Listener, ...]
    standin: Mapping[str, tuple[ports.Listener, ...]]
    """TCP listeners by container."""
    probe_ports: frozenset[int]


def of_containers(
    sockets: Sequence[Socket], containers: Mapping[str, tuple[ContainerPolicy, set[int]]]
) -> Listening:
    """Assign *sockets* to containers by the socket inodes that their processes hold."""
    found: list[gate.Listener] = []
    standin: dict[str, tuple[ports.Listener, ...]] = {}
    for each in sockets:
        owner = next((n for n, (_, inodes) in containers.items() if each.inode in inodes), None)
        if owner is None or not (_takes_requests(each) or each.protocol == "udp"):
            continue
        policy = containers[owner][0]
        found.append(
            gate.Listener(
                protocol=each.protocol,
                address=each.local,
                port=each.local_port,
                v6only=each.v6only,
                wakes=policy.wake_on is not WakeOn.EXEC
                and each.local_port not in policy.shadow_ports,
                connected=each.protocol == "udp" and each.remote_port != 0,
            )
        )
        if each.protocol == "tcp":
            standin[owner] = (*standin.get(owner, ()), _standin_listener(found[-1]))
    listening = tuple(found)
    return Listening(
        gate=listening,
        standin=standin,
        probe_ports=_probe_ports(
            {name: policy for name, (policy, _) in containers.items()}, listening
        ),
    )


def from_knowledge(
    knowledge: gate.Knowledge, policies: Mapping[str, ContainerPolicy]
) -> dict[str, tuple[ports.Listener, ...]]:
    """Return the stand-in's listeners from what a restarted keeper has read back.

    Which container had which port is not known any more; it matters only for the kinds of probes,
    so a port goes to the container that has a probe on it, else to the first.
    """
    found: dict[str, tuple[ports.Listener, ...]] = {}
    for listener in knowledge.listeners:
        if listener.protocol != "tcp" or not policies:
            continue
        owner = next(
            (
                name
                for name, policy in policies.items()
                if any(probe.port == listener.port for probe in policy.probes)
            ),
            next(iter(policies)),
        )
        found[owner] = (*found.get(owner, ()), _standin_listener(listener))
    return found


def counted_ports(listening: Sequence[gate.Listener]) -> frozenset[tuple[int, int]]:
    """Return the (protocol, port) pairs whose traffic is activity."""
    return frozenset(
        (IPPROTO[entry.protocol], entry.port)
        for entry in listening
        if entry.wakes and not entry.connected
    )


def _probe_ports(
    policies: Mapping[str, ContainerPolicy], listening: Sequence[gate.Listener]
) -> frozenset[int]:
    """Every TCP port is one: kubelet also runs hooks, and a policy may predate its pod's probes."""
    named = {
        probe.port
        for policy in policies.values()
        for probe in policy.probes
        if probe.kind is not ProbeKind.EXEC and probe.port is not None
    }
    return frozenset(named | {entry.port for entry in listening if entry.protocol == "tcp"})


def _takes_requests(found: Socket) -> bool:
    return found.protocol == "tcp" and found.state == LISTEN


def _standin_listener(listener: gate.Listener) -> ports.Listener:
    return ports.Listener(
        family=socket.AF_INET6 if ":" in listener.address else socket.AF_INET,
        address=listener.address,
        port=listener.port,
        v6only=listener.v6only,
    )
