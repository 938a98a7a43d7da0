"""At which of a sandbox's addresses sockets wait: what its tables say."""

from __future__ import annotations

import pytest

from architect.shim.gvisor import listeners

TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
UDP = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
REST = "00000000:00000000 00:00000000 00000000     0        0 18 1 0000000000000000"


def line(own: str, state: str, *, other: str = "00000000:0000") -> str:
    return f"   0: {own} {other} {state} {REST}\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (line("0500000A:1F90", "0A"), ["10.0.0.5:8080"]),
        (line("0500000A:1F90", "07"), ["10.0.0.5:8080"]),
        (line("0500000A:1F90", "01", other="0600000A:0050"), []),
        (line("0500000A:1F90", "06", other="0600000A:0050"), []),
        (line("00000000:1F90", "0A"), []),
        (line("0100007F:1F90", "0A"), []),
        (line("0200007F:1F90", "07"), []),
        (line("FB0000E0:14E9", "07"), []),  # mDNS: a group is everywhere the same
        (line("0000000000000000FFFF00000500000A:1F90", "0A"), ["10.0.0.5:8080"]),
        (line("0000000000000000FFFF00000100007F:1F90", "0A"), []),
        (line("00000000000000000000000000000000:1F90", "0A"), []),
        (line("00000000000000000000000001000000:1F90", "0A"), []),
        (line("000000FD000000000000000005000000:1F90", "0A"), ["[fd00::5]:8080"]),
        (line("000080FE000000000000000005000000:1F90", "07"), ["[fe80::5]:8080"]),
    ],
)
def test_a_socket_that_waits_at_an_address_of_the_pod_is_found(text: str, found: list[str]) -> None:
    assert listeners.own(TCP + text) == found
    assert listeners.own(TCP + text + UDP + text) == found, "each place once"


def test_they_come_in_order() -> None:
    lines = [line(f"0500000A:{port:04X}", "0A") for port in (9090, 80, 8080)]
    lines.append(line("000000FD000000000000000005000000:0050", "0A"))
    assert listeners.own(TCP + "".join(lines)) == [
        "10.0.0.5:80", "10.0.0.5:8080", "10.0.0.5:9090", "[fd00::5]:80",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "cat: /proc/net/udp6: No such file or directory",
        "0: 0500000A:1F90",
        line("0500000A", "0A"),
        line("0500000A:", "0A"),
        line("0500000A:0000", "07"),
        line("0500000A:10000", "0A"),
        line("0500:1F90", "0A"),
        line("0500000G:1F90", "0A"),
        line("0500000A:1F9G", "0A"),
        line("0500000A:1F90", "0a"),
    ],
)
def test_what_is_no_line_of_a_table_is_left_out(text: str) -> None:
    assert listeners.own(TCP + text) == []


def test_tables_are_told_from_complaints() -> None:
    assert listeners.are_tables(TCP + line("0500000A:1F90", "0A"))
    assert listeners.are_tables("cat: /proc/net/tcp6: No such file or directory\n" + UDP)
    assert not listeners.are_tables('executing processes: exec: "cat": not found in $PATH')
