"""What the sockets of a pod's managed containers mean to the gate, the stand-in and the counters.

Of a container that runs, the kernel tells its sockets; of one that sleeps, its image does.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from architect.api.policy import ContainerPolicy, ProbeKind, WakeOn
from architect.shim.packets import gate
from architect.shim.packets.connections import ImageSockets
from architect.shim.packets.gate import Knowledge, Listener, SavedConnection
from architect.shim.packets.headers import Flow
from architect.shim.packets.sockdiag import LISTEN, Socket
from architect.shim.standin import ports

IPPROTO: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


@dataclass(frozen=True, kw_only=True)
class Member:
    """One managed container's sockets."""

    policy: ContainerPolicy
    listeners: tuple[Listener, ...]
    connections: Mapping[Flow, SavedConnection]
    """Empty while it runs: then its connections are the kernel's business."""

    @classmethod
    def running(
        cls, policy: ContainerPolicy, sockets: Sequence[Socket], inodes: Collection[int]
    ) -> Member:
        """Of all *sockets* in the namespace, take those that its processes hold."""
        found = tuple(
            Listener(
                protocol=each.protocol,
                address=each.local,
                port=each.local_port,
                v6only=each.v6only,
                wakes=policy.wake_on is not WakeOn.EXEC
                and each.local_port not in policy.shadow_ports,
                peer=(each.remote, each.remote_port)
                if each.protocol == "udp" and each.remote_port
                else None,
            )
            for each in sockets
            if each.inode in inodes
            and each.local_port
            and (each.protocol == "udp" or each.state == LISTEN)
        )
        return cls(policy=policy, listeners=found, connections={})

    @classmethod
    def asleep(cls, policy: ContainerPolicy, image: ImageSockets) -> Member:
        """Take what its image says."""
        return cls(policy=policy, listeners=image.listeners, connections=image.connections)

    @property
    def standin(self) -> tuple[ports.Listener, ...]:
        """Where a stand-in answers for it."""
        return tuple(
            ports.Listener(
                family=socket.AF_INET6 if ":" in each.address else socket.AF_INET,
                address=each.address,
                port=each.port,
                v6only=each.v6only,
            )
            for each in self.listeners
            if each.protocol == "tcp"
        )


def knowledge(members: Sequence[Member]) -> Knowledge:
    """Return what the gate must know of a pod with these members."""
    listeners = tuple(each for member in members for each in member.listeners)
    connections: dict[Flow, SavedConnection] = {}
    for member in members:
        connections.update(member.connections)
    return Knowledge(
        listeners=listeners,
        connections=connections,
        probe_ports=_probe_ports(members, listeners),
    )


def counted_ports(members: Sequence[Member]) -> frozenset[tuple[int, int]]:
    """Return the (protocol, port) pairs whose traffic is activity."""
    return frozenset(
        (IPPROTO[each.protocol], each.port)
        for member in members
        for each in member.listeners
        if each.wakes and not each.connected
    )


def _probe_ports(members: Sequence[Member], listeners: Sequence[gate.Listener]) -> frozenset[int]:
    """Every TCP port is one: kubelet also runs hooks, and a policy may predate its pod's probes."""
    named = {
        probe.port
        for member in members
        for probe in member.policy.probes
        if probe.kind is not ProbeKind.EXEC and probe.port is not None
    }
    return frozenset(named | {each.port for each in listeners if each.protocol == "tcp"})
