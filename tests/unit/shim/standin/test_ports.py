from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.shim.standin.ports import Listener, needed


def v4(address: str = "0.0.0.0", port: int = 80) -> Listener:
    return Listener(family=socket.AF_INET, address=address, port=port)


def v6(address: str = "::", port: int = 80, *, v6only: bool = False) -> Listener:
    return Listener(family=socket.AF_INET6, address=address, port=port, v6only=v6only)


@pytest.mark.parametrize(
    ("given_listeners", "expected"),
    [
        ([v4(), v4()], {v4()}),
        ([v4("10.0.0.7"), v4()], {v4()}),
        ([v4("10.0.0.7"), v4("10.0.0.8")], {v4("10.0.0.7"), v4("10.0.0.8")}),
        ([v4(), v6()], {v6()}),
        ([v4(), v6(v6only=True)], {v4(), v6(v6only=True)}),
        ([v6("fd00::7"), v6(v6only=True)], {v6(v6only=True)}),
        ([v4(), v6(port=81)], {v4(), v6(port=81)}),
    ],
)
def test_a_socket_that_a_wider_one_covers_is_not_needed(
    given_listeners: list[Listener], expected: set[Listener]
) -> None:
    assert set(needed(given_listeners)) == expected


ANY = st.builds(
    Listener,
    family=st.just(socket.AF_INET6),
    address=st.sampled_from(["::", "fd00::1", "fd00::2"]),
    port=st.integers(1, 3),
    v6only=st.booleans(),
) | st.builds(
    Listener,
    family=st.just(socket.AF_INET),
    address=st.sampled_from(["0.0.0.0", "10.0.0.1"]),
    port=st.integers(1, 3),
)


@given(st.lists(ANY))
def test_every_listener_is_covered_and_no_needed_one_by_another(listeners: list[Listener]) -> None:
    kept = needed(listeners)
    assert all(any(wide.covers(each) for wide in kept) for each in listeners)
    assert not any(a.covers(b) for a in kept for b in kept if a is not b)


def test_an_address_is_written_as_people_write_it() -> None:
    assert (str(v4()), str(v6("fd00::1"))) == ("0.0.0.0:80", "[fd00::1]:80")
