"""Every address of the cluster, from the number of the node. All of them are private to it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

CONTROL_PLANE_V4 = "10.200.0.1"
CONTROL_PLANE_V6 = "fd00:10:200::1"
NODES_V4 = ipaddress.IPv4Network("10.200.0.0/24")
NODES_V6 = ipaddress.IPv6Network("fd00:10:200::/64")
PODS_V4 = ipaddress.IPv4Network("10.244.0.0/16")
PODS_V6 = ipaddress.IPv6Network("fd00:10:244::/48")
SERVICES_V4 = "10.96.0.0/16"
SERVICES_V6 = "fd00:10:96::/112"
API_SERVICE_V4 = "10.96.0.1"
API_SERVICE_V6 = "fd00:10:96::1"
DNS_V4 = "10.96.0.10"
DNS_V6 = "fd00:10:96::a"
API_PORT = 6443
MAXIMUM_NODES = 99

POD_CIDRS = f"{PODS_V4},{PODS_V6}"
SERVICE_CIDRS = f"{SERVICES_V4},{SERVICES_V6}"


@dataclass(frozen=True, kw_only=True)
class NodeAddresses:
    """What one node is called and where it and its pods are."""

    name: str
    v4: str
    v6: str
    pods_v4: str
    pods_v6: str

    @property
    def pod_cidrs(self) -> tuple[str, str]:
        return (self.pods_v4, self.pods_v6)


def of_node(number: int) -> NodeAddresses:
    """Return the addresses of node *number*, counted from 1."""
    if not 1 <= number <= MAXIMUM_NODES:
        raise ValueError(f"node number {number} is not within 1..{MAXIMUM_NODES}")
    return NodeAddresses(
        name=f"node{number}",
        v4=str(NODES_V4[10 + number]),
        v6=str(NODES_V6[0x10 + number]),
        pods_v4=str(list(PODS_V4.subnets(new_prefix=24))[number]),
        pods_v6=str(ipaddress.IPv6Network((int(PODS_V6[0]) + (number << 64), 64))),
    )


def number_of(name: str) -> int:
    """Return the number of the node called *name*."""
    digits = name.removeprefix("node")
    if digits == name or not digits.isdigit():
        raise ValueError(f"not a node's name: {name!r}")
    return int(digits)
