"""What seccomp filters let through, whatever the arguments of a call are (pure).

A filter is a program of classic BPF over ``struct seccomp_data`` (seccomp(2)): forward jumps only.
It is run with the number of a call and an architecture; where it looks at arguments, both ways are
gone. Profiles of ``config.json`` are compared by a list of calls that no container needs, and that
every engine's default profile has always denied to those without the capability for them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

_X86_64: Final = 0xC000003E
_I386: Final = 0x40000003
_AARCH64: Final = 0xC00000B7
"""AUDIT_ARCH_… of <linux/audit.h>."""

_CALLS: Final = {
    "mount": (165, 21, 40),
    "umount2": (166, 52, 39),
    "pivot_root": (155, 217, 41),
    "move_mount": (429, 429, 429),
    "fsopen": (430, 430, 430),
    "setns": (308, 346, 268),
    "unshare": (272, 310, 97),
    "init_module": (175, 128, 105),
    "finit_module": (313, 350, 273),
    "delete_module": (176, 129, 106),
    "kexec_load": (246, 283, 104),
    "reboot": (169, 88, 142),
    "swapon": (167, 87, 224),
    "bpf": (321, 357, 280),
    "perf_event_open": (298, 336, 241),
    "keyctl": (250, 288, 219),
    "add_key": (248, 286, 217),
    "request_key": (249, 287, 218),
    "open_by_handle_at": (304, 342, 265),
    "userfaultfd": (323, 374, 282),
    "settimeofday": (164, 79, 170),
    "acct": (163, 51, 89),
}
"""Numbers on x86-64, i386 and arm64."""
_ARCHITECTURES: Final = {
    "x86_64": ((_X86_64, 0), (_I386, 1)),
    "aarch64": ((_AARCH64, 2),),
}
"""Of a machine: what it runs, and where its numbers stand."""

_DENIALS: Final = frozenset(
    f"SCMP_ACT_{name}" for name in ("ERRNO", "KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP")
)
_DENYING: Final = frozenset({0x00000000, 0x80000000, 0x00030000, 0x00050000})
"""SECCOMP_RET_KILL_THREAD, _KILL_PROCESS, _TRAP, _ERRNO: nobody lets the call happen after all."""
_ACTION: Final = 0xFFFF0000

MOST_STEPS: Final = 2_000_000
"""Of one image, a few seconds; a chain of an engine's profile takes some 10,000. Beyond it nothing
counts as denied."""
MOST_KNOWN: Final = 32
MOST_REMEMBERED_BYTES: Final = 64 << 10
"""Chains that are remembered for the next image; of an engine's profile one has 5 KB."""
_known: dict[tuple[str, tuple[bytes, ...]], tuple[str, ...]] = {}
_WORDS: Final = 16
_MASK: Final = 0xFFFFFFFF
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4

_Value = int | None
"""Of a register; None: it depends on the call's arguments."""
_State = tuple[int, _Value, _Value, tuple[_Value, ...]]


def denied(profile: Mapping[str, Any]) -> frozenset[str]:
    """Return which calls of the list *profile* denies whatever their arguments are."""
    let: set[str] = set()
    refused: set[str] = set()
    for rule in profile.get("syscalls") or ():
        names = rule.get("names") or ()
        if rule.get("action") not in _DENIALS:
            let.update(names)
        elif not rule.get("args"):
            refused.update(names)
    if profile.get("defaultAction") in _DENIALS:
        refused.update(_CALLS)
    return frozenset(_CALLS.keys() & refused - let)


