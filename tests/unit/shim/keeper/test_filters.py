"""Which calls a chain of seccomp filters denies whatever their arguments are."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.shim.keeper import filters
from architect.shim.keeper.filters import Judge, denied

X86_64, I386 = 0xC000003E, 0x40000003
MOUNT, MOUNT_I386 = 165, 21
ALLOW, LOG, TRACE, NOTIFY = 0x7FFF0000, 0x7FFC0000, 0x7FF00000, 0x7FC00000
ERRNO, TRAP, KILL, KILL_PROCESS = 0x00050001, 0x00030000, 0, 0x80000000

LOAD, EQUAL, GREATER, SET, JUMP, RETURN, RETURN_A = 0x20, 0x15, 0x25, 0x45, 0x05, 0x06, 0x16
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16


def program(*instructions: tuple[int, ...]) -> bytes:
    """Return a program of (code, k) or (code, k, if true, if false)."""
    return b"".join(
        struct.pack("=HBBI", code, *(ways or (0, 0)), k) for code, k, *ways in instructions
    )


def passing(*programs: bytes, calls: tuple[str, ...] = ("mount",)) -> tuple[str, ...]:
    return Judge(frozenset(calls), "x86_64").passing(programs)


def listing(allowed: int, otherwise: int = ERRNO) -> bytes:
    """As libseccomp writes a list with one call: another architecture kills."""
    return program(
        (LOAD, ARCHITECTURE),
        (EQUAL, X86_64, 0, 4),
        (LOAD, NUMBER),
        (EQUAL, allowed, 0, 1),
        (RETURN, ALLOW),
        (RETURN, otherwise),
        (RETURN, KILL),
    )


def test_a_list_lets_through_what_is_in_it() -> None:
    assert passing(listing(MOUNT)) == ("mount",)
    assert passing(listing(1)) == ()
    assert passing(listing(1), calls=("bpf", "mount", "setns")) == ()


@pytest.mark.parametrize("action", [ERRNO, TRAP, KILL, KILL_PROCESS])
def test_what_denies(action: int) -> None:
    assert passing(listing(1, otherwise=action)) == ()


@pytest.mark.parametrize("action", [ALLOW, LOG, TRACE, NOTIFY])
def test_what_somebody_may_let_happen(action: int) -> None:
    assert passing(listing(1, otherwise=action)) == ("mount",)


def test_one_filter_of_a_chain_is_enough() -> None:
    everything = program((RETURN, ALLOW))
    assert passing(everything, listing(1)) == ()
    assert passing(listing(1), everything) == ()
    assert passing(everything, everything) == ("mount",)


def test_arguments_are_whatever_they_may_be() -> None:
    for test in (EQUAL, GREATER, SET):
        by_argument = program(
            (LOAD, ARGUMENT), (test, 0x1234, 0, 1), (RETURN, ALLOW), (RETURN, ERRNO)
        )
        assert passing(by_argument) == ("mount",)
    never = program((LOAD, ARGUMENT), (EQUAL, 1, 0, 1), (RETURN, KILL), (RETURN, ERRNO))
    assert passing(never) == ()


def test_calls_of_32_bit_programs_count_as_well() -> None:
    only_native = program(
        (LOAD, ARCHITECTURE), (EQUAL, X86_64, 0, 1), (RETURN, ERRNO), (RETURN, ALLOW)
    )
    assert passing(only_native) == ("mount",)
    other_number = program(
        (LOAD, ARCHITECTURE),
        (EQUAL, X86_64, 3, 0),
        (LOAD, NUMBER),
        (EQUAL, MOUNT_I386, 0, 1),
        (RETURN, ALLOW),
        (RETURN, ERRNO),
    )
    assert passing(other_number) == ("mount",)


def test_registers_and_memory_are_followed() -> None:
    # M[3] = nr; X = 1; A = M[3] + X; A == 166 ? allow : deny
    add = program(
        (LOAD, NUMBER),
        (0x02, 3),
        (0x01, 1),
        (0x60, 3),
        (0x0C, 0),
        (EQUAL, MOUNT + 1, 0, 1),
        (RETURN, ALLOW),
        (RETURN, ERRNO),
    )
    assert passing(add) == ("mount",)
    by_register = program((0x00, ALLOW), (RETURN_A, 0))
    assert passing(by_register) == ("mount",)
    assert passing(program((0x00, ERRNO), (0x07, 0), (0x87, 0), (RETURN_A, 0))) == ()


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\6",
        program((LOAD, NUMBER)),
        program((JUMP, 0xFFFFFFFF)),
        program((EQUAL, 0, 255, 255)),
        program((0x40, 0), (RETURN, ERRNO)),
        program((0x60, 99), (RETURN, ERRNO)),
        program((LOAD, ARGUMENT), (RETURN_A, 0)),
    ],
)
def test_what_is_no_program_denies_nothing(broken: bytes) -> None:
    assert passing(broken) == ("mount",)


def test_a_program_that_takes_too_long_denies_nothing_and_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each argument doubles what the accumulator may be.
    doubling = [
        step
        for bit in range(10)
        for step in ((LOAD, ARGUMENT), (EQUAL, bit, 0, 3), (0x60, 0), (0x44, 1 << bit), (0x02, 0))
    ]
    slow = program(*doubling, (RETURN, ERRNO))
    monkeypatch.setattr(filters, "MOST_STEPS", 1000)
    assert passing(slow) == ("mount",)
    monkeypatch.undo()
    assert passing(slow) == ()


def test_on_other_machines_nothing_is_looked_for() -> None:
    assert Judge(frozenset({"mount"}), "riscv64").passing((program((RETURN, ALLOW)),)) == ()
    arm = Judge(frozenset({"mount"}), "aarch64")
    assert arm.passing((program((RETURN, ALLOW)),)) == ("mount",)


def profile(default: str, *rules: tuple[str, str], args: bool = False) -> dict[str, Any]:
    more = {"args": [{"index": 0}]} if args else {}
    return {
        "defaultAction": f"SCMP_ACT_{default}",
        "syscalls": [{"names": [n], "action": f"SCMP_ACT_{a}", **more} for n, a in rules],
    }


def test_what_a_profile_denies() -> None:
    everything = denied(profile("ERRNO"))
    assert {"mount", "bpf", "setns"} <= everything
    assert denied(profile("ERRNO", ("mount", "ALLOW"))) == everything - {"mount"}
    assert denied(profile("ERRNO", ("mount", "ALLOW"), args=True)) == everything - {"mount"}
    assert denied(profile("KILL", ("mount", "NOTIFY"))) == everything - {"mount"}
    assert denied(profile("ALLOW")) == frozenset()
    assert denied(profile("ALLOW", ("mount", "ERRNO"), ("read", "ERRNO"))) == {"mount"}
    assert denied(profile("ALLOW", ("mount", "ERRNO"), args=True)) == frozenset()
    assert denied({}) == frozenset()


@given(st.binary(max_size=80))
def test_any_bytes_are_judged(data: bytes) -> None:
    assert passing(data) in ((), ("mount",))
