from __future__ import annotations

import ipaddress

import pytest

from lab import addresses


def test_nodes_and_their_pods_have_addresses_of_both_families_that_never_meet() -> None:
    nodes = [addresses.of_node(number) for number in range(1, addresses.MAXIMUM_NODES + 1)]
    assert len({node.v4 for node in nodes}) == len(nodes)
    assert len({node.v6 for node in nodes}) == len(nodes)
    assert len({node.pods_v4 for node in nodes}) == len(nodes)
    assert len({node.pods_v6 for node in nodes}) == len(nodes)
    assert addresses.CONTROL_PLANE_V4 not in {node.v4 for node in nodes}
    for node in nodes:
        assert ipaddress.IPv4Network(node.pods_v4).subnet_of(addresses.PODS_V4)
        assert ipaddress.IPv6Network(node.pods_v6).subnet_of(addresses.PODS_V6)


def test_a_nodes_name_gives_its_number_back() -> None:
    assert addresses.number_of(addresses.of_node(7).name) == 7


@pytest.mark.parametrize("number", [0, addresses.MAXIMUM_NODES + 1])
def test_a_number_outside_of_the_range_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=str(number)):
        addresses.of_node(number)


@pytest.mark.parametrize("name", ["node", "control-plane", "nodex"])
def test_what_is_not_a_nodes_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a node"):
        addresses.number_of(name)
