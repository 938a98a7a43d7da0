"""A plan as a table for people: who is saved by when, who is not, why, and what would help."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from architect.daemon.spot.inputs import Pod, Request
from architect.daemon.spot.need import Limit, Need
from architect.daemon.spot.planner import Outcome, Plan, Saved, Stored
from architect.daemon.spot.remedies import Remedy

HEAD = ("POD", "PRIORITY", "STATE", "TO SEND", "SAVED BY")
_RIGHT = frozenset({"PRIORITY", "TO SEND"})

_LIMITS = {
    Limit.DUMP: "the dump",
    Limit.DISK: "the disk",
    Limit.SEALING: "the processor, which hashes and encrypts,",
    Limit.UPLOAD: "the upload",
    Limit.CAPTURES: "what each capture takes whatever its size",
    Limit.OBJECTS: "what each object takes whatever its size",
}


def text(
    node: str, request: Request, plan: Plan, need: Need, remedies: Sequence[Remedy | None]
) -> str:
    """Return the table of *node*: what it needs, then its pods in the order of their end."""
    lines = [
        f"node {node}: {_usable(request)}; {_needed(need)}",
        f"at once: {plan.manner.captures} captures, {plan.objects} objects sent",
        "",
        *_columns([HEAD, *_rows(plan, remedies)]),
    ]
    return "\n".join(lines) + "\n"


def remedy_text(remedy: Remedy) -> str:
    """Return what would make a pod fit, each way by itself."""
    ways = []
    if remedy.seconds_more is not None:
        ways.append(f"{_seconds(remedy.seconds_more)} more")
    if remedy.upload_factor is not None:
        ways.append(f"{remedy.upload_factor:g} times the upload rate")
    if remedy.pods_fewer is not None:
        pods = "pod" if remedy.pods_fewer == 1 else "pods"
        ways.append(f"{remedy.pods_fewer} {pods} fewer before it")
    return f"needs {', or '.join(ways)}" if ways else "neither time nor upload rate would help"


def _usable(request: Request) -> str:
    seconds = request.deadline_seconds
    if not seconds > 0:
        return "no time is left"
    return f"{math.floor(seconds)} s can be used" if math.isfinite(seconds) else "no deadline"


def _needed(need: Need) -> str:
    if not need.pods:
        return "nothing has to be saved"
    pods = "its pod" if need.pods == 1 else f"all {need.pods} pods"
    what = f"{pods} ({_size(need.bytes)}) would take"
    if need.seconds is None:
        return f"{what} for ever"
    said = f"{what} {_seconds(need.seconds)}"
    return said if need.limit is None else f"{said}; {_LIMITS[need.limit]} limits it"


def _rows(plan: Plan, remedies: Sequence[Remedy | None]) -> Iterator[tuple[str, ...]]:
    pairs = list(zip(plan.outcomes, remedies, strict=True))
    for outcome, remedy in sorted(pairs, key=lambda pair: _when(pair[0])):
        yield (*_columns_of(outcome.pod), _said(outcome, remedy))


def _when(outcome: Outcome) -> float:
    if isinstance(outcome.verdict, Stored):
        return 0.0
    return outcome.verdict.by_seconds if isinstance(outcome.verdict, Saved) else math.inf


def _columns_of(pod: Pod) -> tuple[str, ...]:
    size = _size(pod.sent_bytes) if pod.sent_bytes else "–"
    return pod.name, str(pod.priority), pod.state.value, size


def _said(outcome: Outcome, remedy: Remedy | None) -> str:
    verdict = outcome.verdict
    if isinstance(verdict, Stored):
        return "is there"
    if isinstance(verdict, Saved):
        by = _seconds(verdict.by_seconds)
        return by if verdict.yields_to is None else f"{by}, while {verdict.yields_to} does not fit"
    said = f"does not fit: {verdict.reason}: {verdict.text}"
    return said if remedy is None else f"{said}; {remedy_text(remedy)}"


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for cell, width, name in zip(row, widths, HEAD, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _seconds(seconds: float) -> str:
    # Rounded up: nothing is said to be there before it is.
    return f"{math.ceil(seconds)} s" if seconds >= 10 else f"{math.ceil(seconds * 10) / 10:g} s"


def _size(number: int) -> str:
    if number >= 1 << 30:
        return f"{number / 2**30:.1f} GiB"
    return f"{math.ceil(number / 2**20)} MiB"