class Judge:
    """Looks through the filters of one image, in which most chains are alike."""

    def __init__(self, calls: frozenset[str], machine: str) -> None:
        self._calls = sorted(calls)
        self._name = " ".join([machine, *self._calls])
        self._architectures = _ARCHITECTURES.get(machine, ())
        self._steps = MOST_STEPS
        self._passing: dict[tuple[bytes, ...], tuple[str, ...]] = {}
        self._denied: dict[tuple[bytes, int, int], bool] = {}

    def passing(self, programs: tuple[bytes, ...]) -> tuple[str, ...]:
        """Return which of the calls a chain of filters does not deny in every case."""
        known = self._passing.get(programs)
        if known is None:
            known = self._passing[programs] = self._looked_up(programs)
        return known

    def _looked_up(self, programs: tuple[bytes, ...]) -> tuple[str, ...]:
        # Most pods of a node have their engine's own profile.
        key = self._name, programs
        if (known := _known.get(key)) is not None:
            return known
        found = tuple(name for name in self._calls if not self._is_denied(programs, _CALLS[name]))
        if self._steps >= 0 and sum(map(len, programs)) <= MOST_REMEMBERED_BYTES:
            if len(_known) >= MOST_KNOWN:
                _known.clear()
            _known[key] = found
        return found

    def _is_denied(self, programs: tuple[bytes, ...], numbers: tuple[int, int, int]) -> bool:
        return all(
            any(self._denies(program, architecture, numbers[at]) for program in programs)
            for architecture, at in self._architectures
        )

    def _denies(self, program: bytes, architecture: int, number: int) -> bool:
        key = program, architecture, number
        known = self._denied.get(key)
        if known is None:
            known = self._denied[key] = self._run(program, architecture, number)
        return known

    def _run(self, program: bytes, architecture: int, number: int) -> bool:
        """Whether *program* denies a call, whatever its arguments are."""
        instructions = list(struct.iter_unpack("=HBBI", program[: len(program) & ~7]))
        waiting: list[_State] = [(0, 0, 0, (0,) * _WORDS)]
        seen = set(waiting)
        while waiting:
            state = waiting.pop()
            self._steps -= 1
            for following in _step(instructions, state, architecture, number):
                if isinstance(following, int):
                    if following & _ACTION not in _DENYING:
                        return False
                elif following is None or self._steps < 0:
                    return False
                elif following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return True


def _step(
    instructions: list[tuple[int, int, int, int]], state: _State, architecture: int, number: int
) -> Iterator[_State | int | None]:
    """Yield what can follow *state*: others, an action, or None for what is no program."""
    at, accumulator, index, memory = state
    if at >= len(instructions):
        yield None
        return
    code, if_true, if_false, k = instructions[at]
    match code & 7:
        case 0 | 1:  # LD, LDX
            value: _Value
            match code & 0xE0:
                case 0x20:  # ABS: of the call
                    value = {_NUMBER_AT: number, _ARCHITECTURE_AT: architecture}.get(k)
                case 0x00:  # IMM
                    value = k
                case 0x60 if k < _WORDS:  # MEM
                    value = memory[k]
                case 0x80:  # LEN of struct seccomp_data
                    value = 64
                case _:
                    yield None
                    return
            is_index = code & 7 == 1
            yield at + 1, accumulator if is_index else value, value if is_index else index, memory
        case 2 | 3 if k < _WORDS:  # ST, STX
            value = accumulator if code & 7 == 2 else index
            yield at + 1, accumulator, index, (*memory[:k], value, *memory[k + 1 :])
        case 4:  # ALU
            operand = index if code & 8 else k
            yield at + 1, _computed(code & 0xF0, accumulator, operand), index, memory
        case 5:  # JMP
            for distance in _ways(code, accumulator, index if code & 8 else k, if_true, if_false):
                yield at + 1 + distance, accumulator, index, memory
        case 6:  # RET
            result = accumulator if code & 0x18 == 0x10 else k
            yield None if result is None else result
        case 7:  # TAX, TXA
            if code & 0x80:
                yield at + 1, index, index, memory
            else:
                yield at + 1, accumulator, accumulator, memory
        case _:
            yield None


def _ways(
    code: int, accumulator: _Value, operand: _Value, if_true: int, if_false: int
) -> tuple[int, ...]:
    kind = code & 0xF0
    if kind == 0x00 and operand is not None:  # JA
        return (operand,)
    if accumulator is None or operand is None:
        return (if_true, if_false)
    taken = {
        0x10: accumulator == operand,
        0x20: accumulator > operand,
        0x30: accumulator >= operand,
        0x40: bool(accumulator & operand),
    }.get(kind)
    return (if_true, if_false) if taken is None else (if_true if taken else if_false,)


def _computed(kind: int, left: _Value, right: _Value) -> _Value:
    if kind == 0x80 and left is not None:  # NEG
        return -left & _MASK
    if left is None or right is None:
        return None
    match kind:
        case 0x00:
            return left + right & _MASK
        case 0x10:
            return left - right & _MASK
        case 0x20:
            return left * right & _MASK
        case 0x40:
            return left | right
        case 0x50:
            return left & right
        case 0x60:
            return left << right & _MASK if right < 32 else None
        case 0x70:
            return left >> right if right < 32 else None
        case 0xA0:
            return left ^ right
    return None  # DIV, MOD: nobody's filter has them
