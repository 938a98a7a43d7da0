"""Who asks for a connection to a pod: kubelet, another process of the node, or somebody else.

A request from a node address may be kubelet's probe, a host process, or traffic that the node
masquerades (NodePort, hairpin). While it waits at the gate its sender's socket, if it is a
socket of this host, is in SYN_SENT and can be looked up by the packet's own addresses:

- the socket is there and kubelet's: a probe;
- it is there and another's: a host process, real;
- there is none: masqueraded (the socket has other addresses) and real, or a host process that
  gave up. Looked at as it arrives it cannot have given up, so it is real. Looked at late (the
  keeper was away) the two cannot be told apart: GONE. A living sender repeats its request within a
  second or two, and that one is seen as it arrives.
"""

from __future__ import annotations

from .addresses import NodeAddresses
from .gate import Origin
from .headers import Packet
from .netns import Netns
from .owners import KUBELET_PORT, Kubelet
from .sockdiag import SockDiag, Socket


def classify(*, from_node: bool, sender: Socket | None, kubelets: bool, late: bool) -> Origin:
    """Decide from what was found.

    `sender` is the host's socket with the packet's addresses, `kubelets` whether kubelet has it.
    """
    if not from_node:
        return Origin.REMOTE
    if sender is not None and sender.inode:
        return Origin.KUBELET if kubelets else Origin.NODE
    return Origin.GONE if late else Origin.NODE


class Origins:
    """Finds the origin of requests; one for all pods of a node."""

    def __init__(self, *, netns: Netns | None = None, kubelet_port: int = KUBELET_PORT) -> None:
        """Look at the host's namespace `netns`, by default the caller's own. OSError."""
        self._diag = SockDiag.of(netns) if netns is not None else SockDiag.own()
        #: Shared with whoever makes the rules.
        self.addresses = NodeAddresses(netns)
        self.kubelet = Kubelet(self._diag, port=kubelet_port)
        #: Look-ups that the kernel refused; such a request counts as real.
        self.errors = 0

    def find(self, packet: Packet, late: bool) -> Origin:
        """Who sent a connection request; call it while the request waits."""
        try:
            from_node = packet.source in self.addresses
            sender = self._sender(packet) if from_node else None
            kubelets = sender is not None and self.kubelet.owns(sender.inode)
        except OSError:
            # Not knowing must not lose a request: it wakes.
            self.errors += 1
            return Origin.NODE
        return classify(from_node=from_node, sender=sender, kubelets=kubelets, late=late)

    def _sender(self, packet: Packet) -> Socket | None:
        return self._diag.find_tcp(
            local=packet.source,
            local_port=packet.source_port,
            remote=packet.destination,
            remote_port=packet.destination_port,
        )

    def close(self) -> None:
        """Close all sockets."""
        self._diag.close()
        self.addresses.close()
