"""Links, addresses and routes between the control plane's network and the nodes'."""

from __future__ import annotations

import contextlib
from pathlib import Path

from lab import addresses, commands, errors
from lab.addresses import NodeAddresses
from lab.machine import Machine

NAME = "cp"
"""Name of the control plane's network namespace, as ``ip netns`` shows it."""

PATH = Path("/run/netns", NAME)

BRIDGE = "nodes0"

SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    # Duplicate address detection would cost a second per address and finds nothing here.
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    # Pods on one bridge reach each other through a Service only if its packets pass netfilter.
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/bridge/bridge-nf-call-ip6tables": "1",
}


def name_control_plane(machine: Machine, *, record: Path) -> None:
    """Give the control plane's network its name; *record* keeps which one it was.

    Raises LabError if a namespace of that name is in use: one cluster runs on a host.
    """
    if PATH.exists():
        if commands.run(["ip", "netns", "pids", NAME]).strip():
            raise errors.LabError(
                f"network namespace {NAME} is in use",
                hint="another cluster runs on this host; take it down first",
            )
        commands.run(["ip", "netns", "delete", NAME])
    record.write_text(str(Path(machine.network).stat().st_ino))
    commands.run(["ip", "netns", "attach", NAME, str(machine.running_pid)])


def forget_control_plane(*, record: Path) -> None:
    """Remove the name if it is the recorded namespace's, which goes with its last process."""
    if not record.exists():
        return
    if PATH.exists() and str(PATH.stat().st_ino) == record.read_text():
        commands.run(["ip", "netns", "delete", NAME])
    record.unlink()


def make_bridge(control_plane: Machine) -> None:
    """Make the bridge that all nodes hang on."""
    _batch(
        control_plane,
        f"link add {BRIDGE} type bridge forward_delay 0",
        f"addr add {addresses.CONTROL_PLANE_V4}/{addresses.NODES_V4.prefixlen} dev {BRIDGE}",
        f"addr add {addresses.CONTROL_PLANE_V6}/{addresses.NODES_V6.prefixlen} dev {BRIDGE} nodad",
        f"link set {BRIDGE} up",
        # kube-proxy rewrites the destination, but only of what has a route to begin with.
        f"route add {addresses.SERVICES_V4} dev {BRIDGE}",
        f"-6 route add {addresses.SERVICES_V6} dev {BRIDGE}",
    )


def connect(control_plane: Machine, node: Machine, where: NodeAddresses) -> None:
    """Give a node its link, its addresses, and default routes through the control plane.

    The control plane routes between the pods of different nodes, so that a node need not be told
    when another comes or goes.
    """
    link = _link(where)
    with contextlib.suppress(errors.CommandFailed):
        # What a node of this name left; its own end died with it, usually.
        control_plane.run_in_network("ip", "link", "delete", link)
    _batch(
        control_plane,
        f"link add {link} type veth peer name eth0 netns {node.running_pid}",
        f"link set {link} master {BRIDGE} up",
        f"route replace {where.pods_v4} via {where.v4}",
    )
    _batch(
        node,
        f"addr add {where.v4}/{addresses.NODES_V4.prefixlen} dev eth0",
        f"addr add {where.v6}/{addresses.NODES_V6.prefixlen} dev eth0 nodad",
        "link set eth0 up",
        f"route add default via {addresses.CONTROL_PLANE_V4}",
        f"-6 route add default via {addresses.CONTROL_PLANE_V6}",
    )
    _batch(control_plane, f"-6 route replace {where.pods_v6} via {where.v6}")


def cut(control_plane: Machine, where: NodeAddresses) -> None:
    """Take a node off the network at once: nothing that it says from now on gets anywhere.

    Its processes would otherwise say goodbye when they are killed: the kernel ends the connections
    of whoever dies. A machine without power does not.
    """
    control_plane.run_in_network("ip", "link", "set", _link(where), "down")


def _link(where: NodeAddresses) -> str:
    return f"to-{where.name}"


def _batch(machine: Machine, *lines: str) -> None:
    for line in lines:
        machine.run_in_network("ip", *line.split())
