"""What ``architect-runtime`` prints for people. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from architect.core.durations import render

Fields = Mapping[str, Any]


def listing(pods: Sequence[Fields], unmanaged: Sequence[Fields]) -> str:
    """Return a table of the managed pods and, below it, of what could not be managed."""
    rows = [("POD", "STATE", "FOR", "IMAGE", "LAST SLEEP", "LAST WAKE", "REASON")]
    rows += [
        (
            _name(pod),
            pod["state"],
            _age(pod["since"]),
            _size(pod["image_bytes"]),
            _duration(pod["last_sleep_seconds"]),
            _duration(pod["last_wake_seconds"]),
            pod["reason"],
        )
        for pod in pods
    ]
    text = columns(rows) if pods else "no managed pods"
    if unmanaged:
        notes = [("UNMANAGED", "CONTAINER", "REASON", "MESSAGE")]
        notes += [(_name(n), n["container"], n["reason"], n["message"]) for n in unmanaged]
        text += "\n\n" + columns(notes)
    return text


def status(pod: Fields) -> str:
    """Return everything about one pod."""
    lines = {
        "pod": _name(pod),
        "uid": pod["pod"],
        "state": f"{pod['state']} for {_age(pod['since'])} ({pod['reason']})",
        "image": _size(pod["image_bytes"]),
        "held packets": pod["held_packets"],
        "last sleep": _duration(pod["last_sleep_seconds"]),
        "last wake": _duration(pod["last_wake_seconds"]),
    }
    if refused := pod.get("refused"):
        lines["refused"] = f"{refused['reason']}: {refused['message']}"
        if refused.get("hint"):
            lines["hint"] = refused["hint"]
    rows = [("CONTAINER", "STATE", "INIT", "IMAGE", "ID")]
    rows += [
        (
            name,
            c.get("state", pod["state"]),
            str(c["init_pid"] or "-"),
            _size(c.get("image_bytes", 0)),
            c["id"][:12],
        )
        for name, c in sorted(pod["containers"].items())
    ]
    return f"{pairs(lines)}\n\n{columns(rows)}"


def transition(answer: Fields) -> str:
    """Return the outcome of a sleep or wake."""
    pod, seconds = answer["status"], answer["duration_seconds"]
    # One that has never slept is awake already.
    after = "" if seconds is None else f" after {render(seconds)}"
    return f"{_name(pod)} is {pod['state']}{after}"


def event(fields: Fields) -> str:
    """Return one event as one line."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(fields.get("at", 0)))
    rest = " ".join(
        f"{key}={_value(key, value)}"
        for key, value in fields.items()
        if key not in ("event", "at", "pod", "steps") and value not in ("", None, [])
    )
    return f"{at} {fields.get('event', '?')} {fields.get('pod', '')} {rest}".rstrip()


def findings(state: str, found: Sequence[Fields]) -> str:
    """Return one line for each finding in a pod of *state* (empty: it is not managed)."""
    lines = [
        f"{'blocks' if one['is_blocking'] else 'note'}: {one['container']}: {one['reason']}: "
        f"{one['message']}" + (f"; {hint}" if (hint := one.get("hint")) else "")
        for one in found
    ]
    if state not in ("", "awake"):
        lines.append(f"the pod is {state}: nothing to look at")
    return "\n".join(lines) or "nothing keeps it from sleeping"


def checks(found: Sequence[Fields]) -> str:
    """Return one line for each check of the node."""
    return columns(
        [
            (
                f"{one['name']}:",
                "good" if one["is_good"] else "blocks" if one["is_blocking"] else "note",
                one["message"],
            )
            for one in found
        ]
    )


def pairs(fields: Fields) -> str:
    """Return names and values, aligned."""
    return columns([(f"{name}:", "-" if v is None else str(v)) for name, v in fields.items()])


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* as aligned columns; the last one is not padded."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _name(fields: Fields) -> str:
    name = fields.get("name") or fields.get("pod_name")
    return f"{fields['namespace']}/{name}" if name else str(fields["pod"])[:36]


def _age(since: float) -> str:
    return render(max(0.0, time.time() - since))


def _size(value: int) -> str:
    if not value:
        return "-"
    return f"{value / (1 << 20):.1f} MiB"


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else render(seconds)


def _value(key: str, value: Any) -> str:
    if key.endswith("_seconds") and isinstance(value, (int, float)):
        return render(value)
    if key.endswith("_bytes") and isinstance(value, int):
        return _size(value)
    text = str(value)
    return repr(text) if " " in text else text
