"""Errors as engines expect them of a runtime: runc's log file and runc's words.

containerd takes the message of the last line with level ``error`` from the file of ``--log``;
CRI-O and Podman read stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time

from architect.shim.cli import Call


def error(call: Call, message: str) -> None:
    """Tell the engine why *call* fails."""
    _write(call, "error", message)
    print(message, file=sys.stderr)


def warning(call: Call, message: str) -> None:
    """Leave a trace of what went wrong without failing the call; stderr stays the container's."""
    _write(call, "warning", message)


def _write(call: Call, level: str, message: str) -> None:
    path = call.global_options.get("log", "").removeprefix("file:")
    if not path or path.startswith(("journald:", "syslog:")):
        return  # crun's other forms: the line would need their protocols
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if call.global_options.get("log-format") == "json":
        line = json.dumps({"level": level, "msg": message, "time": stamp})
    else:
        line = f"time={json.dumps(stamp)} level={level} msg={json.dumps(message)}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        return  # the lower runtime will say what is wrong with its log
    try:
        os.write(fd, line.encode() + b"\n")
    finally:
        os.close(fd)
